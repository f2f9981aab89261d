//! One trial: a bridge, its load, its faults, its recovery, and the evidence.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use butlr_event::EventType;
use butlr_simulate::city::{CityBehaviour, CitySize};
use butlr_simulate::journal::{DeliveryAttempt, JournalWriter, RunHeader};
use butlr_simulate::progress::ProgressOutput;
use butlr_simulate::sender::{
    self, FinishedRun, RunLimits, SendOutcome, SendPace, SendTarget, SenderTimings, StopSignal,
};
use butlr_simulate::stream::{DeliveryStream, SenderBehaviour};
use butlr_simulate::verify;

use super::bridge::{BridgePlan, RestartableBridge, SHUTDOWN};
use super::broker::ChaosKafka;
use super::clock::BridgeClock;
use super::disk::SmallDisk;
use super::evidence::{
    RecoveryLoad, SenderTotals, StoredQuarantineRecord, TopicRecord, TrialEvidence, read_attempts,
};
use super::injection::{AppliedFault, ChaosEnvironment, PARTITIONS};
use super::ledgers::ReportedLedger;
use super::schedule::{FaultKind, FaultSchedule};
use crate::harness::clock_ms;
use crate::real_kafka::{create_topics, delete_topics, ten_topics, unique_name};

const CONNECTIONS: usize = 48;
/// `http.answer_within`.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Additional time on a busy machine before a response counts as late.
const SLACK: Duration = Duration::from_secs(4);
/// Longest duration of the load.
const MAX_LOAD: Duration = Duration::from_secs(14);
/// Duration of the load after the last fault.
const LOAD_AFTER_FAULTS: Duration = Duration::from_millis(1_000);
/// Time limit until the bridge is idle after the load.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Events per second of the recovery load.
const RECOVERY_EVENTS: u64 = 300;
/// Limit for the seconds of recovery load, until most events of each type take no detour. The
/// bridge must recover quickly, but it is not responsible for a slow broker that was just restarted
/// on a busy machine.
const MAX_RECOVERY_SECONDS: u64 = 4;
const HOUR_MS: i64 = 3_600_000;

/// Returns `true` unless `BUTLR_BRIDGE_TEST_SPOOL=off`: bridges use a spool.
pub fn has_spool() -> bool {
    !std::env::var("BUTLR_BRIDGE_TEST_SPOOL").is_ok_and(|v| v == "off")
}

/// Runs a schedule and passes the evidence to `judge` while the topics still exist. Files of a
/// failed trial are kept in `dir`.
pub fn run_schedule<T>(
    schedule: &FaultSchedule,
    kafka: &ChaosKafka,
    dir: &Path,
    judge: impl FnOnce(&TrialEvidence) -> T,
) -> (TrialEvidence, T) {
    let name = unique_name(&format!("chaos.{}", schedule.seed));
    let template = format!("{name}.{{type}}");
    let mut topics = ten_topics(&template);
    topics.push(quarantine_topic(&template));
    create_topics(&kafka.address(), &topics, PARTITIONS, &[]);
    let evidence = collect_evidence(schedule, kafka, dir, &template);
    let judged = judge(&evidence);
    delete_topics(&kafka.address(), &topics);
    (evidence, judged)
}

fn quarantine_topic(template: &str) -> String {
    template.replace("{type}", "quarantine")
}

fn collect_evidence(
    schedule: &FaultSchedule,
    kafka: &ChaosKafka,
    dir: &Path,
    template: &str,
) -> TrialEvidence {
    let spool = has_spool();
    let mut phases = PhaseTimings::new();
    let environment = build_environment(schedule, kafka, dir, template, spool);
    let proof = verify::VerifierKafka {
        bootstrap_servers: kafka.address(),
        properties: Vec::new(),
    };
    let ingest = environment.bridge.lock().expect("lock not poisoned").ingest;
    let journal = |name: &str| {
        let run = RunHeader {
            topics: template.to_owned(),
            starts: None,
        };
        JournalWriter::create(Some(&dir.join(name)), run).expect("a directory")
    };
    let started_ms = clock_ms();
    phases.end_phase("start");
    let load_began_ms = clock_ms();
    let (load, done) = send_through_faults(schedule, &environment, journal("journal"));
    let mut bridge = environment.bridge.into_inner().expect("lock not poisoned");
    phases.end_phase("load");
    let rest = bridge.wait_until_idle(IDLE_LIMIT);
    phases.end_phase("rest");
    let mut after = Vec::new();
    for second in 0..MAX_RECOVERY_SECONDS {
        let journal = journal(&format!("journal-after-{second}"));
        after.push(RecoveryLoad::from_run(send_recovery_load(
            schedule, second, ingest, journal,
        )));
        if RecoveryLoad::find_detour(&after).is_none() {
            break;
        }
    }
    let rest = rest.and_then(|()| bridge.wait_until_idle(IDLE_LIMIT));
    let ledger = bridge
        .status()
        .and_then(|status| ReportedLedger::from_status(&status));
    let metrics = bridge.metrics().unwrap_or_default();
    bridge.terminate();
    phases.end_phase("after");

    let traffic_complete =
        load.ledger.fidelity().is_traffic_complete() && is_all_accepted(&load, EventType::Traffic);
    let truth = load.truth.clone();
    TrialEvidence {
        schedule: schedule.clone(),
        has_spool: spool,
        applied_faults: done,
        phases: phases.summary,
        responses: SenderTotals::from_ledger(&load.ledger),
        attempts: close_journal(load, traffic_complete),
        recovery: after,
        truth,
        traffic_complete,
        started_ms,
        load_began_ms,
        ended_ms: clock_ms(),
        records: TopicRecord::read_all(&kafka.address(), template),
        quarantined: StoredQuarantineRecord::read_all(
            &kafka.address(),
            &quarantine_topic(template),
        ),
        processes: std::mem::take(&mut bridge.ended_processes),
        ledger,
        metrics,
        idle: rest,
        kafka: proof,
        template: template.to_owned(),
        dir: dir.to_owned(),
    }
}

/// Duration of each phase.
struct PhaseTimings {
    last: Instant,
    summary: String,
}

impl PhaseTimings {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            summary: String::new(),
        }
    }

    fn end_phase(&mut self, name: &str) {
        let took = std::mem::replace(&mut self.last, Instant::now()).elapsed();
        self.summary += &format!("{name} {:.1} s, ", took.as_secs_f64());
    }
}

fn close_journal(run: FinishedRun, traffic_complete: bool) -> Vec<DeliveryAttempt> {
    let journal = run.journal.expect("was given");
    let journal = journal.finish(run.truth, traffic_complete);
    read_attempts(&journal.expect("written"))
}

fn build_environment<'k>(
    schedule: &FaultSchedule,
    kafka: &'k ChaosKafka,
    dir: &Path,
    template: &str,
    spool: bool,
) -> ChaosEnvironment<'k> {
    let spool_dir = dir.join("spool");
    std::fs::create_dir(&spool_dir).expect("a directory");
    let disk = schedule
        .has_fault(|what| what == FaultKind::DiskFull)
        .then(|| SmallDisk::mount(&spool_dir));
    let clock = schedule
        .has_fault(|what| matches!(what, FaultKind::ClockStep(_)))
        .then(|| BridgeClock::new(dir));
    let mut settings = vec![
        format!("kafka.bootstrap_servers={}", kafka.proxied_address()),
        format!("topics.template={template}"),
        format!("topics.quarantine={}", quarantine_topic(template)),
        // The sender knows only success and failure, and would retry invalid events forever.
        "quarantine.answer=accept".to_owned(),
        "log.format=json".to_owned(),
        format!("http.answer_within={}s", ANSWER_WITHIN.as_secs()),
        format!("shutdown.timeout={}s", SHUTDOWN.as_secs()),
        "shutdown.drain_delay=0s".to_owned(),
    ];
    settings.extend(schedule.settings.iter().cloned());
    if spool {
        settings.push(format!("spool.dir={}", spool_dir.display()));
        settings.extend(schedule.spool_settings.iter().cloned());
    }
    let bridge = RestartableBridge::start(BridgePlan {
        settings,
        command_prefix: disk
            .as_ref()
            .map_or_else(Vec::new, SmallDisk::command_prefix),
        environment: clock
            .as_ref()
            .map_or_else(Vec::new, BridgeClock::environment),
        dir: dir.to_owned(),
    });
    bridge.wait_until_ready();
    ChaosEnvironment {
        kafka,
        template: template.to_owned(),
        bridge: Mutex::new(bridge),
        disk,
        clock,
    }
}

/// Sends the load while faults are injected, and a little longer.
fn send_through_faults(
    schedule: &FaultSchedule,
    environment: &ChaosEnvironment<'_>,
    journal: JournalWriter,
) -> (FinishedRun, Vec<AppliedFault>) {
    let ingest = environment.bridge.lock().expect("lock not poisoned").ingest;
    // Limits the backlog, however long a busy machine takes to restart a broker.
    let limits = RunLimits {
        events: Some((schedule.rate * MAX_LOAD.as_secs_f64()) as u64),
        duration: None,
    };
    let options = sender_options(ingest, schedule.rate, limits);
    let stop = StopSignal::new();
    let stream = small_city(schedule.seed, clock_ms() - 12 * HOUR_MS, busy_behaviour());
    std::thread::scope(|scope| {
        let until = stop.clone();
        let began = Instant::now();
        let sending = scope.spawn(move || {
            sender::run(
                options,
                stream,
                Some(journal),
                ProgressOutput::Silent,
                until,
            )
        });
        let done = scope
            .spawn(move || environment.run_schedule(schedule, began))
            .join();
        std::thread::sleep(LOAD_AFTER_FAULTS);
        stop.stop();
        let finished = sending.join().expect("a sender").expect("a run");
        match done {
            Ok(done) => (finished, done),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

impl RecoveryLoad {
    fn from_run(run: FinishedRun) -> Self {
        Self {
            responses: SenderTotals::from_ledger(&run.ledger),
            attempts: close_journal(run, false),
        }
    }
}

/// Sends one second of another city's events after all faults have ended.
fn send_recovery_load(
    schedule: &FaultSchedule,
    second: u64,
    ingest: SocketAddr,
    journal: JournalWriter,
) -> FinishedRun {
    let limits = RunLimits {
        events: Some(RECOVERY_EVENTS),
        duration: None,
    };
    let options = sender_options(ingest, RECOVERY_EVENTS as f64, limits);
    // Starts just before a full minute, so that each second includes occupancies and therefore all
    // types.
    let minute = clock_ms() - 12 * HOUR_MS;
    let from_ms = minute - minute % 60_000 - 2_000;
    let stream = small_city(
        !schedule.seed ^ second << 32,
        from_ms,
        SenderBehaviour::plain(),
    );
    let run = sender::run(
        options,
        stream,
        Some(journal),
        ProgressOutput::Silent,
        StopSignal::new(),
    );
    run.expect("a run")
}

fn sender_options(ingest: SocketAddr, rate: f64, limits: RunLimits) -> sender::Options {
    let target = SendTarget::parse(&format!("http://{ingest}/v1/events")).expect("a URL");
    sender::Options {
        targets: vec![target],
        connections: CONNECTIONS,
        pace: SendPace::Rate(rate),
        limits,
        timings: timings(),
    }
}

/// More patient than Butlr's sender: no event may be given up because of a long outage.
fn timings() -> SenderTimings {
    let mut pauses = vec![Duration::from_millis(300); 10];
    pauses.extend([Duration::from_millis(1_000); 120]);
    SenderTimings {
        http_timeout: ANSWER_WITHIN + SLACK,
        pauses,
        window: Duration::from_secs(120),
        ..SenderTimings::default()
    }
}

/// Small city in the middle of a day.
fn small_city(seed: u64, from_ms: i64, behaviour: SenderBehaviour) -> DeliveryStream {
    let size = CitySize {
        rooms: 40,
        sensors: Some(8),
    };
    let habits = CityBehaviour {
        // Clock skew is tested with the clock of the bridge.
        skewed: 0.0,
        ..CityBehaviour::default()
    };
    DeliveryStream::from_seed(seed, size, from_ms, habits, behaviour)
}

/// Sender that redelivers, reorders, repeats and corrects events, and sends stale and invalid ones.
fn busy_behaviour() -> SenderBehaviour {
    SenderBehaviour {
        redelivered: 0.03,
        overlapping: 0.01,
        shuffled: 0.05,
        repeated: 0.02,
        corrected: 0.02,
        stale: 0.01,
        invalid: 0.01,
        ..SenderBehaviour::plain()
    }
}

fn is_all_accepted(finished: &FinishedRun, event_type: EventType) -> bool {
    let ended = |end| finished.ledger.send_outcome_count_of(event_type, end);
    let others = SendOutcome::ALL
        .into_iter()
        .filter(|end| *end != SendOutcome::Accepted);
    others.map(ended).sum::<u64>() == 0
}
