//! Result of sending the stream to bridges.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use butlr_event::EventType;
use butlr_simulate::journal::{ClosedJournal, JournalWriter, RecordedOutcome, RunHeader};
use butlr_simulate::ledger::{RunLedger, RunSummary};
use butlr_simulate::oracle::OracleVerdict;
use butlr_simulate::progress::ProgressOutput;
use butlr_simulate::sender::{self, RunLimits, SendOutcome, SendPace, SenderTimings, StopSignal};
use butlr_simulate::verify::{self, DuplicatePolicy, Property, VerificationReport, VerifierKafka};

use super::bridges::BridgeReplicas;
use super::{event_count, is_long_run, stream};
use crate::harness::{TestRecord, read_records};
use crate::real_kafka::{kafka_address, ten_topics};

const CONNECTIONS: usize = 64;

/// Attempts without a known result after a restart: those in flight, and as many again that find a
/// broken connection.
const MAX_UNKNOWN: u64 = 2 * CONNECTIONS as u64;

/// Events that a bridge may count between the last reading and its end.
const MAX_UNSEEN: u64 = 100;

/// Kafka responds within milliseconds here, so after this time an event is known to be stored.
const KNOWN_AFTER: Duration = Duration::from_secs(3);

/// Result of the run.
pub struct AcceptanceOutcome {
    bridges: BridgeReplicas,
    kafka: VerifierKafka,
    ledger: RunLedger,
    journal: ClosedJournal,
    report: OnceCell<VerificationReport>,
}

/// Sends the stream, and ends the first bridge halfway with this signal to restart it at once.
pub fn run(bridges: BridgeReplicas, signal: &str) -> AcceptanceOutcome {
    let kafka = VerifierKafka {
        bootstrap_servers: kafka_address(),
        properties: Vec::new(),
    };
    let starts = verify::fetch_start_offsets(&kafka, &bridges.template).expect("ten topics");
    let run = RunHeader {
        topics: bridges.template.clone(),
        starts: Some(starts),
    };
    let journal = JournalWriter::create(None, run).expect("a directory");
    let options = sender::Options {
        targets: bridges.targets(),
        connections: CONNECTIONS,
        // As fast as responses arrive, so that no connection is idle.
        pace: SendPace::Max,
        limits: RunLimits {
            events: Some(event_count()),
            duration: None,
        },
        // More patient than Butlr's sender: a busy machine must not cause dropped events.
        timings: SenderTimings {
            http_timeout: Duration::from_secs(15),
            pauses: [1, 3, 5, 10].map(Duration::from_secs).to_vec(),
            window: Duration::from_secs(300),
            ..SenderTimings::default()
        },
    };
    let over = AtomicBool::new(false);
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| bridges.watch_counters(&over));
        let restart = scope.spawn(|| bridges.restart(signal, event_count() / 2));
        let stop = StopSignal::new();
        let finished = sender::run(
            options,
            stream(),
            Some(journal),
            ProgressOutput::Silent,
            stop,
        );
        let restarted = restart.join();
        over.store(true, Ordering::Relaxed);
        restarted.expect("a bridge that restarts");
        finished.expect("a run")
    });
    println!("{}", RunSummary::from(&finished.ledger));
    assert!(finished.ledger.is_balanced());
    let journal = finished.journal.expect("was given");
    AcceptanceOutcome {
        bridges,
        kafka,
        ledger: finished.ledger,
        journal: journal.finish(finished.truth, true).expect("written"),
        report: OnceCell::new(),
    }
}

impl AcceptanceOutcome {
    /// Checks that all accepted events are stored and that responses and headers match the oracle.
    #[track_caller]
    pub fn assert_nothing_lost(&self, duplicates: DuplicatePolicy) -> &VerificationReport {
        assert_eq!(
            self.ledger.send_outcome_count(SendOutcome::Accepted),
            self.ledger.deliveries(),
            "a restart drops nothing"
        );
        let unknown = EventType::ALL.map(|t| {
            self.ledger
                .response_outcome_count(t, RecordedOutcome::Unknown)
        });
        let unknown: u64 = unknown.into_iter().sum();
        assert!(
            unknown <= MAX_UNKNOWN,
            "{unknown} attempts without a known result are more than a restart can cause"
        );
        let options = verify::Options {
            duplicates,
            restarted: !self.bridges.has_redis,
            known_after: (duplicates == DuplicatePolicy::Expected).then_some(KNOWN_AFTER),
            ..verify::Options::new(self.kafka.clone())
        };
        let report = verify::verify(&self.journal, &options, &mut |_, _| ());
        let report = report.expect("a proof");
        println!("{report}");
        assert!(report.is_proved(), "{report}");
        for property in Property::ALL {
            let finding = report.finding(property);
            assert!(
                finding.unchecked_reason.is_none() && finding.checked > 0,
                "{report}"
            );
        }
        self.report.get_or_init(|| report)
    }

    fn report(&self) -> &VerificationReport {
        self.report.get().expect("nothing was lost")
    }

    /// Checks that no event was published before the memory was restored, because no exact result
    /// can be expected then.
    #[track_caller]
    pub fn assert_all_checked(&self) {
        let unchecked = self.sum_counter("butlr_bridge_dedup_unchecked_total");
        assert_eq!(
            unchecked, 0,
            "events were published unchecked, because restoring the memory took longer than the deadline"
        );
    }

    /// Checks that no event was decided without Redis, because no exact result can be expected
    /// then.
    #[track_caller]
    pub fn assert_redis_available(&self) {
        let errors = self.sum_counter("butlr_bridge_redis_errors_total");
        assert_eq!(errors, 0, "events were decided without Redis");
    }

    /// Checks that no event is stored twice or misclassified, and that every kind occurs often
    /// enough.
    #[track_caller]
    pub fn assert_readings_unique(&self) {
        let report = self.report();
        let all = report.all_verdicts();
        assert_eq!(report.copies.all, 0, "{report}");
        assert_eq!(all.unrecognised, 0, "{report}");
        assert!(all.unjudged <= all.unknown, "{report}");
        // A restart forgets the ids of repeats, which are in no record; few of them are delivered
        // again later.
        let redeliveries = all.by_verdict[OracleVerdict::Redelivery as usize];
        let most = if self.bridges.has_redis {
            0
        } else {
            redeliveries / 100
        };
        assert!(all.forgotten_repeats <= most, "{report}");
        let mut ids = HashSet::new();
        self.for_each_record(|record| {
            let id = record.header("ce_id").expect("an id").to_owned();
            assert!(ids.insert(id), "twice: {record:?}");
        });
        assert_eq!(ids.len() as u64, report.records);
        let events = self.ledger.deliveries() as f64;
        for (verdict, share) in [
            (OracleVerdict::Redelivery, 0.05),
            (OracleVerdict::Repeat, 0.05),
            (OracleVerdict::Revision, 0.03),
            (OracleVerdict::Stale, 0.01),
        ] {
            let (found, expected) = (all.by_verdict[verdict as usize] as f64, share * events);
            println!("{verdict:?}: {:.2} %", 100.0 * found / events);
            // Allows for chance in a small number of events.
            let most = f64::max(0.15, 4.0 / expected.sqrt());
            assert!(
                (found / expected - 1.0).abs() < most,
                "{verdict:?}: {found}; {report}"
            );
        }
        // Nearly everything is shuffled, so many events of each source are out of order. An order
        // mark is certain only if a newer event was stored long before; a short stream may have no
        // such case.
        let (out_of_order, long_older) = (all.marked.out_of_order, report.required_marks);
        println!("out of order: {out_of_order}, of which {long_older} without any doubt");
        assert!(out_of_order as f64 > events / 100.0, "{report}");
        assert!(long_older > 0 || !is_long_run(), "{report}");
    }

    /// Checks that the bridges' counters, the responses, the records and the expectation agree,
    /// except for attempts with an unknown result.
    #[track_caller]
    pub fn assert_counters_match(&self) {
        let (report, ledger) = (self.report(), &self.ledger);
        let unseen = self.bridges.count_unseen();
        println!("the bridge counted {unseen} events between the last reading and its end");
        assert!(unseen <= MAX_UNSEEN, "{unseen}");
        for event_type in EventType::ALL {
            let verdicts = &report.verdicts[event_type.index()];
            let told = |verdict: OracleVerdict| verdicts.by_verdict[verdict as usize];
            let unknown = ledger.response_outcome_count(event_type, RecordedOutcome::Unknown);
            let apart = |what: &str, one: u64, other: u64, most: u64| {
                let text = format!("{event_type}, {what}: {one} and {other}, {most} unknown");
                assert!(one.abs_diff(other) <= most, "{text}; {report}");
            };
            for verdict in OracleVerdict::ALL {
                let most = unknown + verdicts.forgotten_repeats;
                let expected = ledger.expected_count(event_type, verdict);
                apart(verdict.name(), expected, told(verdict), most);
            }
            let of_type = format!("type=\"{}\"", event_type.name());
            let counted = |metric: &str, label: &str| {
                let metric = format!("butlr_bridge_{metric}_total");
                self.bridges.sum_counter(&metric, &[&of_type, label])
            };
            let marked = &verdicts.marked;
            for (metric, label, other) in [
                (
                    "duplicates",
                    "kind=\"redelivery\"",
                    told(OracleVerdict::Redelivery),
                ),
                ("duplicates", "kind=\"repeat\"", told(OracleVerdict::Repeat)),
                ("revisions", "", marked.revision),
                ("stale", "", marked.stale),
                ("out_of_order", "", marked.out_of_order),
            ] {
                let what = format!("{metric} {label} counted");
                apart(&what, counted(metric, label), other, unknown + unseen);
            }
        }
        let conflicts = self.sum_counter("butlr_bridge_id_conflicts_total");
        assert_eq!(conflicts, 0, "the simulator sends no such event");
    }

    /// Each copy belongs to an attempt with an unknown result.
    #[track_caller]
    pub fn assert_copies_explained(&self) {
        let report = self.report();
        assert_eq!(report.copies.unexplained(), 0, "{report}");
    }

    /// An unrecognised event came before the memory was restored, or its attempt was interrupted by
    /// the crash.
    #[track_caller]
    pub fn assert_unrecognised_counted(&self) {
        let (report, all) = (self.report(), self.report().all_verdicts());
        let unchecked = self.sum_counter("butlr_bridge_dedup_unchecked_total");
        let most = unchecked + all.unknown;
        assert!(all.unrecognised <= most, "{most} could be: {report}");
        assert!(report.copies.all <= most, "{most} could be: {report}");
    }

    /// Checks that copies are due to the crash: of the events that one process received, each is
    /// stored once, and at most one of each (type, space, timestamp) counts as the first.
    #[track_caller]
    pub fn assert_unique_per_process(&self) {
        let away_ms = self.bridges.away_ms.load(Ordering::Relaxed);
        let mut seen = HashMap::new();
        self.for_each_record(|record| {
            let header = |name: &str| record.header(name).unwrap_or_default().to_owned();
            let received = humantime::parse_rfc3339(&header("ce_receivedat")).expect("a time");
            let received = received.duration_since(std::time::UNIX_EPOCH);
            let after = received.expect("of these days").as_millis() as i64 > away_ms;
            let mut same = vec![header("ce_id")];
            let marks = ["ce_revision", "ce_stale"];
            if record.topic.contains("occupancy") && marks.iter().all(|m| header(m).is_empty()) {
                let reading = ["ce_type", "ce_subject", "ce_time"].map(header);
                same.push(reading.join(" "));
            }
            for same in same {
                let before = seen.insert((after, same), (record.partition, record.offset));
                assert!(before.is_none(), "{before:?} and {record:?}");
            }
        });
    }

    fn sum_counter(&self, metric: &str) -> u64 {
        self.bridges.sum_counter(metric, &[])
    }

    /// Passes all records to `see`, topic by topic.
    fn for_each_record(&self, mut see: impl FnMut(TestRecord)) {
        for topic in ten_topics(&self.bridges.template) {
            let records = read_records(&self.kafka.bootstrap_servers, &topic);
            records.into_iter().for_each(&mut see);
        }
    }
}
