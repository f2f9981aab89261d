//! Benchmark program (b): the ceiling of librdkafka alone, in one loop without HTTP. It also
//! creates and deletes the topics of the other programs and counts their records, so the benchmark
//! needs no Kafka tools.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::rt;
use clap::{Args, Parser, Subcommand};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:9092", global = true)]
    kafka: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends events for some time, waits for all delivery reports and prints the figures as JSON.
    Produce(ProduceArguments),
    /// Creates topics and waits until their partitions have leaders.
    Create {
        #[arg(long, default_value_t = 6)]
        partitions: i32,
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Prints the number of records in each topic as JSON.
    Count {
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Deletes topics; a missing topic is not an error.
    Delete {
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Prints librdkafka's version.
    Version,
}

#[derive(Args)]
struct ProduceArguments {
    #[arg(long)]
    topic: String,
    /// File with events of the simulator, one per line; their ids and times are replaced.
    #[arg(long)]
    events: PathBuf,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Maximum number of events without a delivery report.
    #[arg(long, default_value_t = 10_000)]
    in_flight: u64,
}

fn main() -> Outcome<()> {
    let Options { kafka, command } = Options::parse();
    match command {
        Command::Produce(options) => produce(&kafka, &options),
        Command::Create { partitions, topics } => create(&kafka, partitions, &topics),
        Command::Count { topics } => count(&kafka, &topics),
        Command::Delete { topics } => delete(&kafka, &topics),
        Command::Version => {
            println!("{}", rdkafka::util::get_rdkafka_version().1);
            Ok(())
        }
    }
}

/// Counts delivery reports.
#[derive(Default)]
struct ReportCounts {
    delivered: AtomicU64,
    failed: AtomicU64,
}

impl ReportCounts {
    fn total(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

impl ClientContext for ReportCounts {}

impl ProducerContext for ReportCounts {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() {
            &self.delivered
        } else {
            &self.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// An event as a template: its number and time are overwritten in place.
struct EventTemplate {
    key: String,
    value: Vec<u8>,
    number_at: usize,
    timestamp_at: usize,
}

const NUMBER_DIGITS: usize = 11;
const TIMESTAMP_DIGITS: usize = 13;

impl EventTemplate {
    fn new(line: &str, token: &str) -> Outcome<Self> {
        let event: serde_json::Value = serde_json::from_str(line)?;
        let id = event["id"].as_str().ok_or("no id")?;
        let id_at = line.find(id).ok_or("no id")? + "event_".len();
        let timestamp = event["timestamp"].to_string();
        if id.len() != "event_".len() + token.len() + NUMBER_DIGITS
            || timestamp.len() != TIMESTAMP_DIGITS
        {
            return Err("not an event of the simulator".into());
        }
        let mut value = line.as_bytes().to_vec();
        value[id_at..][..token.len()].copy_from_slice(token.as_bytes());
        Ok(Self {
            key: event["metadata"]["room_id"]
                .as_str()
                .ok_or("no room id")?
                .to_owned(),
            number_at: id_at + token.len(),
            timestamp_at: line.find(&timestamp).ok_or("no timestamp")?,
            value,
        })
    }

    fn fill(&mut self, number: u64, timestamp: i64) {
        write_digits(&mut self.value[self.number_at..][..NUMBER_DIGITS], number);
        write_digits(
            &mut self.value[self.timestamp_at..][..TIMESTAMP_DIGITS],
            timestamp.unsigned_abs(),
        );
    }
}

fn write_digits(field: &mut [u8], mut number: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn produce(kafka: &str, options: &ProduceArguments) -> Outcome<()> {
    let producer: BaseProducer<ReportCounts> = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        .set("allow.auto.create.topics", "false")
        .create_with_context(ReportCounts::default())?;
    // Connects now, so that the first second is not spent on it.
    producer
        .client()
        .fetch_metadata(Some(&options.topic), KAFKA_TIMEOUT)?;

    let started_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let token = format!("{started_ms:016}");
    let mut events = fs::read_to_string(&options.events)?
        .lines()
        .map(|line| EventTemplate::new(line, &token))
        .collect::<Outcome<Vec<_>>>()?;
    let rooms = events.len() as u64;

    let cpu_before = cpu_seconds()?;
    let start = Instant::now();
    let (mut sent, mut refused) = (0u64, 0u64);
    while start.elapsed().as_secs_f64() < options.seconds {
        while sent - producer.context().total() < options.in_flight {
            let timestamp = started_ms + (sent / rooms) as i64;
            let event = &mut events[(sent % rooms) as usize];
            event.fill(sent, timestamp);
            let record = BaseRecord::to(&options.topic)
                .key(&event.key)
                .payload(&event.value)
                .timestamp(timestamp);
            if producer.send(record).is_err() {
                refused += 1;
                break;
            }
            sent += 1;
            if sent % 256 == 0 {
                producer.poll(Duration::ZERO);
                if start.elapsed().as_secs_f64() >= options.seconds {
                    break;
                }
            }
        }
        // The limit of events in flight is reached, so handle reports for a while.
        producer.poll(Duration::from_micros(200));
    }
    producer.flush(KAFKA_TIMEOUT)?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds()? - cpu_before;

    let delivered = producer.context().delivered.load(Ordering::Relaxed);
    println!(
        "{}",
        json!({
            "accepted": delivered,
            "failed": producer.context().failed.load(Ordering::Relaxed) + refused,
            "seconds": seconds,
            "events_per_s": delivered as f64 / seconds,
            "cpu_s": cpu,
            "peak_bytes": peak_bytes()?,
        })
    );
    Ok(())
}

/// Returns user and system time of all threads of this process. On all common machines Linux counts
/// it in hundredths of a second.
fn cpu_seconds() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field, the name in parentheses, may contain spaces.
    let (_, fields) = stat
        .rsplit_once(") ")
        .ok_or("/proc/self/stat has an unexpected format")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

fn peak_bytes() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .ok_or("no VmHWM")?;
    Ok(line
        .split_whitespace()
        .nth(1)
        .ok_or("no VmHWM")?
        .parse::<u64>()?
        * 1024)
}

fn admin(kafka: &str) -> Outcome<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .create()?)
}

fn create(kafka: &str, partitions: i32, topics: &[String]) -> Outcome<()> {
    let client = admin(kafka)?;
    // -1 means the broker's default.
    let new: Vec<_> = topics
        .iter()
        .map(|topic| NewTopic::new(topic, partitions, TopicReplication::Fixed(-1)))
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(KAFKA_TIMEOUT));
    for result in rt::System::new().block_on(client.create_topics(&new, &options))? {
        result.map_err(|(topic, code)| format!("creating {topic}: {code}"))?;
    }
    let deadline = Instant::now() + KAFKA_TIMEOUT;
    for topic in topics {
        loop {
            let metadata = client.inner().fetch_metadata(Some(topic), KAFKA_TIMEOUT)?;
            let ready = metadata.topics().iter().any(|found| {
                found.name() == topic
                    && found.partitions().len() == partitions as usize
                    && found
                        .partitions()
                        .iter()
                        .all(|partition| partition.leader() >= 0)
            });
            if ready {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("{topic} has no leaders after {KAFKA_TIMEOUT:?}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn delete(kafka: &str, topics: &[String]) -> Outcome<()> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let options = AdminOptions::new().operation_timeout(Some(KAFKA_TIMEOUT));
    for result in rt::System::new().block_on(admin(kafka)?.delete_topics(&names, &options))? {
        match result {
            Ok(_)
            | Err((
                _,
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
            )) => {}
            Err((topic, code)) => return Err(format!("deleting {topic}: {code}").into()),
        }
    }
    Ok(())
}

/// Counts records by their offsets. That is exact, because the topics are new and an idempotent
/// producer without transactions leaves no gaps.
fn count(kafka: &str, topics: &[String]) -> Outcome<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("allow.auto.create.topics", "false")
        .create()?;
    let mut counts = BTreeMap::new();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), KAFKA_TIMEOUT)?;
        let partitions = metadata
            .topics()
            .first()
            .map(|found| found.partitions())
            .unwrap_or_default();
        if partitions.is_empty() {
            return Err(Box::new(KafkaError::MetadataFetch(
                RDKafkaErrorCode::UnknownTopicOrPartition,
            )));
        }
        let mut records = 0;
        for partition in partitions {
            // On a busy machine a new topic may not have a leader yet.
            let mut tries = 0;
            let (low, high) = loop {
                match consumer.fetch_watermarks(topic, partition.id(), KAFKA_TIMEOUT) {
                    Ok(offsets) => break offsets,
                    Err(error) if tries == 20 => return Err(error.into()),
                    Err(_) => std::thread::sleep(Duration::from_millis(500)),
                }
                tries += 1;
            };
            records += high - low;
        }
        counts.insert(topic, records);
    }
    println!("{}", json!(counts));
    Ok(())
}
