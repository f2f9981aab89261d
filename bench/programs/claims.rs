//! Benchmark program: what duplicate detection costs by itself, without HTTP and Kafka. Prints claims/s, on one thread and
//! on two, among one to two million entries, and the bytes that an entry takes while tables grow (their bound is far off). Times are
//! those on a processor, so that others who run on this machine change them less.

use std::env;
use std::error::Error;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use butlr_bridge::config::{Dedup, Handling, Store};
use butlr_bridge::dedup::Facts;
use butlr_bridge::dedup::claim::{Claim, Next};
use butlr_bridge::dedup::memory::Memory;
use butlr_bridge::event::EventType;
use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_bridge::kafka::lane::Lane;
use butlr_bridge::kafka::producer::Producer;
use butlr_bridge::kafka::report::{Receipt, Report, Wakeups};
use butlr_bridge::ksuid::Ksuid;
use butlr_bridge::metrics::Metrics;
use butlr_bridge::record::Record;
use rdkafka::config::ClientConfig;
use rdkafka::message::OwnedHeaders;
use xxhash_rust::xxh3::xxh3_64_with_seed;

type Outcome<T> = Result<T, Box<dyn Error>>;

const MILLION: u64 = 1_000_000;

/// How many events are under way at a time.
const IN_FLIGHT: u64 = 256;

/// How many spaces or sensors they are of.
const SOURCES: u64 = 10_000;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// An id only.
    Detections,
    /// An id, and a (type, space, timestamp) of its own.
    Occupancy,
}

/// The n-th event's facts; hashing and rendering are not what is measured here.
struct Made {
    id: String,
    kind: Kind,
    number: u64,
    keys: [u64; 4],
}

impl Made {
    fn new(kind: Kind, number: u64) -> Self {
        let key = |seed, number: u64| xxh3_64_with_seed(&number.to_le_bytes(), seed);
        let id = match kind {
            Kind::Detections => String::new(),
            Kind::Occupancy => {
                let payload = u128::from(key(5, number)).to_be_bytes();
                format!("event_{}", Ksuid::new(1_700_000_000_000, payload))
            }
        };
        let source = key(4, number % SOURCES);
        Self {
            id,
            kind,
            number,
            keys: [key(1, number), key(2, number), key(3, number), source],
        }
    }

    fn facts(&self) -> Facts<'_> {
        let [id_key, reading, cell, source] = self.keys;
        Facts {
            id: &self.id,
            id_key,
            reading,
            cell: (self.kind == Kind::Occupancy).then_some(cell),
            source,
            timestamp_ms: 1_700_000_000_000 + (self.number / SOURCES) as i64,
            plausible_time: true,
        }
    }
}

fn settings() -> Dedup {
    Dedup {
        store: Store::Memory,
        redelivery: Handling::Drop,
        repeat: Handling::Drop,
        id_window: Duration::from_secs(900),
        reading_window: Duration::from_secs(900),
        max_ids: 16 * MILLION as usize,
        max_readings: 4 * MILLION as usize,
        rebuild_within: Duration::ZERO,
    }
}

/// For how long this thread has been on a processor: others that run on this machine are not to count.
fn on_cpu() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = schedstat
        .split(' ')
        .next()
        .and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("Linux tells"))
}

/// Claims and commits events `from..to`; the time that took, without the making of them.
fn publish(memory: &Arc<Memory>, kind: Kind, from: u64, to: u64, receipt: &Receipt) -> Duration {
    let mut took = Duration::ZERO;
    let mut claims: Vec<Claim> = Vec::with_capacity(IN_FLIGHT as usize);
    for first in (from..to).step_by(16 * IN_FLIGHT as usize) {
        let last = to.min(first + 16 * IN_FLIGHT);
        let made: Vec<_> = (first..last)
            .map(|number| Made::new(kind, number))
            .collect();
        let start = on_cpu();
        for made in made.chunks(IN_FLIGHT as usize) {
            for made in made {
                match memory.claim(&made.facts(), Instant::now()) {
                    Next::Publish(claim) => claims.push(claim),
                    other => panic!("event {} is new, but: {other:?}", made.number),
                }
            }
            for claim in claims.drain(..) {
                claim.commit(receipt, Instant::now());
            }
        }
        took += on_cpu() - start;
    }
    took
}

/// Claims events that are stored.
fn deliver_again(memory: &Arc<Memory>, kind: Kind, from: u64, to: u64) -> Duration {
    let mut took = Duration::ZERO;
    for first in (from..to).step_by(4096) {
        let last = to.min(first + 4096);
        let made: Vec<_> = (first..last)
            .map(|number| Made::new(kind, number))
            .collect();
        let start = on_cpu();
        for made in &made {
            let next = memory.claim(&made.facts(), Instant::now());
            assert!(matches!(next, Next::Duplicate(_)), "{next:?}");
        }
        took += on_cpu() - start;
    }
    took
}

/// Runs `work` on `threads` threads, each on its share of `from..to`; a claim's nanoseconds on one of them, and claims/s of
/// all.
fn on_threads(
    threads: u64,
    from: u64,
    to: u64,
    work: impl Fn(u64, u64) -> Duration + Sync,
) -> String {
    let share = (to - from) / threads;
    let took: Vec<Duration> = thread::scope(|scope| {
        let run = |thread: u64| {
            let (work, from) = (&work, from + thread * share);
            scope.spawn(move || work(from, from + share))
        };
        let running: Vec<_> = (0..threads).map(run).collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("it ends"))
            .collect()
    });
    let a_second: f64 = took
        .iter()
        .map(|took| share as f64 / took.as_secs_f64())
        .sum();
    let nanos = 1e9 * threads as f64 / a_second;
    format!("{nanos:6.0} ns each, {:6.2} million/s", a_second / 1e6)
}

fn speed(receipt: &Receipt) {
    for (kind, what) in [(Kind::Detections, "id"), (Kind::Occupancy, "id, value")] {
        for threads in [1, 2] {
            let memory = Memory::new(&settings(), Instant::now());
            publish(&memory, kind, 0, MILLION, receipt);
            let publish = |from, to| publish(&memory, kind, from, to, receipt);
            let new = on_threads(threads, MILLION, 2 * MILLION, publish);
            let again = |from, to| deliver_again(&memory, kind, from, to);
            let known = on_threads(threads, 0, 2 * MILLION, again);
            println!(
                "{what:<10} {threads} thread(s)  claim + commit, new: {new}   claim, stored: {known}"
            );
        }
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> Outcome<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .ok_or("no resident pages")?
        .parse()?;
    Ok(pages * 4096)
}

/// What entries take, each case in a process of its own.
fn bytes(kind: Kind, entries: u64, receipt: &Receipt) -> Outcome<()> {
    let memory = Memory::new(&settings(), Instant::now());
    // So that the sources, and what is needed once, are not counted.
    publish(&memory, Kind::Detections, 0, SOURCES, receipt);
    let before = resident()?;
    publish(&memory, kind, SOURCES, SOURCES + entries, receipt);
    let taken = resident()? - before;
    println!(
        "{entries:>9} {:<18} {:6.1} bytes each ({} MiB; {:?})",
        match kind {
            Kind::Detections => "ids",
            Kind::Occupancy => "ids with a value",
        },
        taken as f64 / entries as f64,
        taken >> 20,
        memory.entries(),
    );
    Ok(())
}

fn main() -> Outcome<()> {
    let receipt = receipt()?;
    let cases = [
        (Kind::Detections, MILLION),
        (Kind::Detections, 10 * MILLION),
        (Kind::Occupancy, MILLION),
    ];
    if let Some(case) = env::args().nth(1) {
        let (kind, entries) = cases[case.parse::<usize>()?];
        return bytes(kind, entries, &receipt);
    }
    for case in 0..cases.len() {
        let status = Command::new(env::current_exe()?)
            .arg(case.to_string())
            .status()?;
        if !status.success() {
            return Err("a case failed".into());
        }
    }
    speed(&receipt);
    Ok(())
}

/// Claims are committed with a delivery's receipt, which only a delivery gives: one record to a broker in this process.
fn receipt() -> Outcome<Receipt> {
    const TOPIC: &str = "claims";
    let broker = EmbeddedKafka::start(&[(TOPIC.to_owned(), 1)])?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap_servers());
    let topics = EventType::ALL.map(|event_type| event_type.kebab().to_owned());
    let producer = Producer::start(config, Arc::new(Metrics::new(&topics)), Arc::default())?;
    let lane = Lane::new(EventType::Traffic, TOPIC.to_owned(), 1, 1024);
    let permit = lane
        .enter(1)
        .map_err(|rejection| format!("{rejection:?}"))?;
    let record = Record {
        topic: TOPIC,
        key: "",
        value: b"x",
        timestamp_ms: 1,
        replaced: None,
        headers: OwnedHeaders::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let wakeups: Arc<Wakeups> = Arc::default();
    let delivery = producer.send(record, permit, None, &wakeups);
    let delivery = delivery.map_err(|rejection| format!("{rejection:?}"))?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = delivery => report,
            () = wakeups.run() => unreachable!("it does not end"),
        }
    });
    match report {
        Report::Stored(receipt) => Ok(receipt),
        Report::Failed(code) => Err(code.to_string().into()),
    }
}
