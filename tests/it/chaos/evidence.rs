//! Evidence of a trial: everything that is judged, as plain data.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use butlr_event::{EventType, ParseLimits, ParsedBody};
use butlr_simulate::city::GroundTruth;
use butlr_simulate::hash;
use butlr_simulate::journal::buckets::BUCKET_COUNT;
use butlr_simulate::journal::{
    ClosedJournal, DeliveryAttempt, JournalWriter, RecordedOutcome, RunHeader, StartOffsets,
};
use butlr_simulate::ledger::{RunLedger, RunSummary};
use butlr_simulate::sender::SendOutcome;
use butlr_simulate::verify::{self, DuplicatePolicy, Options, VerificationReport, VerifierKafka};

use super::bridge::EndedProcess;
use super::injection::AppliedFault;
use super::ledgers::{MetricSamples, ReportedLedger};
use super::schedule::{FaultKind, FaultSchedule};
use crate::harness::{TestRecord, read_records};

/// Everything known about a trial.
#[derive(Clone)]
pub struct TrialEvidence {
    pub schedule: FaultSchedule,
    pub has_spool: bool,
    pub applied_faults: Vec<AppliedFault>,
    /// Duration of each phase.
    pub phases: String,
    pub responses: SenderTotals,
    /// Every request with a response or a timeout, in the order of their ends.
    pub attempts: Vec<DeliveryAttempt>,
    /// The same for the recovery load, second by second until one second had no detours.
    pub recovery: Vec<RecoveryLoad>,
    pub truth: GroundTruth,
    /// `true` if every TRAFFIC event was accepted.
    pub traffic_complete: bool,
    pub started_ms: i64,
    /// Start of the times in [`AppliedFault`].
    pub load_began_ms: i64,
    pub ended_ms: i64,
    /// Records in the event topics, without values.
    pub records: Vec<TopicRecord>,
    /// Records in the quarantine topic.
    pub quarantined: Vec<StoredQuarantineRecord>,
    /// Processes of the bridge in order.
    pub processes: Vec<EndedProcess>,
    /// Ledger of the last process when idle, before its end.
    pub ledger: Option<ReportedLedger>,
    pub metrics: MetricSamples,
    /// Result of waiting until the bridge is idle, both times.
    pub idle: Result<(), String>,
    /// Kafka for the verifier.
    pub kafka: VerifierKafka,
    pub template: String,
    /// Directory with the journal and the logs.
    pub dir: PathBuf,
}

/// One second of load after all faults have ended.
#[derive(Clone)]
pub struct RecoveryLoad {
    pub responses: SenderTotals,
    pub attempts: Vec<DeliveryAttempt>,
}

impl RecoveryLoad {
    /// Describes a type of which most events took a detour in the last second that had any. A
    /// single first event may.
    pub fn find_detour(seconds: &[Self]) -> Option<String> {
        EventType::ALL.into_iter().find_map(|event_type| {
            let counts = seconds.iter().rev().map(|second| second.count(event_type));
            let mut some = counts.filter(|(published, spooled)| published + spooled > 0);
            let (published, spooled) = some.next()?;
            (spooled > published.max(1))
                .then(|| format!("{event_type}: {published} published, {spooled} spooled"))
        })
    }

    /// Counts the published and the spooled events of a type.
    fn count(&self, event_type: EventType) -> (usize, usize) {
        let of_type = self.attempts.iter().filter(|a| a.event_type == event_type);
        let count = |outcome| of_type.clone().filter(|a| a.outcome == outcome).count();
        (
            count(RecordedOutcome::Published),
            count(RecordedOutcome::Spooled),
        )
    }
}

/// Ledger of the sender.
#[derive(Clone, Debug)]
pub struct SenderTotals {
    pub deliveries: u64,
    pub accepted: u64,
    /// Valid events that the sender gave up.
    pub dropped: u64,
    pub unsent: u64,
    pub status_200: u64,
    pub status_202: u64,
    pub status_503: u64,
    /// Requests without a response in time.
    pub timeouts: u64,
    /// Connections that broke during a request.
    pub broken: u64,
    pub balanced: bool,
}

impl SenderTotals {
    pub fn from_ledger(ledger: &RunLedger) -> Self {
        let summary = serde_json::to_value(RunSummary::from(ledger)).expect("a summary");
        Self {
            deliveries: ledger.deliveries(),
            accepted: ledger.send_outcome_count(SendOutcome::Accepted),
            dropped: ledger.drop_count(),
            unsent: ledger.send_outcome_count(SendOutcome::Unsent),
            status_200: ledger.status_count(200),
            status_202: ledger.status_count(202),
            status_503: ledger.status_count(503),
            timeouts: ledger.timeouts(),
            broken: summary["connections_broken"].as_u64().expect("a count"),
            balanced: ledger.is_balanced(),
        }
    }
}

/// Record in an event topic.
#[derive(Clone, Debug)]
pub struct TopicRecord {
    pub event_type: EventType,
    pub partition: i32,
    pub offset: i64,
    pub id: String,
    pub received_at: String,
    /// `true` if it was stored from the spool.
    pub spooled: bool,
    pub value_hash: u64,
}

impl TopicRecord {
    /// Reads all records of the ten topics.
    pub fn read_all(bootstrap_servers: &str, template: &str) -> Vec<Self> {
        let of_type = |event_type: EventType| {
            let topic = template.replace("{type}", event_type.kebab_name());
            let records = read_records(bootstrap_servers, &topic);
            records.into_iter().map(move |record| Self {
                event_type,
                partition: record.partition,
                offset: record.offset,
                id: record.header("ce_id").unwrap_or_default().to_owned(),
                received_at: record
                    .header("ce_receivedat")
                    .unwrap_or_default()
                    .to_owned(),
                spooled: record.header("ce_spooled").is_some(),
                value_hash: hash::hash_bytes(&record.value),
            })
        };
        EventType::ALL.into_iter().flat_map(of_type).collect()
    }
}

/// Record in the quarantine topic.
#[derive(Clone, Copy, Debug)]
pub struct StoredQuarantineRecord {
    pub value_hash: u64,
    /// `true` if the value is a valid event after all.
    pub is_valid: bool,
}

impl StoredQuarantineRecord {
    /// Reads all records of the quarantine topic.
    pub fn read_all(bootstrap_servers: &str, topic: &str) -> Vec<Self> {
        let records = read_records(bootstrap_servers, topic);
        let from_record = |record: &TestRecord| Self {
            value_hash: hash::hash_bytes(&record.value),
            is_valid: matches!(
                butlr_event::parse(&record.value, None, ParseLimits::UNLIMITED),
                Ok(ParsedBody::Single(Ok(_)))
            ),
        };
        records.iter().map(from_record).collect()
    }
}

/// Reads every attempt from a journal.
pub fn read_attempts(journal: &ClosedJournal) -> Vec<DeliveryAttempt> {
    let buckets = (0..BUCKET_COUNT).map(|n| journal.read_bucket(n).expect("a whole journal"));
    buckets.flatten().collect()
}

impl TrialEvidence {
    /// Returns the attempts during the faults and after them.
    pub fn all_attempts(&self) -> impl Iterator<Item = &DeliveryAttempt> {
        self.attempts.iter().chain(self.recovery_attempts())
    }

    /// Returns the attempts after all faults had ended.
    pub fn recovery_attempts(&self) -> impl Iterator<Item = &DeliveryAttempt> {
        self.recovery.iter().flat_map(|after| &after.attempts)
    }

    /// Groups all attempts by the id of their event.
    pub fn attempts_by_id(&self) -> HashMap<String, Vec<&DeliveryAttempt>> {
        let mut by_id: HashMap<String, Vec<&DeliveryAttempt>> = HashMap::new();
        for attempt in self.all_attempts() {
            let id = format!("event_{}", attempt.id);
            by_id.entry(id).or_default().push(attempt);
        }
        by_id
    }

    /// Runs the simulator's verifier on all topics except deleted ones, whose records are exempt.
    pub fn verify(&self) -> Result<VerificationReport, String> {
        let dir = tempfile::Builder::new()
            .prefix("judged-")
            .tempdir_in(&self.dir)
            .expect("a directory");
        let journal = self.write_filtered_journal(&dir.path().join("journal"));
        let options = Options {
            duplicates: DuplicatePolicy::Allowed,
            restarted: self.processes.len() > 1,
            clock_setback: Duration::from_millis(self.max_clock_offset_ms().unsigned_abs()),
            concurrent_drain: self.schedule.drains_concurrently(),
            ..Options::new(self.kafka.clone())
        };
        verify::verify(&journal, &options, &mut |_, _| ()).map_err(|error| error.to_string())
    }

    /// Returns the largest clock offset of the bridge.
    fn max_clock_offset_ms(&self) -> i64 {
        let off = self.schedule.faults.iter().map(|f| match f.kind {
            FaultKind::ClockStep(seconds) => 1_000 * seconds.abs(),
            _ => 0,
        });
        off.max().unwrap_or(0)
    }

    /// Writes a journal for the verifier: without types whose topic was deleted, with tolerance for
    /// the clock offset, and without waiting times, because the bridge is idle.
    fn write_filtered_journal(&self, dir: &std::path::Path) -> ClosedJournal {
        let exempt = self.schedule.deleted_topics();
        let mut offsets =
            vec![vec![0; super::injection::PARTITIONS as usize]; EventType::ALL.len()];
        if !exempt.is_empty() {
            let ends =
                verify::fetch_start_offsets(&self.kafka, &self.template).expect("ten topics");
            for event_type in &exempt {
                let index = event_type.index();
                offsets[index].clone_from(&ends.offsets[index]);
            }
        }
        let run = RunHeader {
            topics: self.template.clone(),
            starts: Some(StartOffsets { offsets }),
        };
        let mut journal = JournalWriter::create(Some(dir), run).expect("a directory");
        let judged = self.all_attempts();
        for attempt in judged.filter(|a| !exempt.contains(&a.event_type)) {
            journal.record_attempt(attempt).expect("written");
        }
        let complete = self.traffic_complete && !exempt.contains(&EventType::Traffic);
        let journal = journal.finish(self.truth.clone(), complete);
        drop(journal.expect("written"));

        let off = self.max_clock_offset_ms();
        let path = dir.join("journal.json");
        let text = std::fs::read(&path).expect("a journal");
        let mut contents: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        contents["started_ms"] = (self.started_ms - off).into();
        contents["end"]["ended_ms"] = (self.ended_ms + off).into();
        for count in contents["end"]["answers"].as_array_mut().expect("counts") {
            *count = 0.into();
        }
        std::fs::write(&path, contents.to_string()).expect("written");
        ClosedJournal::open(dir).expect("a journal")
    }
}
