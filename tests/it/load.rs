//! Many senders at a time, each on a connection of its own, and what each of their events was answered: the simulator's
//! events, with a client that never tries again and so knows of each request what became of it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use butlr_simulate::city::{CityBehaviour, CitySize};
use butlr_simulate::payload::PayloadRenderer;
use butlr_simulate::stream::{DeliveryStream, SenderBehaviour};

use crate::harness::{TestRecord, unique_ms};

/// Longer than any answer may take: a sender that waits so long has met a bug.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two events of one sender: the load is to be steady, not to starve the tests that run beside it.
const RETRY_PAUSE: Duration = Duration::from_millis(4);

/// One event sent, and what came back.
#[derive(Debug)]
pub struct LoadAttempt {
    pub id: String,
    pub body: String,
    /// The status; `None` where the connection ended without an answer.
    pub status: Option<u16>,
    pub sent: Instant,
    pub took: Duration,
}

/// Counts of a load under way.
#[derive(Default)]
struct LoadCounts {
    accepted: AtomicUsize,
    unanswered: AtomicUsize,
}

/// Senders at work until stopped; they also stop when this is dropped.
pub struct BridgeLoad {
    stop: Arc<AtomicBool>,
    counts: Arc<LoadCounts>,
    senders: Vec<JoinHandle<Vec<LoadAttempt>>>,
}

impl BridgeLoad {
    /// `connections` senders of single events of all ten types, every id once.
    pub fn start(address: SocketAddr, connections: usize) -> Self {
        let city = Arc::new(Mutex::new(CitySource::grow()));
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::<LoadCounts>::default();
        let senders = (0..connections)
            .map(|_| {
                let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
                let city = Arc::clone(&city);
                std::thread::spawn(move || send(address, &city, &stop, &counts))
            })
            .collect();
        Self {
            stop,
            counts,
            senders,
        }
    }

    /// How many events were answered 200 so far.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// How many events got no answer so far.
    pub fn unanswered(&self) -> usize {
        self.counts.unanswered.load(Ordering::Relaxed)
    }

    /// Ends the senders after their last answer; everything that was sent, oldest first.
    pub fn stop(mut self) -> Vec<LoadAttempt> {
        self.stop.store(true, Ordering::Relaxed);
        let senders = std::mem::take(&mut self.senders);
        let all = senders.into_iter().map(|s| s.join().expect("a sender"));
        let mut attempts: Vec<LoadAttempt> = all.flatten().collect();
        attempts.sort_by_key(|a| a.sent);
        attempts
    }
}

impl Drop for BridgeLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            let _ = sender.join();
        }
    }
}

/// Events of a day in a city, each once.
struct CitySource {
    stream: DeliveryStream,
    renderer: PayloadRenderer,
}

impl CitySource {
    /// Fewer sensors than rooms, or nearly all would be DETECTIONS. No two are alike.
    fn grow() -> Self {
        static CITIES: AtomicUsize = AtomicUsize::new(0);
        let seed = CITIES.fetch_add(1, Ordering::Relaxed) as u64;
        let size = CitySize {
            rooms: 100,
            sensors: Some(5),
        };
        let habits = CityBehaviour {
            skewed: 0.0,
            recompute: false,
            ..CityBehaviour::default()
        };
        let yesterday = unique_ms() - 24 * 3_600_000;
        let stream =
            DeliveryStream::from_seed(seed, size, yesterday, habits, SenderBehaviour::plain());
        Self {
            renderer: PayloadRenderer::new(Arc::clone(stream.plan())),
            stream,
        }
    }

    /// Id and body.
    fn next_event(&mut self) -> (String, String) {
        let delivery = self.stream.next().expect("endless");
        let mut body = Vec::new();
        self.renderer.render(&delivery, &mut body);
        let id = format!("event_{}", delivery.message.id);
        (id, String::from_utf8(body).expect("JSON"))
    }
}

fn send(
    address: SocketAddr,
    city: &Mutex<CitySource>,
    stop: &AtomicBool,
    counts: &LoadCounts,
) -> Vec<LoadAttempt> {
    let mut attempts = Vec::new();
    let mut connection: Option<BufReader<TcpStream>> = None;
    while !stop.load(Ordering::Relaxed) {
        let (id, body) = city.lock().expect("no panic holds it").next_event();
        let sent = Instant::now();
        let (status, keep) = match connection.take().map_or_else(|| connect(address), Ok) {
            Err(_) => (None, None),
            Ok(open) => match exchange(open, &body) {
                Ok((status, keep)) => (Some(status), keep),
                Err(_) => (None, None),
            },
        };
        connection = keep;
        attempts.push(LoadAttempt {
            id,
            body,
            status,
            sent,
            took: sent.elapsed(),
        });
        match status {
            Some(200) => {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(RETRY_PAUSE);
            }
            status => {
                if status.is_none() {
                    counts.unanswered.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(5 * RETRY_PAUSE);
            }
        }
    }
    attempts
}

fn connect(address: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

type ExchangeResult = (u16, Option<BufReader<TcpStream>>);

/// One request and its answer; the connection is given back when it stays open.
fn exchange(mut connection: BufReader<TcpStream>, body: &str) -> std::io::Result<ExchangeResult> {
    let length = body.len();
    let head =
        format!("POST /v1/events HTTP/1.1\r\nhost: bridge\r\ncontent-length: {length}\r\n\r\n");
    connection.get_mut().write_all((head + body).as_bytes())?;
    let broken = || std::io::Error::other("not an HTTP answer");
    let (mut status, mut length, mut keep) = (None, 0, true);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(broken());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ") {
            None => status = line.split(' ').nth(1).and_then(|s| s.parse().ok()),
            Some(("content-length", value)) => length = value.parse().map_err(|_| broken())?,
            Some(("connection", value)) => keep = value != "close",
            Some(_) => {}
        }
    }
    connection.read_exact(&mut vec![0; length])?;
    Ok((status.ok_or_else(broken)?, keep.then_some(connection)))
}

/// How many attempts had each status; `None` is "no answer".
pub fn count_by_status(attempts: &[LoadAttempt]) -> HashMap<Option<u16>, usize> {
    let mut counts = HashMap::new();
    for attempt in attempts {
        *counts.entry(attempt.status).or_default() += 1;
    }
    counts
}

/// How many events were taken and answered.
pub fn count_events(attempts: &[LoadAttempt]) -> u64 {
    attempts.iter().filter(|a| a.status.is_some()).count() as u64
}

/// Every event answered 200 is among the records, with the bytes that were sent; and none is there twice, since each
/// was sent once.
#[track_caller]
pub fn assert_stored(attempts: &[LoadAttempt], records: &[TestRecord]) {
    let copies = stored_copies(attempts, records);
    assert!(copies.is_empty(), "there twice: {copies:?}");
}

/// The same, but for the records that librdkafka itself stored twice: where records time out it goes on under a new
/// epoch, and what it tries again in that moment the broker does not know for a copy (librdkafka's issue 4953). Such a
/// copy has all of its first in it, the time of receipt, too.
#[track_caller]
pub fn assert_stored_through_timeouts(attempts: &[LoadAttempt], records: &[TestRecord]) {
    let copies = stored_copies(attempts, records);
    assert!(
        copies.len() * 100 <= records.len(),
        "there twice: {copies:?}"
    );
    for copy in copies {
        eprintln!("stored twice by librdkafka: {copy}");
    }
}

fn stored_copies(attempts: &[LoadAttempt], records: &[TestRecord]) -> Vec<String> {
    let mut copies = Vec::new();
    let mut stored: HashMap<&str, &TestRecord> = HashMap::new();
    for record in records {
        let id = record.header("ce_id").expect("an id");
        if let Some(other) = stored.insert(id, record) {
            assert_eq!(
                (&record.value, &record.headers, record.partition),
                (&other.value, &other.headers, other.partition),
                "two requests stored {id}"
            );
            copies.push(id.to_owned());
        }
    }
    let accepted = attempts.iter().filter(|a| a.status == Some(200));
    let mut lost = Vec::new();
    for attempt in accepted {
        match stored.get(attempt.id.as_str()) {
            None => lost.push(&attempt.id),
            Some(record) => assert_eq!(record.value, attempt.body.as_bytes(), "{}", attempt.id),
        }
    }
    assert!(
        lost.is_empty(),
        "{} events answered 200 are not in Kafka: {:?} …",
        lost.len(),
        &lost[..lost.len().min(5)]
    );
    copies
}
