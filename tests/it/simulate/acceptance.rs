//! What the bridge recognises, held against the oracle: a long stream with everything that a sender repeats, revises and
//! confuses, over 64 connections, with the bridge ended and started again half-way.
//!
//! `BUTLR_BRIDGE_TEST_EVENTS` says how many events; 200,000 take some minutes.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use butlr_bridge::event::EventType;
use butlr_bridge::simulate::city::{Habits, Size};
use butlr_bridge::simulate::journal::{Answer, Journal, Run};
use butlr_bridge::simulate::ledger::{Ledger, Summary};
use butlr_bridge::simulate::message::{Data, Delivery};
use butlr_bridge::simulate::oracle::Verdict;
use butlr_bridge::simulate::progress::Progress;
use butlr_bridge::simulate::sender::{self, End, Finished, Limits, Pace, Stop, Target, Timings};
use butlr_bridge::simulate::stream::{Behaviour, Stream};
use butlr_bridge::simulate::verify::{self, Duplicates, Kafka, Report};
use serde_json::Value;

use super::HOUR_MS;
use crate::harness::{Process, RedisServer, agent, now_ms, records_of};
use crate::real::{
    create_topics, delete_topics, fresh_name, heavy, kafka, nobody_there, ten_topics, within,
};

pub fn a_bridge_that_is_started_again_goes_on_where_it_was() {
    let _alone = heavy();
    let outcome = Trial::new(1, None).run("TERM");
    outcome.nothing_was_lost(Duplicates::Expected);
    outcome.each_reading_is_there_once();
    outcome.counters_are_the_ledgers();
}

pub fn two_replicas_are_as_good_as_one() {
    let _alone = heavy();
    let redis = RedisServer::start(&[]);
    let outcome = Trial::new(2, Some(&redis)).run("TERM");
    outcome.nothing_was_lost(Duplicates::Expected);
    outcome.each_reading_is_there_once();
    outcome.counters_are_the_ledgers();
}

pub fn after_a_crash_nothing_is_lost_and_copies_are_explained() {
    let _alone = heavy();
    let outcome = Trial::new(1, None).run("KILL");
    let report = outcome.nothing_was_lost(Duplicates::Allowed);
    assert_eq!(report.copies.unexplained(), 0, "{report}");
    // What was taken for something new came before the memory was rebuilt, or is one that the crash cut off.
    let unchecked = outcome.counted("butlr_bridge_dedup_unchecked_total", "");
    let all = report.all_verdicts();
    let most = unchecked + all.unknown;
    assert!(all.unrecognised <= most, "{most} could be: {report}");
}

fn events() -> u64 {
    let asked = std::env::var("BUTLR_BRIDGE_TEST_EVENTS").ok();
    asked.map_or(15_000, |n| n.parse().expect("how many events"))
}

/// Events a second, so that not all that is left is tried in the moment in which the bridge is away.
const RATE: f64 = 1_000.0;

const SEED: u64 = 11;

/// A city in which a quarter of what is sent is occupancy, computed once; and the sender's quirks in the shares.
fn stream() -> Stream {
    let size = Size {
        rooms: 60,
        sensors: Some(6),
    };
    let habits = Habits {
        revised: 0.0,
        recompute: false,
        ..Habits::default()
    };
    let start_ms = now_ms() - 12 * HOUR_MS;
    let grow = |behaviour| Stream::grow(SEED, size, start_ms, habits.clone(), behaviour);
    let is_occupancy = |d: &Delivery| matches!(d.message.data, Data::Occupancy(_));
    let sample = 10_000;
    let occupancy = grow(Behaviour::plain())
        .take(sample)
        .filter(is_occupancy)
        .count();
    // Of all events, the further ones included, which are a seventh.
    let share = |of_all: f64| of_all * 1.16 * sample as f64 / occupancy as f64;
    grow(Behaviour {
        redelivered: 0.045,
        overlapping: 0.01,
        shuffled: 0.2,
        repeated: share(0.05),
        corrected: share(0.03),
        stale: share(0.01),
        ..Behaviour::plain()
    })
}

/// Bridges on their addresses, which they keep.
struct Trial {
    settings: Vec<String>,
    template: String,
    bridges: Vec<Mutex<Served>>,
}

/// One of them.
struct Served {
    ingest: SocketAddr,
    admin: SocketAddr,
    process: Process,
    /// The last look at the counters of each process.
    looks: Vec<Counters>,
    /// What the log of ended ones counted.
    ended: Vec<Option<Value>>,
}

type Counters = BTreeMap<String, u64>;

impl Trial {
    fn new(bridges: usize, redis: Option<&RedisServer>) -> Self {
        let template = format!("{}.{{type}}", fresh_name("oracle"));
        create_topics(&kafka(), &ten_topics(&template), 3, &[]);
        let mut settings = vec![
            format!("kafka.bootstrap_servers={}", kafka()),
            format!("topics.template={template}"),
            "log.format=json".to_owned(),
        ];
        if let Some(redis) = redis {
            settings.push("dedup.store=redis".to_owned());
            settings.push(format!("dedup.redis_url={}", redis.url()));
            // On a busy machine the default would end in doing without.
            settings.push("dedup.redis_timeout=1s".to_owned());
        }
        let serve = |_| {
            let (ingest, admin) = (nobody_there(), nobody_there());
            let served = Served {
                process: serve(&settings, ingest, admin),
                ingest,
                admin,
                looks: vec![Counters::new()],
                ended: Vec::new(),
            };
            Mutex::new(served)
        };
        Self {
            bridges: (0..bridges).map(serve).collect(),
            settings,
            template,
        }
    }

    /// Sends the stream, and ends the first bridge with this signal half-way to start it again at once.
    fn run(self, signal: &str) -> Outcome {
        let kafka = Kafka {
            bootstrap_servers: kafka(),
            properties: Vec::new(),
        };
        let starts = verify::start_offsets(&kafka, &self.template).expect("ten topics");
        let run = Run {
            topics: self.template.clone(),
            starts: Some(starts),
        };
        let journal = Journal::create(None, run).expect("a directory");
        let targets = self.bridges.iter().map(|bridge| {
            let ingest = bridge.lock().expect("no panic holds it").ingest;
            Target::parse(&format!("http://{ingest}/v1/events")).expect("a URL")
        });
        let mut targets: Vec<Target> = targets.collect();
        let events = events();
        let mut options = sender::Options {
            connections: 64,
            pace: Pace::Rate(RATE),
            limits: Limits {
                events: Some(events),
                duration: None,
            },
            // More patient than Butlr's sender: how busy the machine is must not decide what is dropped.
            timings: Timings {
                pauses: [1, 3, 5, 10].map(Duration::from_secs).to_vec(),
                window: Duration::from_secs(300),
                ..Timings::default()
            },
            ..sender::Options::to(targets.remove(0))
        };
        options.targets.append(&mut targets);
        let over = AtomicBool::new(false);
        let finished = std::thread::scope(|scope| {
            for bridge in &self.bridges {
                scope.spawn(|| watch(bridge, &over));
            }
            let restart = scope.spawn(|| self.restart(signal, events / 2));
            let stop = Stop::new();
            let finished = sender::run(options, stream(), Some(journal), Progress::Silent, stop);
            restart.join().expect("a bridge that starts again");
            over.store(true, Ordering::Relaxed);
            finished.expect("a run")
        });
        assert!(finished.ledger.is_balanced());
        Outcome {
            trial: self,
            kafka,
            finished: Mutex::new(Some(finished)),
            report: Mutex::new(None),
        }
    }

    fn restart(&self, signal: &str, after: u64) {
        within(Duration::from_secs(300), "half of it has come", || {
            let all = self.bridges.iter().map(|bridge| {
                let bridge = bridge.lock().expect("no panic holds it");
                sum(
                    bridge.looks.last().expect("one"),
                    "butlr_bridge_received_total",
                    "",
                )
            });
            all.sum::<u64>() >= after
        });
        let first = &self.bridges[0];
        first
            .lock()
            .expect("no panic holds it")
            .process
            .signal(signal);
        // The lock is free meanwhile, so that its counters are looked at to the end.
        within(Duration::from_secs(30), "it ends", || {
            !first
                .lock()
                .expect("no panic holds it")
                .process
                .is_running()
        });
        let mut bridge = first.lock().expect("no panic holds it");
        let last = final_counters(&bridge.process.output());
        assert_eq!(
            last.is_some(),
            signal == "TERM",
            "{}",
            bridge.process.output()
        );
        bridge.ended.push(last);
        bridge.looks.push(Counters::new());
        bridge.process = serve(&self.settings, bridge.ingest, bridge.admin);
    }
}

fn serve(settings: &[String], ingest: SocketAddr, admin: SocketAddr) -> Process {
    let addresses = [format!("http.bind={ingest}"), format!("admin.bind={admin}")];
    let all: Vec<_> = addresses
        .iter()
        .chain(settings)
        .map(String::as_str)
        .collect();
    let process = Process::serve(&all);
    assert_eq!((process.ingest(), process.admin()), (ingest, admin));
    process
}

/// Looks at the counters of a bridge again and again: what it counts last nobody can ask it any more.
fn watch(bridge: &Mutex<Served>, over: &AtomicBool) {
    let (admin, agent) = (bridge.lock().expect("no panic holds it").admin, agent());
    let url = format!("http://{admin}/metrics");
    loop {
        let last = over.load(Ordering::Relaxed);
        if let Ok(answer) = agent.get(&url).call()
            && let Ok(text) = answer.into_body().read_to_string()
        {
            let counters = counters(&text);
            let mut bridge = bridge.lock().expect("no panic holds it");
            // One that has just been started again counts from nothing.
            let total = |counters| sum(counters, "butlr_bridge_received_total", "");
            let look = bridge.looks.last_mut().expect("one");
            if total(&counters) >= total(look) {
                *look = counters;
            }
        }
        if last {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Series and their values.
fn counters(exposition: &str) -> Counters {
    let lines = exposition.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        Some((series.to_owned(), value.parse::<f64>().ok()? as u64))
    };
    lines.filter_map(sample).collect()
}

/// The sum of the series of a metric whose labels contain this.
fn sum(counters: &Counters, metric: &str, label: &str) -> u64 {
    let of_metric = counters.iter().filter(|(series, _)| {
        let labels = series.strip_prefix(metric);
        labels.is_some_and(|l| l.starts_with('{') && l.contains(label))
    });
    of_metric.map(|(_, value)| value).sum()
}

fn final_counters(output: &str) -> Option<Value> {
    let lines = output
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    lines.into_iter().find(|line| line["message"] == "ended")
}

/// What came of it.
struct Outcome {
    trial: Trial,
    kafka: Kafka,
    finished: Mutex<Option<Finished>>,
    report: Mutex<Option<(Report, Ledger)>>,
}

impl Outcome {
    /// All that was accepted is there, and answers and headers are as the oracle says.
    #[track_caller]
    fn nothing_was_lost(&self, duplicates: Duplicates) -> Report {
        let finished = self.finished.lock().expect("no panic holds it").take();
        let finished = finished.expect("looked at once");
        let ledger = finished.ledger;
        println!("{}", Summary::from(&ledger));
        assert_eq!(
            ledger.ended(End::Accepted),
            ledger.deliveries(),
            "a restart drops nothing"
        );
        let journal = finished.journal.expect("was given");
        let journal = journal.finish(finished.truth, true).expect("written");
        let options = verify::Options {
            duplicates,
            ..verify::Options::of(self.kafka.clone())
        };
        let report = verify::verify(&journal, &options, &mut |_, _| ());
        let report = report.expect("a proof");
        println!("{report}");
        assert!(report.holds(), "{report}");
        for property in verify::Property::ALL {
            let finding = report.finding(property);
            assert!(
                finding.unchecked.is_none() && finding.checked > 0,
                "{report}"
            );
        }
        *self.report.lock().expect("no panic holds it") = Some((report.clone(), ledger));
        report
    }

    /// No event twice, nothing taken for something that it is not, and every kind often enough to mean something.
    #[track_caller]
    fn each_reading_is_there_once(&self) {
        let guard = self.report.lock().expect("no panic holds it");
        let (report, ledger) = guard.as_ref().expect("proved");
        let all = report.all_verdicts();
        assert_eq!(report.copies.all, 0, "{report}");
        assert_eq!(all.unrecognised, 0, "{report}");
        assert!(all.unjudged <= all.unknown, "{report}");
        let mut ids = HashSet::new();
        for topic in ten_topics(&self.trial.template) {
            for record in records_of(&self.kafka.bootstrap_servers, &topic) {
                let id = record.header("ce_id").expect("an id").to_owned();
                assert!(ids.insert(id), "twice: {record:?}");
            }
        }
        assert_eq!(ids.len() as u64, report.records);
        let events = ledger.deliveries() as f64;
        for (verdict, share) in [
            (Verdict::Redelivery, 0.05),
            (Verdict::Repeat, 0.05),
            (Verdict::Revision, 0.03),
            (Verdict::Stale, 0.01),
        ] {
            let found = all.told[verdict as usize] as f64 / events;
            assert!(
                (found / share - 1.0).abs() < 0.4,
                "{verdict:?}: {found}; {report}"
            );
        }
    }

    /// The bridges' counters, the answers, the records and what was expected before anything was sent: all the same, but
    /// for tries of which nobody knows how they ended.
    #[track_caller]
    fn counters_are_the_ledgers(&self) {
        let guard = self.report.lock().expect("no panic holds it");
        let (report, ledger) = guard.as_ref().expect("proved");
        // What a bridge counted after the last look at it.
        let unseen = self.unseen();
        for event_type in EventType::ALL {
            let verdicts = &report.verdicts[event_type.index()];
            let told = |verdict: Verdict| verdicts.told[verdict as usize];
            let unknown = ledger.heard(event_type, Answer::Unknown);
            let apart = |what: &str, one: u64, other: u64, most: u64| {
                let text = format!("{event_type}, {what}: {one} and {other}, {most} unknown");
                assert!(one.abs_diff(other) <= most, "{text}; {report}");
            };
            for verdict in Verdict::ALL {
                let most = unknown + verdicts.forgotten;
                let expected = ledger.expected(event_type, verdict);
                apart(verdict.name(), expected, told(verdict), most);
            }
            let name = event_type.name();
            let of_type = format!("type=\"{name}\"");
            let duplicates = |kind: &str| {
                let all = self.trial.bridges.iter().map(|bridge| {
                    let bridge = bridge.lock().expect("no panic holds it");
                    let series = bridge.looks.iter().flatten().filter(|(series, _)| {
                        series.starts_with("butlr_bridge_duplicates_total{")
                            && series.contains(&of_type)
                            && series.contains(&format!("kind=\"{kind}\""))
                    });
                    series.map(|(_, value)| value).sum::<u64>()
                });
                all.sum::<u64>()
            };
            let most = unknown + unseen;
            apart(
                "redelivery counted",
                duplicates("redelivery"),
                told(Verdict::Redelivery),
                most,
            );
            apart(
                "repeat counted",
                duplicates("repeat"),
                told(Verdict::Repeat),
                most,
            );
            for (metric, marked) in [
                ("butlr_bridge_revisions_total", verdicts.marked.revision),
                ("butlr_bridge_stale_total", verdicts.marked.stale),
                (
                    "butlr_bridge_out_of_order_total",
                    verdicts.marked.out_of_order,
                ),
            ] {
                apart(metric, self.counted(metric, &of_type), marked, most);
            }
        }
        let conflicts = self.counted("butlr_bridge_id_conflicts_total", "");
        assert_eq!(conflicts, 0, "the simulator sends none");
    }

    /// A counter of all bridges, over all of their runs.
    fn counted(&self, metric: &str, label: &str) -> u64 {
        let all = self.trial.bridges.iter().map(|bridge| {
            let bridge = bridge.lock().expect("no panic holds it");
            bridge
                .looks
                .iter()
                .map(|look| sum(look, metric, label))
                .sum::<u64>()
        });
        all.sum()
    }

    /// How many events ended bridges counted after the last look at them.
    fn unseen(&self) -> u64 {
        let mut unseen = 0;
        for bridge in &self.trial.bridges {
            let bridge = bridge.lock().expect("no panic holds it");
            for (last, look) in bridge.ended.iter().zip(&bridge.looks) {
                let received = last.as_ref().and_then(|last| last["received"].as_u64());
                let received = received.expect("counted at the end");
                unseen += received - sum(look, "butlr_bridge_received_total", "");
            }
        }
        println!("{unseen} events were counted after the last look at the bridge that ended");
        unseen
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            delete_topics(&kafka(), &ten_topics(&self.template));
        }
    }
}
