//! Consumer that reads records back, independent of the bridge's own.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::PATIENCE;

/// Record as stored in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRecord {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// In ms since 1970.
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl TestRecord {
    /// Returns the first header with this name as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut same = self.headers.iter().filter(|(n, _)| n == name);
        same.next()
            .map(|(_, value)| std::str::from_utf8(value).expect("headers are text"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.value).expect("values are text")
    }
}

fn create_consumer(bootstrap_servers: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("group.id", "it")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "50")
        .set("allow.auto.create.topics", "false")
        .create()
        .expect("a consumer")
}

/// Reads all records of a topic, sorted by partition and offset.
#[track_caller]
pub fn read_records(bootstrap_servers: &str, topic: &str) -> Vec<TestRecord> {
    let consumer = create_consumer(bootstrap_servers);
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE);
    let metadata = metadata.unwrap_or_else(|error| panic!("{topic}: {error}"));
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        partitions
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .expect("a partition");
    }
    let mut unread = partitions.count();
    consumer.assign(&partitions).expect("assigned");
    let mut records = Vec::new();
    let start = Instant::now();
    while unread > 0 {
        assert!(
            start.elapsed() < PATIENCE,
            "{topic}: {unread} partitions unread"
        );
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => records.push(copy_record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
            Some(Err(error)) => eprintln!("reading {topic}: {error}"),
        }
    }
    records.sort_by_key(|r| (r.partition, r.offset));
    records
}

/// Consumer of the records that are added to a topic from now on.
pub struct TopicTail {
    consumer: BaseConsumer,
}

impl TopicTail {
    /// Starts at the current end of each partition.
    #[track_caller]
    pub fn from_end(bootstrap_servers: &str, topic: &str) -> Self {
        let consumer = create_consumer(bootstrap_servers);
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE);
        let metadata = metadata.unwrap_or_else(|error| panic!("{topic}: {error}"));
        let mut partitions = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            let (_, end) = consumer
                .fetch_watermarks(topic, partition.id(), PATIENCE)
                .unwrap_or_else(|error| panic!("{topic}: {error}"));
            partitions
                .add_partition_offset(topic, partition.id(), Offset::Offset(end))
                .expect("a partition");
        }
        consumer.assign(&partitions).expect("assigned");
        Self { consumer }
    }

    /// Waits up to 100 ms for the next record.
    pub fn poll(&self) -> Option<TestRecord> {
        match self.consumer.poll(Duration::from_millis(100))? {
            Ok(message) => Some(copy_record(&message)),
            Err(KafkaError::PartitionEOF(_)) => None,
            Err(error) => {
                eprintln!("waiting for a record: {error}");
                None
            }
        }
    }
}

fn copy_record(message: &impl Message) -> TestRecord {
    let headers = message.headers().map(|headers| {
        let header = |h: rdkafka::message::Header<'_, &[u8]>| {
            (h.key.to_owned(), h.value.unwrap_or_default().to_vec())
        };
        headers.iter().map(header).collect()
    });
    TestRecord {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().unwrap_or_default().to_vec(),
        headers: headers.unwrap_or_default(),
    }
}

/// Lists all topics of the broker without creating any.
pub fn list_topics(bootstrap_servers: &str) -> Vec<String> {
    let metadata = create_consumer(bootstrap_servers).fetch_metadata(None, PATIENCE);
    let metadata = metadata.expect("Kafka responds");
    let names = metadata.topics().iter().map(|t| t.name().to_owned());
    names.collect()
}
