//! The spool with librdkafka and the embedded broker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::harness::{ROOM, STAMPING, lanes, new_entry, settings, topic, value};
use crate::delivery::RecordProducer;
use crate::kafka::contact::Contact;
use crate::kafka::embedded::EmbeddedKafka;
use crate::metrics::Metrics;
use crate::spool::store::{Options, SpoolStore};
use crate::spool::{Spool, SpoolParts};

fn client(kafka: &EmbeddedKafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", kafka.bootstrap_servers())
        .set("message.timeout.ms", "1000")
        .set("request.timeout.ms", "700")
        .set("enable.idempotence", "true")
        .set("allow.auto.create.topics", "false");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn entries_are_stored_in_order_after_an_outage() {
    let kafka = EmbeddedKafka::start(&[(topic(ROOM), 3)]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new(&std::array::from_fn(|n| n.to_string())));
    let (store, _) = SpoolStore::open(Options {
        dir: dir.path().to_owned(),
        segment_bytes: 1 << 20,
    })
    .unwrap();
    let spool = Spool::start(SpoolParts {
        store,
        settings: settings(dir.path()),
        deduplicator: None,
        lanes: lanes(),
        lane_events: 10_000,
        lane_bytes: 10 << 20,
        metrics: Arc::clone(&metrics),
    });
    const KEYS: usize = 5;
    const EACH: usize = 1_000;
    let append = |number: usize| {
        let key = format!("key{}", number % KEYS);
        let value = value(ROOM, &key, number / KEYS);
        spool.append(new_entry(ROOM, &value, false), None, None)
    };
    let appends: Vec<_> = (0..KEYS * EACH).map(append).collect();
    for append in appends {
        assert_eq!(append.await, Ok(()));
    }
    kafka
        .with_cluster(|cluster| cluster.broker_down(1))
        .unwrap();
    let contact = Arc::new(Contact::default());
    let producer = RecordProducer::start(client(&kafka), metrics, contact).unwrap();
    let producer = Arc::new(producer);
    let drain_handle = spool.start_drain(Arc::clone(&producer), STAMPING, client(&kafka));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(spool.ledger().drained, 0);
    kafka.with_cluster(|cluster| cluster.broker_up(1)).unwrap();
    let begun = Instant::now();
    while spool.ledger().present > 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{:?}",
            spool.ledger()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all = KEYS * EACH;
    let read = tokio::task::spawn_blocking(move || read(&kafka, all));
    let mut next = [0; KEYS];
    for (key, value, spooled) in read.await.unwrap() {
        assert!(spooled);
        let of_key: usize = key.strip_prefix("key").unwrap().parse().unwrap();
        let expected = super::harness::value(ROOM, &key, next[of_key]);
        assert_eq!(value, expected, "in order, byte for byte");
        next[of_key] += 1;
    }
    assert_eq!(next, [EACH; KEYS]);
    tokio::task::spawn_blocking(move || {
        spool.shut_down();
        drop(drain_handle);
        assert!(spool.ledger().is_balanced());
        producer.close(Duration::from_secs(1));
    })
    .await
    .unwrap();
}

/// Reads `count` records, each partition in order: key, value, and `true` if the record says that
/// it was spooled.
fn read(kafka: &EmbeddedKafka, count: usize) -> Vec<(String, Vec<u8>, bool)> {
    let mut config = client(kafka);
    for property in [
        "message.timeout.ms",
        "request.timeout.ms",
        "enable.idempotence",
    ] {
        config.remove(property);
    }
    let consumer: BaseConsumer = config.set("group.id", "test").create().unwrap();
    let mut partitions = TopicPartitionList::new();
    for partition in 0..3 {
        partitions
            .add_partition_offset(&topic(ROOM), partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&partitions).unwrap();
    let mut records = Vec::new();
    let begun = Instant::now();
    while records.len() < count && begun.elapsed() < Duration::from_secs(20) {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
        let headers = message.headers().unwrap();
        let spooled = headers.iter().any(|h| h.key == "ce_spooled");
        records.push((key, message.payload().unwrap().to_vec(), spooled));
    }
    records
}
