//! Load on a bridge: parallel senders, each on its own connection, with events from the simulator.
//! Unlike Butlr's sender they never retry, so the result of each request is known.

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

/// Read and write timeout of a sender. No response may take that long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two events of one sender, so that the load does not starve tests beside it.
const RETRY_PAUSE: Duration = Duration::from_millis(4);

/// One event sent, and its result.
#[derive(Debug)]
pub struct LoadAttempt {
    pub id: String,
    pub body: String,
    /// Status code; `None` if the connection ended without a response.
    pub status: Option<u16>,
    pub sent: Instant,
    pub took: Duration,
}

/// Counts of a running load.
#[derive(Default)]
struct LoadCounts {
    accepted: AtomicUsize,
    unanswered: AtomicUsize,
}

/// Running senders; they stop on [`stop`](Self::stop) or on drop.
pub struct BridgeLoad {
    stop: Arc<AtomicBool>,
    counts: Arc<LoadCounts>,
    senders: Vec<JoinHandle<Vec<LoadAttempt>>>,
}

impl BridgeLoad {
    /// Starts `connections` senders of single events of all ten types, each with its own id.
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

    /// Returns how many events got a 200 so far.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Returns how many events got no response so far.
    pub fn unanswered(&self) -> usize {
        self.counts.unanswered.load(Ordering::Relaxed)
    }

    /// Stops the senders after their last response and returns all attempts, oldest first.
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

/// One day of events of a simulated city, each once.
struct CitySource {
    stream: DeliveryStream,
    renderer: PayloadRenderer,
}

impl CitySource {
    /// Has fewer sensors than rooms, because otherwise nearly all events would be DETECTIONS. No
    /// two cities are alike.
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

    /// Returns id and body.
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
        let (id, body) = city.lock().expect("lock not poisoned").next_event();
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

/// Sends one request and reads the response. Returns the connection if it stays open.
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

/// Counts the attempts by status; `None` is "no response".
pub fn count_by_status(attempts: &[LoadAttempt]) -> HashMap<Option<u16>, usize> {
    let mut counts = HashMap::new();
    for attempt in attempts {
        *counts.entry(attempt.status).or_default() += 1;
    }
    counts
}

/// Counts the events that the bridge received.
pub fn count_events(attempts: &[LoadAttempt]) -> u64 {
    attempts.iter().filter(|a| a.status.is_some()).count() as u64
}

/// Checks that every event with a 200 is stored with the bytes that were sent, and that none is
/// stored twice.
#[track_caller]
pub fn assert_stored(attempts: &[LoadAttempt], records: &[TestRecord]) {
    let copies = stored_copies(attempts, records);
    assert!(copies.is_empty(), "stored twice: {copies:?}");
}

/// Like [`assert_stored`], but accepts records that librdkafka itself stored twice. After a record
/// timed out, it continues under a new producer epoch, so the broker does not recognise a retry as
/// a copy (librdkafka issue 4953). Such a copy is identical, including the time of receipt.
#[track_caller]
pub fn assert_stored_through_timeouts(attempts: &[LoadAttempt], records: &[TestRecord]) {
    let copies = stored_copies(attempts, records);
    assert!(
        copies.len() * 100 <= records.len(),
        "stored twice: {copies:?}"
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
