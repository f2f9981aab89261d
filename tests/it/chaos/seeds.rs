//! Runs seeds in parallel lanes; a schedule mostly waits.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::broker::ChaosKafka;
use super::clock;
use super::disk::SmallDisk;
use super::evidence::TrialEvidence;
use super::judge::{BrokenPromise, Judgement, judge};
use super::schedule::{FaultKind, FaultSchedule};
use super::trial_run::{has_spool, run_schedule};
use crate::harness::clock_ms;
use crate::real_kafka::lock_heavy;

/// Default number of fresh seeds.
const DEFAULT_SEEDS: u64 = 20;
/// Time per seed in which new seeds are started. A seed that was not started by then fails the
/// test, whatever the others found. The last ones may take a few times as long.
const TIME_PER_SEED: Duration = Duration::from_secs(20);
/// Default number of parallel lanes, each with its own broker.
const DEFAULT_LANES: u64 = 2;

/// Seed that failed.
struct FailedSeed {
    seed: u64,
    text: String,
}

/// Combined results of all seeds.
#[derive(Default)]
struct SeedTotals {
    faults: BTreeMap<&'static str, usize>,
    left_out: BTreeMap<&'static str, usize>,
    deliveries: u64,
    responses: [u64; 3],
    records: u64,
    copies: u64,
    documented_copies: [u64; 2],
    failures: Vec<FailedSeed>,
    /// Seeds that were not started in time.
    not_run: Vec<u64>,
}

pub fn random_faults_break_no_promise() {
    let _alone = lock_heavy();
    let seeds = choose_seeds();
    println!(
        "chaos: seeds {seeds:?}, spool {}",
        if has_spool() { "on" } else { "off" }
    );
    let began = Instant::now();
    let totals = Mutex::new(SeedTotals::default());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..lane_count().min(seeds.len()) {
            scope.spawn(|| run_lane(&seeds, began, &next, &totals));
        }
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    totals.print(seeds.len(), began.elapsed());
    let failed: Vec<_> = totals.failures.iter().map(|f| f.seed).collect();
    for failure in &totals.failures {
        eprintln!("{}", failure.text);
    }
    let not_run = &totals.not_run;
    assert!(
        failed.is_empty() && not_run.is_empty(),
        "seeds that failed: {failed:?}; NOT RUN within {} s: {not_run:?}",
        time_limit(seeds.len()).as_secs()
    );
}

/// Returns the time after which no further seed is started.
fn time_limit(seeds: usize) -> Duration {
    // A single seed may run while the machine is busy with its start.
    TIME_PER_SEED * u32::try_from(seeds.max(3)).unwrap_or(u32::MAX)
}

fn read_env_number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok().filter(|v| !v.is_empty());
    value.map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v}")))
}

fn lane_count() -> usize {
    let lanes = read_env_number("BUTLR_BRIDGE_TEST_LANES").unwrap_or(DEFAULT_LANES);
    usize::try_from(lanes.max(1)).unwrap_or(usize::MAX)
}

/// Returns the seed in `BUTLR_BRIDGE_TEST_SEED`, or as many new ones as `BUTLR_BRIDGE_TEST_SEEDS`
/// asks for, from the clock.
fn choose_seeds() -> Vec<u64> {
    if let Some(seed) = read_env_number("BUTLR_BRIDGE_TEST_SEED") {
        return vec![seed];
    }
    let first = clock_ms() as u64 / 100 % 1_000_000_000;
    let many = read_env_number("BUTLR_BRIDGE_TEST_SEEDS").unwrap_or(DEFAULT_SEEDS);
    (first..first + many).collect()
}

/// Runs seeds one after the other on one broker.
fn run_lane(seeds: &[u64], trial: Instant, next: &AtomicUsize, totals: &Mutex<SeedTotals>) {
    let mut kafka = None;
    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
        if trial.elapsed() >= time_limit(seeds.len()) {
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.not_run.push(*seed);
            continue;
        }
        let (mut schedule, mut left_out) = (FaultSchedule::draw(*seed), Vec::new());
        for what in unavailable_faults() {
            if schedule.remove_kind(what.name()) > 0 {
                left_out.push(what.name());
            }
        }
        let dir = tempfile::Builder::new()
            .prefix(&format!("butlr-bridge-chaos-{seed}-"))
            .tempdir()
            .expect("a temporary directory");
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let kafka = kafka.get_or_insert_with(ChaosKafka::start);
            run_schedule(&schedule, kafka, dir.path(), judge)
        }));
        let took = began.elapsed();
        let failure = match &result {
            Ok((evidence, judgement)) if judgement.broken_promises.is_empty() => {
                println!("chaos: {}", format_success(evidence, judgement, took));
                None
            }
            Ok((evidence, judgement)) => Some(format_failure(evidence, judgement)),
            Err(panic) => Some(format!("it did not finish: {}\n", panic_message(&**panic))),
        };
        let asked = std::env::var_os("BUTLR_BRIDGE_TEST_KEEP").is_some();
        let files = (asked || failure.is_some()).then(|| keep_files(dir, kafka.as_ref()));
        if let Some(files) = &files {
            println!("chaos: seed {seed}: files kept in {}", files.display());
        }
        let failure = failure.zip(files).map(|(text, files)| {
            // The state of the broker is unknown, so the next seed gets a new one.
            kafka = None;
            let text = format_failure_report(&schedule, &text, &files);
            println!("chaos: seed {seed} FAILED in {:.1} s", took.as_secs_f64());
            FailedSeed { seed: *seed, text }
        });
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(&schedule, left_out, result.ok());
        totals.failures.extend(failure);
    }
}

/// Returns the faults that this machine cannot inject.
fn unavailable_faults() -> Vec<FaultKind> {
    let mut impossible = Vec::new();
    if !SmallDisk::is_possible() || !has_spool() {
        impossible.push(FaultKind::DiskFull);
    }
    if clock::find_faketime_library().is_none() {
        impossible.push(FaultKind::ClockStep(0));
    }
    impossible
}

fn format_success(evidence: &TrialEvidence, judgement: &Judgement, took: Duration) -> String {
    let faults = evidence.schedule.faults.iter().map(|f| f.kind.to_string());
    let faults: Vec<_> = faults.collect();
    let (responses, seed) = (&evidence.responses, evidence.schedule.seed);
    let memory = evidence
        .processes
        .iter()
        .map(|process| process.peak_memory >> 20)
        .max();
    format!(
        "seed {seed} holds in {:.1} s ({}): {} events, {} times 200, {} times 202, {} times 503, {} broken; {} copies ({:?} documented); \
         {} MiB; {}",
        took.as_secs_f64(),
        evidence.phases.trim_end_matches(", "),
        responses.deliveries,
        responses.status_200,
        responses.status_202,
        responses.status_503,
        responses.broken,
        judgement.copies,
        judgement.documented_copies,
        memory.unwrap_or(0),
        faults.join(", "),
    )
}

fn format_failure(evidence: &TrialEvidence, judgement: &Judgement) -> String {
    let mut text = String::new();
    for done in &evidence.applied_faults {
        let (began, ended) = (done.began.as_secs_f64(), done.ended.as_secs_f64());
        text += &format!("  {began:.2} s to {ended:.2} s: {}\n", done.kind);
    }
    text += &format!("  {:?}\n", evidence.responses);
    for BrokenPromise {
        promise,
        details: what,
    } in &judgement.broken_promises
    {
        text += &format!("  BROKEN {promise}: {what}\n");
    }
    text
}

fn format_failure_report(schedule: &FaultSchedule, text: &str, files: &Path) -> String {
    let seed = schedule.seed;
    format!(
        "\nseed {seed} FAILED\n schedule:\n{schedule} what happened:\n{text} files: {}\n again: \
         BUTLR_BRIDGE_TEST_SEED={seed} cargo test --test it -- chaos::random_faults",
        files.display()
    )
}

/// Keeps the journal and the logs of the bridges and the broker.
fn keep_files(dir: tempfile::TempDir, kafka: Option<&ChaosKafka>) -> PathBuf {
    let dir = dir.keep();
    for log in kafka.iter().flat_map(|kafka| kafka.broker.logs()) {
        let name = log
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        let _ = std::fs::copy(&log, dir.join(format!("kafka-{name}")));
    }
    dir
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic")
}

impl SeedTotals {
    fn add(
        &mut self,
        schedule: &FaultSchedule,
        left_out: Vec<&'static str>,
        result: Option<(TrialEvidence, Judgement)>,
    ) {
        for fault in &schedule.faults {
            *self.faults.entry(fault.kind.name()).or_default() += 1;
        }
        for kind in left_out {
            *self.left_out.entry(kind).or_default() += 1;
        }
        if let Some((evidence, judgement)) = result {
            let counts = &evidence.responses;
            self.deliveries += counts.deliveries;
            let responses = [counts.status_200, counts.status_202, counts.status_503];
            for (all, more) in self.responses.iter_mut().zip(responses) {
                *all += more;
            }
            self.records += judgement.records;
            self.copies += judgement.copies;
            for (all, more) in self
                .documented_copies
                .iter_mut()
                .zip(judgement.documented_copies)
            {
                *all += more;
            }
        }
    }

    fn print(&self, seeds: usize, took: Duration) {
        let [stored, spooled, refused] = self.responses;
        println!(
            "chaos: {seeds} seeds in {:.0} s; {} events, {stored} times 200, {spooled} times 202, \
             {refused} times 503; {} records, {} of them copies ({:?} documented: sent again by \
             librdkafka, from the spool)",
            took.as_secs_f64(),
            self.deliveries,
            self.records,
            self.copies,
            self.documented_copies,
        );
        for (kind, times) in &self.faults {
            println!("chaos: {times:4} × {kind}");
        }
        for what in FaultKind::ALL {
            let kind = what.name();
            if let Some(schedules) = self.left_out.get(kind) {
                println!(
                    "chaos: LEFT OUT of {schedules} schedules: {kind}: {}",
                    explain_unavailable(what)
                );
            }
        }
    }
}

/// Explains why a fault cannot be injected here.
fn explain_unavailable(what: FaultKind) -> &'static str {
    match what {
        FaultKind::DiskFull if !has_spool() => "there is no spool",
        FaultKind::DiskFull => "no tmpfs can be mounted here",
        _ => "libfaketime is not installed, or there is no C compiler",
    }
}
