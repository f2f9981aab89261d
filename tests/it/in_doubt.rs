//! Search after a crash: which spool entries are already stored in a topic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_bridge::spool::in_doubt::{InDoubtEntry, SearchOutcome, find_stored};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use xxhash_rust::xxh3::xxh3_64;

use crate::harness::{clock_ms, trials};
use crate::real_kafka::{create_topics, delete_topics, free_address, kafka_address, unique_name};

trials! {
    "in_doubt": [
        stored_entries_are_found,
        without_entries_in_doubt_kafka_is_not_contacted,
        what_is_quarantined_is_known_by_its_value,
        the_search_ends_well_before_them,
        what_waited_ends_no_search,
        with_a_clock_that_went_back_all_is_read,
        known_offsets_bound_it,
        offsets_of_another_log_bound_nothing,
        what_a_dead_process_sent_last_is_found,
        a_topic_that_is_missing_holds_nothing,
        a_topic_that_may_not_be_read_is_reported,
        kafka_is_waited_for,
        the_time_limit_holds,
        a_partition_that_cannot_be_read_leaves_it_incomplete,
        stop_ends_the_search_at_once,
    ],
    "in_doubt" needs ["BUTLR_BRIDGE_TEST_KAFKA"]: [
        markers_of_transactions_are_no_end,
        a_tail_that_was_deleted_is_no_end,
        compacted_logs_are_read,
        a_topic_that_grew_is_read_whole,
        a_recreated_topic_is_read,
    ],
}

const NO_DEADLINE: Duration = Duration::from_secs(30);
const MINUTE: i64 = 60_000;

/// One topic, in the real Kafka if there is one, otherwise in an embedded broker.
struct InDoubtFixture {
    topic: String,
    address: String,
    embedded: Option<EmbeddedKafka>,
}

impl InDoubtFixture {
    fn new(partitions: i32) -> Self {
        match std::env::var("BUTLR_BRIDGE_TEST_KAFKA") {
            Ok(address) if !address.is_empty() => Self::real(partitions, &[]),
            _ => Self::embedded(partitions),
        }
    }

    fn real(partitions: i32, settings: &[(&str, &str)]) -> Self {
        let (topic, address) = (unique_name("suspects"), kafka_address());
        create_topics(&address, &[&topic], partitions, settings);
        Self {
            topic,
            address,
            embedded: None,
        }
    }

    fn embedded(partitions: i32) -> Self {
        let topic = "suspects".to_owned();
        let kafka = EmbeddedKafka::start(&[(topic.clone(), partitions)]).expect("a broker");
        Self {
            topic,
            address: kafka.bootstrap_servers().to_owned(),
            embedded: Some(kafka),
        }
    }

    fn broker(&self) -> &EmbeddedKafka {
        self.embedded.as_ref().expect("embedded")
    }

    fn config(&self) -> ClientConfig {
        client_config(&self.address)
    }

    fn write(&self, records: &[SourceRecord]) {
        self.write_as(&[], records);
    }

    fn write_as(&self, settings: &[(&str, &str)], records: &[SourceRecord]) {
        let mut config = self.config();
        settings.iter().for_each(|(name, value)| {
            config.set(*name, *value);
        });
        let producer: BaseProducer = config.create().expect("a producer");
        let is_transaction = !settings.is_empty();
        if is_transaction {
            producer
                .init_transactions(NO_DEADLINE)
                .expect("transactions");
            producer.begin_transaction().expect("a transaction");
        }
        for plain in records {
            let record = plain.record(&self.topic);
            producer.send(record).map_err(|(e, _)| e).expect("queued");
        }
        producer.flush(NO_DEADLINE).expect("stored");
        if is_transaction {
            producer.commit_transaction(NO_DEADLINE).expect("committed");
        }
    }

    /// Searches the whole topic without a time limit, or from these offsets on.
    fn search_topics(&self, entries: Vec<InDoubtEntry>, since: &[(i32, i64)]) -> SearchOutcome {
        let stop = AtomicBool::new(false);
        let topic = &self.topic;
        find_stored(self.config(), topic, entries, since, NO_DEADLINE, &stop)
    }

    fn search_within(&self, entries: Vec<InDoubtEntry>, limit: Duration) -> SearchOutcome {
        let stop = AtomicBool::new(false);
        find_stored(self.config(), &self.topic, entries, &[], limit, &stop)
    }
}

impl Drop for InDoubtFixture {
    fn drop(&mut self) {
        if self.embedded.is_none() && !std::thread::panicking() {
            delete_topics(&self.address, &[&self.topic]);
        }
    }
}

fn client_config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config.set("reconnect.backoff.ms", "100");
    config.set("reconnect.backoff.max.ms", "1000");
    config.set("allow.auto.create.topics", "false");
    config
}

/// Record as a bridge writes it.
#[derive(Clone)]
struct SourceRecord {
    number: u64,
    value: String,
    received_ms: i64,
    partition: Option<i32>,
    key: String,
    headers: Vec<(&'static str, String)>,
}

fn rfc3339(ms: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs());
    humantime::format_rfc3339_millis(time).to_string()
}

impl SourceRecord {
    /// Creates the record of an event, in the first partition.
    fn event(number: u64, received_ms: i64) -> Self {
        Self {
            number,
            value: format!("{{\"number\":{number}}}"),
            received_ms,
            partition: Some(0),
            key: format!("room_{}", number % 7),
            headers: vec![
                ("ce_id", format!("event_{number}")),
                ("ce_receivedat", rfc3339(received_ms)),
            ],
        }
    }

    fn quarantined(number: u64, received_ms: i64) -> Self {
        Self {
            headers: vec![("butlr-received-at", rfc3339(received_ms))],
            ..Self::event(number, received_ms)
        }
    }

    fn keyed(mut self) -> Self {
        self.partition = None;
        self
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn record<'r>(&'r self, topic: &'r str) -> BaseRecord<'r, String, String> {
        let add = |all: OwnedHeaders, (key, value): &(&'static str, String)| {
            all.insert(Header {
                key,
                value: Some(value),
            })
        };
        let headers = self.headers.iter().fold(OwnedHeaders::new(), add);
        let record = BaseRecord::to(topic)
            .key(&self.key)
            .payload(&self.value)
            .headers(headers);
        match self.partition {
            Some(partition) => record.partition(partition),
            None => record,
        }
    }

    /// Returns the spool entry that would become this record; its sequence number is the event's
    /// number.
    fn in_doubt_entry(&self) -> InDoubtEntry {
        let id = self.headers.iter().find(|(name, _)| *name == "ce_id");
        InDoubtEntry {
            seq: self.number,
            id: id.map(|(_, id)| id.clone()),
            value_hash: xxh3_64(self.value.as_bytes()),
            received_ms: self.received_ms,
        }
    }
}

fn in_doubt_entries(records: &[SourceRecord]) -> Vec<InDoubtEntry> {
    records.iter().map(SourceRecord::in_doubt_entry).collect()
}

#[track_caller]
fn assert_complete(outcome: &SearchOutcome, stored: impl IntoIterator<Item = u64>) {
    assert_eq!(outcome.incomplete_reason, None, "{outcome:?}");
    let stored: Vec<u64> = stored.into_iter().collect();
    assert_eq!(outcome.stored, stored);
}

fn stored_entries_are_found() {
    let fixture = InDoubtFixture::new(3);
    let now = clock_ms();
    let all: Vec<_> = (0..500)
        .map(|n| SourceRecord::event(n, now - 500 + n as i64).keyed())
        .collect();
    let (even, _): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|p| p.number % 2 == 0);
    fixture.write(&even);
    let outcome = fixture.search_topics(in_doubt_entries(&all), &[]);
    assert_complete(&outcome, (0..500).step_by(2));
    assert_eq!(outcome.records, 250);
    // Nothing is waited for if all entries are found.
    let outcome = fixture.search_topics(in_doubt_entries(&even), &[]);
    assert_complete(&outcome, (0..500).step_by(2));
    // Another event with the same id, and the same value with another id.
    let mut others = in_doubt_entries(&even);
    for (n, other) in others.iter_mut().enumerate() {
        match n % 2 {
            0 => other.value_hash += 1,
            _ => other.id = Some(format!("event_{n}~0badc0de")),
        }
    }
    assert_complete(&fixture.search_topics(others, &[]), []);
}

fn without_entries_in_doubt_kafka_is_not_contacted() {
    let address = free_address().to_string();
    let stop = AtomicBool::new(false);
    let outcome = find_stored(
        client_config(&address),
        "t",
        vec![],
        &[],
        NO_DEADLINE,
        &stop,
    );
    assert_complete(&outcome, []);
}

fn what_is_quarantined_is_known_by_its_value() {
    let fixture = InDoubtFixture::new(2);
    let now = clock_ms();
    let all: Vec<_> = (0..40).map(|n| SourceRecord::quarantined(n, now)).collect();
    fixture.write(&all[..30]);
    assert_complete(
        &fixture.search_topics(in_doubt_entries(&all[20..]), &[]),
        20..30,
    );
    // Their time of receipt ends the search as well.
    let old: Vec<_> = (100..20_100)
        .map(|n| SourceRecord::quarantined(n, now - 30 * MINUTE))
        .collect();
    let fixture = InDoubtFixture::new(1);
    fixture.write(&old);
    fixture.write(&all[..30]);
    let outcome = fixture.search_topics(in_doubt_entries(&all[20..]), &[]);
    assert_complete(&outcome, 20..30);
    assert!(outcome.records < 20_000, "{outcome:?}");
}

fn the_search_ends_well_before_them() {
    let fixture = InDoubtFixture::new(1);
    let now = clock_ms();
    let of = |n: u64, age: i64| SourceRecord::event(n, now - age);
    // Nothing before the oldest entry is searched.
    fixture.write(&[of(1, 10)]);
    let old: Vec<_> = (100..30_100).map(|n| of(n, 60 * MINUTE)).collect();
    fixture.write(&old);
    let new: Vec<_> = (40_000..41_000).map(|n| of(n, 0)).collect();
    fixture.write(&new);
    let missing = of(50_000, 1000);
    let outcome = fixture.search_topics(in_doubt_entries(&[of(1, 10), missing]), &[]);
    assert_complete(&outcome, []);
    assert!((2_000..31_000).contains(&outcome.records), "{outcome:?}");
}

fn what_waited_ends_no_search() {
    for mark in ["ce_spooled", "ce_replayedfrom"] {
        let fixture = InDoubtFixture::new(1);
        let now = clock_ms();
        fixture.write(&[SourceRecord::event(1, now)]);
        let old = (100..15_100).map(|n| SourceRecord::event(n, now - 60 * MINUTE).with(mark, "x"));
        fixture.write(&old.collect::<Vec<_>>());
        // The same without the header, but between other records, so that no chunk consists of them
        // alone.
        let odd = (20_000..30_000).map(|n| match n % 500 {
            0 => SourceRecord::event(n, now),
            _ => SourceRecord::event(n, now - 60 * MINUTE),
        });
        fixture.write(&odd.collect::<Vec<_>>());
        let searched = [
            SourceRecord::event(1, now),
            SourceRecord::event(50_000, now),
        ];
        let outcome = fixture.search_topics(in_doubt_entries(&searched), &[]);
        assert_complete(&outcome, [1]);
        assert_eq!(outcome.records, 25_001, "{mark}");
    }
}

fn with_a_clock_that_went_back_all_is_read() {
    let fixture = InDoubtFixture::new(1);
    let now = clock_ms();
    let ahead = SourceRecord::event(1, now + 60 * MINUTE);
    fixture.write(std::slice::from_ref(&ahead));
    let since: Vec<_> = (100..10_100).map(|n| SourceRecord::event(n, now)).collect();
    fixture.write(&since);
    assert_complete(&fixture.search_topics(in_doubt_entries(&[ahead]), &[]), [1]);
}

fn known_offsets_bound_it() {
    let fixture = InDoubtFixture::new(2);
    let now = clock_ms();
    let all: Vec<_> = (0..3000).map(|n| SourceRecord::event(n, now)).collect();
    fixture.write(&all);
    let outcome =
        fixture.search_topics(in_doubt_entries(&all[990..]), &[(0, 2900), (1, 0), (7, 3)]);
    assert_complete(&outcome, 2900..3000);
    assert_eq!(outcome.records, 100);
    // Nothing was added since, so not even the end is read.
    let outcome = fixture.search_topics(in_doubt_entries(&all), &[(0, 3000), (1, 0)]);
    assert_complete(&outcome, []);
    assert_eq!(outcome.records, 0);
}

fn offsets_of_another_log_bound_nothing() {
    let fixture = InDoubtFixture::new(2);
    let now = clock_ms();
    let all: Vec<_> = (0..100).map(|n| SourceRecord::event(n, now)).collect();
    fixture.write(&all);
    let outcome = fixture.search_topics(in_doubt_entries(&all), &[(0, 5000), (1, 5000)]);
    assert_complete(&outcome, 0..100);
}

/// The last requests of the dead process may still arrive while the search asks for the ends.
fn what_a_dead_process_sent_last_is_found() {
    let fixture = InDoubtFixture::new(1);
    let now = clock_ms();
    let record = SourceRecord::event(1, now);
    fixture.write(&[SourceRecord::event(2, now)]);
    // Created in advance, because a producer takes a while to start.
    let producer: BaseProducer = fixture.config().create().expect("a producer");
    let known = producer
        .client()
        .fetch_metadata(Some(&fixture.topic), NO_DEADLINE);
    known.expect("metadata");
    let outcome = std::thread::scope(|scope| {
        let searching = scope
            .spawn(|| fixture.search_topics(in_doubt_entries(std::slice::from_ref(&record)), &[]));
        std::thread::sleep(Duration::from_millis(700));
        assert!(!searching.is_finished());
        producer
            .send(record.record(&fixture.topic))
            .expect("queued");
        producer.flush(NO_DEADLINE).expect("stored");
        searching.join().expect("the thread did not panic")
    });
    assert_complete(&outcome, [1]);
    assert_eq!(outcome.records, 2, "no record is read twice");
}

fn a_topic_that_is_missing_holds_nothing() {
    let fixture = InDoubtFixture::new(1);
    let stop = AtomicBool::new(false);
    let searched = in_doubt_entries(&[SourceRecord::event(1, clock_ms())]);
    let outcome = find_stored(
        fixture.config(),
        "nobody.made",
        searched,
        &[],
        NO_DEADLINE,
        &stop,
    );
    assert_complete(&outcome, []);
    assert!(outcome.took < Duration::from_secs(10), "{outcome:?}");
}

fn a_topic_that_may_not_be_read_is_reported() {
    use rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as DENIED;
    let fixture = InDoubtFixture::embedded(1);
    let topic = fixture.topic.clone();
    let deny = fixture
        .broker()
        .with_cluster(move |c| c.topic_error(&topic, DENIED));
    deny.expect("an error");
    let outcome =
        fixture.search_topics(in_doubt_entries(&[SourceRecord::event(1, clock_ms())]), &[]);
    let why = outcome.incomplete_reason.expect("a reason");
    assert!(why.contains(&fixture.topic), "{why}");
    assert!(outcome.took < Duration::from_secs(10));
}

fn kafka_is_waited_for() {
    let fixture = InDoubtFixture::embedded(3);
    let record = SourceRecord::event(1, clock_ms());
    fixture.write(std::slice::from_ref(&record));
    let broker = fixture.broker();
    broker.with_cluster(|c| c.broker_down(1)).expect("down");
    let outcome = std::thread::scope(|scope| {
        let searching = scope.spawn(|| {
            let searched = in_doubt_entries(std::slice::from_ref(&record));
            fixture.search_within(searched, Duration::from_secs(4))
        });
        std::thread::sleep(Duration::from_secs(5));
        assert!(!searching.is_finished());
        broker.with_cluster(|c| c.broker_up(1)).expect("up");
        searching.join().expect("the thread did not panic")
    });
    assert_complete(&outcome, [1]);
    assert!(outcome.took >= Duration::from_secs(5));
}

fn the_time_limit_holds() {
    let fixture = InDoubtFixture::embedded(40);
    let delay = Duration::from_millis(100);
    let slow = fixture
        .broker()
        .with_cluster(move |c| c.broker_round_trip_time(1, delay));
    slow.expect("a delay");
    let searched = in_doubt_entries(&[SourceRecord::event(1, clock_ms())]);
    let began = Instant::now();
    let outcome = fixture.search_within(searched, Duration::from_secs(1));
    let took = began.elapsed();
    assert!((1..5).contains(&took.as_secs()), "{took:?}");
    let why = outcome.incomplete_reason.expect("a reason");
    assert!(why.contains("did not finish within 1s"), "{why}");
}

/// Searches for one entry that is stored and one that is not, in a partition that loses its leader
/// after this time.
fn search_until_the_leader_leaves(after: Duration) -> SearchOutcome {
    let fixture = InDoubtFixture::embedded(1);
    let now = clock_ms();
    let record = SourceRecord::event(1, now);
    fixture.write(std::slice::from_ref(&record));
    let topic = fixture.topic.clone();
    let searched = in_doubt_entries(&[record, SourceRecord::event(2, now)]);
    std::thread::scope(|scope| {
        let searching = scope.spawn(|| fixture.search_within(searched, Duration::from_secs(4)));
        std::thread::sleep(after);
        let leave = move |c: &MockCluster<'static, _>| c.partition_leader(&topic, 0, None);
        fixture.broker().with_cluster(leave).expect("no leader");
        searching.join().expect("the thread did not panic")
    })
}

/// Entries found in the first pass count as stored even if the second pass fails.
fn a_partition_that_cannot_be_read_leaves_it_incomplete() {
    // The second pass begins 1 s after the first has ended. The duration of the first depends on
    // the machine, so a search that lost its leader too early is repeated with more time.
    let outcome = (700..2_000)
        .step_by(300)
        .map(|ms| search_until_the_leader_leaves(Duration::from_millis(ms)))
        .inspect(|outcome| {
            assert!(outcome.incomplete_reason.is_some(), "{outcome:?}");
            assert!(outcome.took < Duration::from_secs(8), "{outcome:?}");
        })
        .find(|outcome| !outcome.stored.is_empty())
        .expect("a first pass that ends in time");
    assert_eq!(outcome.stored, [1]);
}

fn stop_ends_the_search_at_once() {
    let address = free_address().to_string();
    let stop = AtomicBool::new(false);
    let searched = in_doubt_entries(&[SourceRecord::event(1, clock_ms())]);
    std::thread::scope(|scope| {
        let searching = scope.spawn(|| {
            let outcome = find_stored(
                client_config(&address),
                "t",
                searched,
                &[],
                NO_DEADLINE,
                &stop,
            );
            (outcome, Instant::now())
        });
        std::thread::sleep(Duration::from_millis(500));
        assert!(!searching.is_finished());
        let asked = Instant::now();
        stop.store(true, Ordering::Relaxed);
        let (outcome, ended) = searching.join().expect("the thread did not panic");
        assert!(ended - asked < Duration::from_secs(1));
        assert_eq!(outcome.incomplete_reason.as_deref(), Some("stopped"));
    });
}

fn markers_of_transactions_are_no_end() {
    let fixture = InDoubtFixture::real(2, &[]);
    let now = clock_ms();
    let all: Vec<_> = (0..20).map(|n| SourceRecord::event(n, now)).collect();
    for record in &all {
        let id = unique_name("transaction");
        let settings = [("transactional.id", id.as_str())];
        fixture.write_as(&settings, std::slice::from_ref(record));
    }
    let missing = SourceRecord::event(50, now);
    let mut searched = in_doubt_entries(&all);
    searched.push(missing.in_doubt_entry());
    let outcome = fixture.search_topics(searched.clone(), &[]);
    assert_complete(&outcome, 0..20);
    // Each record and its marker take one offset each; the last offset is a marker.
    assert_complete(&fixture.search_topics(searched, &[(0, 39)]), []);
    assert!(outcome.took < Duration::from_secs(8), "{outcome:?}");
}

fn with_admin<T>(
    fixture: &InDoubtFixture,
    run: impl AsyncFnOnce(AdminClient<DefaultClientContext>) -> T,
) -> T {
    let admin = fixture.config().create().expect("an admin client");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(run(admin))
}

fn a_tail_that_was_deleted_is_no_end() {
    let fixture = InDoubtFixture::real(1, &[]);
    let now = clock_ms();
    let all: Vec<_> = (0..3000).map(|n| SourceRecord::event(n, now)).collect();
    fixture.write(&all);
    let delete = |before: i64| {
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(&fixture.topic, 0, Offset::Offset(before));
        added.expect("an offset");
        let done = with_admin(&fixture, async |admin| {
            admin.delete_records(&list, &AdminOptions::new()).await
        });
        done.expect("deleted");
    };
    delete(2000);
    let outcome = fixture.search_topics(in_doubt_entries(&all), &[(0, 1000)]);
    assert_complete(&outcome, 2000..3000);
    delete(3000);
    let outcome = fixture.search_topics(in_doubt_entries(&all), &[]);
    assert_complete(&outcome, []);
    assert_eq!(outcome.records, 0);
}

/// Compaction keeps the last record of each key, so most offsets are gone.
fn compacted_logs_are_read() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "200"),
        ("max.compaction.lag.ms", "200"),
        ("delete.retention.ms", "0"),
    ];
    let fixture = InDoubtFixture::real(1, &settings);
    let now = clock_ms();
    for round in 0..3 {
        let of = |n: u64| SourceRecord::event(round * 1000 + n, now);
        fixture.write(&(0..1000).map(of).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(300));
    }
    let all: Vec<_> = (0..3000).map(|n| SourceRecord::event(n, now)).collect();
    // The cleaner runs every 15 s; the search must end with or without it.
    let limit = Instant::now() + NO_DEADLINE;
    loop {
        let outcome = fixture.search_topics(in_doubt_entries(&all), &[]);
        assert_eq!(outcome.incomplete_reason, None);
        assert!(outcome.stored.contains(&2999));
        assert!(outcome.took < Duration::from_secs(8), "{outcome:?}");
        assert_eq!(outcome.stored.len() as u64, outcome.records);
        if outcome.records < 2000 {
            return;
        }
        assert!(
            Instant::now() < limit,
            "it is never compacted: {}",
            outcome.records
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn a_topic_that_grew_is_read_whole() {
    let fixture = InDoubtFixture::real(1, &[]);
    let now = clock_ms();
    let early: Vec<_> = (0..50)
        .map(|n| SourceRecord::event(n, now).keyed())
        .collect();
    fixture.write(&early);
    let more = [NewPartitions::new(&fixture.topic, 4)];
    let grown = with_admin(&fixture, async |admin| {
        let options = AdminOptions::new().operation_timeout(Some(NO_DEADLINE));
        admin.create_partitions(&more, &options).await
    });
    for result in grown.expect("Kafka responds") {
        result.expect("partitions are added");
    }
    let late: Vec<_> = (50..150)
        .map(|n| SourceRecord::event(n, now).keyed())
        .collect();
    fixture.write(&late);
    let outcome = fixture.search_topics(in_doubt_entries(&late), &[(0, 50)]);
    assert_complete(&outcome, 50..150);
    assert_eq!(outcome.records, 100);
}

/// The search ends whenever the topic is recreated, and later searches find the records of the new
/// topic.
fn a_recreated_topic_is_read() {
    let fixture = InDoubtFixture::real(1, &[]);
    let now = clock_ms();
    let old: Vec<_> = (0..2000).map(|n| SourceRecord::event(n, now)).collect();
    fixture.write(&old);
    let new: Vec<_> = (5000..5100).map(|n| SourceRecord::event(n, now)).collect();
    let outcome = std::thread::scope(|scope| {
        let searched = in_doubt_entries(&new);
        let searching = scope.spawn(|| fixture.search_topics(searched, &[]));
        // Between the first and the second pass.
        std::thread::sleep(Duration::from_millis(400));
        delete_topics(&fixture.address, &[&fixture.topic]);
        create_topics(&fixture.address, &[&fixture.topic], 1, &[]);
        fixture.write(&new);
        searching.join().expect("the thread did not panic")
    });
    assert!(outcome.took < Duration::from_secs(20), "{outcome:?}");
    // Records written after the last pass do not come from the crashed process.
    assert!(outcome.incomplete_reason.is_none(), "{outcome:?}");
    // They may have been found or not; from now on they must be.
    let again = fixture.search_topics(in_doubt_entries(&new), &[(0, 2000)]);
    assert_complete(&again, 5000..5100);
}
