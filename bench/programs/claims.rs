//! Benchmark program: what duplicate detection costs by itself, without HTTP and Kafka. Prints, as Markdown, the bytes that an entry
//! takes while tables grow (their bound is far off), and claims/s on one thread and on two, among one to two million entries. Claims/s
//! go by the clock on the wall, so that a thread which waits for another counts as slow; for the rest of the machine see the time on a
//! processor beside it.

use std::env;
use std::error::Error;
use std::fs;
use std::ops::Range;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use butlr_bridge::config::{DedupConfig, DedupStore, DuplicateHandling};
use butlr_bridge::dedup::claim::{Claim, Decision};
use butlr_bridge::dedup::memory::MemoryStore;
use butlr_bridge::dedup::{EventFacts, IdHash, OccupancyKey, ReadingHash, SourceKey};
use butlr_bridge::delivery::{OnFailure, RecordProducer, WakerQueue};
use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_bridge::kafka::lane::{LaneLimits, TopicLane};
use butlr_bridge::kafka::report::{DeliveryOutcome, Receipt};
use butlr_bridge::metrics::Metrics;
use butlr_bridge::record::ProducerRecord;
use butlr_event::EventType;
use butlr_event::destination::Destination;
use butlr_event::ksuid::Ksuid;
use rdkafka::config::ClientConfig;
use rdkafka::message::OwnedHeaders;
use xxhash_rust::xxh3::xxh3_64_with_seed;

type Outcome<T> = Result<T, Box<dyn Error>>;

const MILLION: u64 = 1_000_000;

/// Each figure of speed is the median of so many.
const ROUNDS: usize = 5;

/// Events in flight at a time.
const IN_FLIGHT: usize = 256;

/// Spaces or sensors that the events belong to.
const SOURCES: u64 = 10_000;

#[derive(Clone, Copy, PartialEq)]
enum ClaimKind {
    /// An id only.
    Detections,
    /// An id, and a (type, space, timestamp) of its own.
    Occupancy,
}

impl ClaimKind {
    fn name(self) -> &'static str {
        match self {
            Self::Detections => "id",
            Self::Occupancy => "id and value",
        }
    }
}

/// The n-th event's facts; hashing and rendering are not what is measured here.
struct BenchEvent {
    id: String,
    kind: ClaimKind,
    number: u64,
    keys: [u64; 4],
}

impl BenchEvent {
    fn new(kind: ClaimKind, number: u64) -> Self {
        let key = |seed, number: u64| xxh3_64_with_seed(&number.to_le_bytes(), seed);
        let id = match kind {
            ClaimKind::Detections => String::new(),
            ClaimKind::Occupancy => {
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

    fn facts(&self) -> EventFacts<'_> {
        let [id, reading, occupancy, source] = self.keys;
        EventFacts {
            id: &self.id,
            event_type: Some(EventType::RoomOccupancy),
            id_hash: IdHash(id),
            reading: ReadingHash(reading),
            occupancy_key: (self.kind == ClaimKind::Occupancy).then_some(OccupancyKey(occupancy)),
            source_key: SourceKey(source),
            timestamp_ms: 1_700_000_000_000 + (self.number / SOURCES) as i64,
            has_plausible_time: true,
        }
    }
}

fn make_events(kind: ClaimKind, numbers: Range<u64>) -> Vec<BenchEvent> {
    numbers
        .map(|number| BenchEvent::new(kind, number))
        .collect()
}

fn dedup_settings() -> DedupConfig {
    DedupConfig {
        store: DedupStore::Memory,
        redelivery: DuplicateHandling::Drop,
        repeat: DuplicateHandling::Drop,
        id_window: Duration::from_secs(900),
        reading_window: Duration::from_secs(900),
        max_ids: 16 * MILLION as usize,
        max_readings: 16 * MILLION as usize,
        rebuild_within: Duration::ZERO,
    }
}

/// For how long this thread has been on a processor: others that run on this machine are not to count.
fn thread_cpu_time() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = schedstat
        .split(' ')
        .next()
        .and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("Linux tells"))
}

/// Claims and commits new events.
fn publish(memory: &Arc<MemoryStore>, made: &[BenchEvent], receipt: &Receipt) {
    let mut claims: Vec<Claim> = Vec::with_capacity(IN_FLIGHT);
    for made in made.chunks(IN_FLIGHT) {
        for made in made {
            match memory.claim(&made.facts(), Instant::now()) {
                Ok(Decision::Publish(claim)) => claims.push(claim),
                other => panic!("event {} is new, but: {other:?}", made.number),
            }
        }
        for claim in claims.drain(..) {
            claim.commit(receipt, Instant::now());
        }
    }
}

/// Claims events that are stored.
fn redeliver(memory: &Arc<MemoryStore>, made: &[BenchEvent]) {
    for made in made {
        let next = memory.claim(&made.facts(), Instant::now());
        assert!(matches!(next, Ok(Decision::Duplicate { .. })), "{next:?}");
    }
}

/// Publishes without making all events at once.
fn publish_in_batches(
    memory: &Arc<MemoryStore>,
    kind: ClaimKind,
    numbers: Range<u64>,
    receipt: &Receipt,
) {
    const AT_A_TIME: u64 = 4096;
    for first in numbers.clone().step_by(AT_A_TIME as usize) {
        let last = numbers.end.min(first + AT_A_TIME);
        publish(memory, &make_events(kind, first..last), receipt);
    }
}

/// Figures of a run over `events`.
#[derive(Clone, Copy)]
struct MeasuredRun {
    events: u64,
    /// From the first thread's start to the last one's end.
    wall: Duration,
    /// On processors, all threads together.
    cpu: Duration,
}

impl MeasuredRun {
    fn per_second(&self) -> f64 {
        self.events as f64 / self.wall.as_secs_f64()
    }

    fn cpu_nanos(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.events as f64
    }
}

/// Runs `work` on `threads` threads at a time, each on its share of the events, which are made before.
fn run_on_threads(
    threads: u64,
    kind: ClaimKind,
    numbers: Range<u64>,
    work: impl Fn(&[BenchEvent]) + Sync,
) -> MeasuredRun {
    let share = (numbers.end - numbers.start) / threads;
    let ready = Barrier::new(threads as usize);
    let run = |thread: u64| {
        let first = numbers.start + thread * share;
        let made = make_events(kind, first..first + share);
        ready.wait();
        let (start, cpu) = (Instant::now(), thread_cpu_time());
        work(&made);
        (start, Instant::now(), thread_cpu_time() - cpu)
    };
    let ran: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect();
        let ended = running.into_iter().map(|t| t.join().expect("it ends"));
        ended.collect()
    });
    let start = ran.iter().map(|(start, _, _)| *start).min();
    let end = ran.iter().map(|(_, end, _)| *end).max();
    MeasuredRun {
        events: share * threads,
        wall: end.expect("a thread") - start.expect("a thread"),
        cpu: ran.iter().map(|(_, _, cpu)| *cpu).sum(),
    }
}

/// New events, then the same and those before them once more.
fn run_round(threads: u64, kind: ClaimKind, receipt: &Receipt) -> [MeasuredRun; 2] {
    let memory = MemoryStore::new(&dedup_settings(), Instant::now());
    publish_in_batches(&memory, kind, 0..MILLION, receipt);
    let new = |made: &[BenchEvent]| publish(&memory, made, receipt);
    let again = |made: &[BenchEvent]| redeliver(&memory, made);
    [
        run_on_threads(threads, kind, MILLION..2 * MILLION, new),
        run_on_threads(threads, kind, 0..2 * MILLION, again),
    ]
}

fn print_speed(receipt: &Receipt) {
    println!("\n| claims | threads | million/s | ÷ one thread | CPU ns each |");
    println!("|---|---:|---:|---:|---:|");
    for kind in [ClaimKind::Detections, ClaimKind::Occupancy] {
        // One and two threads in turns, so that both meet the same conditions.
        let rounds: Vec<[[MeasuredRun; 2]; 2]> = (0..ROUNDS)
            .map(|_| [1, 2].map(|threads| run_round(threads, kind, receipt)))
            .collect();
        for (what, name) in ["new: claim and commit", "stored before: claim"]
            .into_iter()
            .enumerate()
        {
            for threads in [0, 1] {
                let of = |figure: &dyn Fn(&[[MeasuredRun; 2]; 2]) -> f64| {
                    median(rounds.iter().map(figure))
                };
                println!(
                    "| {}, {name} | {} | {:.2} | {:.2} | {:.0} |",
                    kind.name(),
                    threads + 1,
                    of(&|round| round[threads][what].per_second()) / 1e6,
                    of(&|round| round[threads][what].per_second() / round[0][what].per_second()),
                    of(&|round| round[threads][what].cpu_nanos()),
                );
            }
        }
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Resident memory of this process, in bytes.
fn resident_bytes() -> Outcome<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .ok_or("no resident pages")?
        .parse()?;
    Ok(pages * 4096)
}

/// Memory of the entries; each case runs in a process of its own.
fn print_bytes(kind: ClaimKind, entries: u64, receipt: &Receipt) -> Outcome<()> {
    let memory = MemoryStore::new(&dedup_settings(), Instant::now());
    // So that the sources, and what is needed once, are not counted.
    publish_in_batches(&memory, ClaimKind::Detections, 0..SOURCES, receipt);
    let before = resident_bytes()?;
    publish_in_batches(&memory, kind, SOURCES..SOURCES + entries, receipt);
    let taken = resident_bytes()? - before;
    let found = memory.entry_counts();
    let expected = match kind {
        ClaimKind::Detections => 0,
        ClaimKind::Occupancy => entries,
    };
    if (found.ids as u64, found.readings as u64) != (SOURCES + entries, expected) {
        return Err(format!("not all is remembered: {found:?}").into());
    }
    println!(
        "| {} million × {} | {:.1} | {} |",
        entries / MILLION,
        kind.name(),
        taken as f64 / entries as f64,
        taken >> 20,
    );
    Ok(())
}

fn main() -> Outcome<()> {
    let receipt = make_receipt()?;
    let cases = [
        (ClaimKind::Detections, MILLION),
        (ClaimKind::Detections, 10 * MILLION),
        (ClaimKind::Occupancy, MILLION),
        (ClaimKind::Occupancy, 10 * MILLION),
    ];
    if let Some(case) = env::args().nth(1) {
        let (kind, entries) = cases[case.parse::<usize>()?];
        return print_bytes(kind, entries, &receipt);
    }
    println!("| entries | bytes each | MiB |\n|---|---:|---:|");
    for case in 0..cases.len() {
        let status = Command::new(env::current_exe()?)
            .arg(case.to_string())
            .status()?;
        if !status.success() {
            return Err("a case failed".into());
        }
    }
    print_speed(&receipt);
    Ok(())
}

/// Claims are committed with a delivery's receipt, which only a delivery gives: one record to a broker in this process.
fn make_receipt() -> Outcome<Receipt> {
    const TOPIC: &str = "claims";
    let broker = EmbeddedKafka::start(&[(TOPIC.to_owned(), 1)])?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap_servers());
    let topics = EventType::ALL.map(|event_type| event_type.kebab_name().to_owned());
    let producer = RecordProducer::start(config, Arc::new(Metrics::new(&topics)), Arc::default())?;
    let lane = TopicLane::new(
        Destination::Events(EventType::Traffic),
        TOPIC.to_owned(),
        LaneLimits {
            events: 1,
            bytes: 1024,
        },
    );
    let permit = lane
        .acquire_permit(1)
        .map_err(|rejection| format!("{rejection:?}"))?;
    let record = ProducerRecord {
        topic: TOPIC,
        key: "".into(),
        value: b"x",
        timestamp_ms: 1,
        timestamp_replacement: None,
        headers: OwnedHeaders::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let wakeups: Arc<WakerQueue> = Arc::default();
    let delivery = producer.send(record, permit, None, OnFailure::ResolveClaim, &wakeups);
    let delivery = delivery.map_err(|rejection| format!("{rejection:?}"))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = delivery => outcome,
            () = wakeups.run() => unreachable!("it does not end"),
        }
    });
    match outcome {
        DeliveryOutcome::Stored(receipt) => Ok(receipt),
        failed => Err(format!("the record is not confirmed: {failed:?}").into()),
    }
}
