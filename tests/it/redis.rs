//! Two replicas on a real Kafka with a shared Redis, which is killed, paused and restarted.

use std::collections::HashMap;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::{
    BridgeProcess, HttpRequest, HttpResponse, RedisServer, TestRecord, agent, minimal_event,
    missing_redis_requirements, parse_samples, read_records, sum_samples, trial, unique_ms,
};
use crate::load::{BridgeLoad, LoadAttempt, assert_stored, count_by_status};
use crate::real_kafka::{
    RealBroker, create_topics, kafka_address, lock_heavy, ten_topics, unique_name, wait_within,
};

/// Returns the tests of this module.
pub fn trials() -> Vec<Trial> {
    const KAFKA: &[&str] = &["BUTLR_BRIDGE_TEST_KAFKA"];
    const OWN_KAFKA: &[&str] = &["BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_JAVA_CP"];
    type RedisTest = (&'static str, &'static [&'static str], fn());
    let all: [RedisTest; 8] = [
        (
            "of_copies_at_the_same_moment_one_is_stored",
            KAFKA,
            of_copies_at_the_same_moment_one_is_stored,
        ),
        (
            "what_one_replica_stored_the_other_knows",
            KAFKA,
            what_one_replica_stored_the_other_knows,
        ),
        (
            "copies_inside_an_array_that_reaches_both",
            KAFKA,
            copies_inside_an_array_that_reaches_both,
        ),
        (
            "a_value_that_goes_back_to_what_a_snapshot_has",
            KAFKA,
            a_value_that_goes_back_to_what_a_snapshot_has,
        ),
        (
            "redis_killed_and_started_again_under_load",
            KAFKA,
            redis_killed_and_started_again_under_load,
        ),
        ("redis_paused_under_load", KAFKA, redis_paused_under_load),
        (
            "without_redis_a_bridge_starts_and_says_so_once",
            KAFKA,
            without_redis_a_bridge_starts_and_says_so_once,
        ),
        (
            "what_a_dead_replica_had_begun_the_other_takes_over",
            OWN_KAFKA,
            what_a_dead_replica_had_begun_the_other_takes_over,
        ),
    ];
    let trials = all.into_iter().map(|(name, needs, run)| {
        // Names one kind of missing requirement at a time.
        let needs = match missing_redis_requirements() {
            [] => needs,
            missing => missing,
        };
        trial("redis", &format!("it::redis::{name}"), needs, run)
    });
    trials.collect()
}

/// Two bridges with the same topics and the same Redis.
struct ReplicaPair {
    bootstrap: String,
    template: String,
    bridges: [BridgeProcess; 2],
}

impl ReplicaPair {
    #[track_caller]
    fn start(bootstrap: &str, url: &str, settings: &[&str]) -> Self {
        let template = format!("{}.{{type}}", unique_name("redis"));
        create_topics(bootstrap, &ten_topics(&template), 3, &[]);
        let serve = || {
            let (bootstrap, topics, url) = (
                format!("kafka.bootstrap_servers={bootstrap}"),
                format!("topics.template={template}"),
                format!("dedup.redis_url={url}"),
            );
            let mut all = vec![bootstrap.as_str(), &topics, "dedup.store=redis", &url];
            all.extend(settings);
            BridgeProcess::serve(&all)
        };
        let replicas = Self {
            bridges: [serve(), serve()],
            bootstrap: bootstrap.to_owned(),
            template,
        };
        for bridge in &replicas.bridges {
            let ready = format!("http://{}/readyz", bridge.admin());
            wait_within(Duration::from_secs(20), "the bridge is ready", || {
                HttpRequest::new("GET", &ready).send(&agent()).status == 200
            });
        }
        replicas
    }

    fn records(&self, event_type: EventType) -> Vec<TestRecord> {
        let topic = self.template.replace("{type}", event_type.kebab_name());
        read_records(&self.bootstrap, &topic)
    }

    fn all_records(&self) -> Vec<TestRecord> {
        let topics = ten_topics(&self.template);
        let all = topics
            .iter()
            .map(|topic| read_records(&self.bootstrap, topic));
        all.flatten().collect()
    }

    /// Returns the events received, and the events decided without Redis, from one scrape per
    /// bridge.
    fn received_and_errors(&self) -> [u64; 2] {
        let texts = self.bridges.each_ref().map(scrape);
        ["received_total", "redis_errors_total"]
            .map(|name| texts.iter().map(|text| sum_series(text, name)).sum())
    }

    /// Waits until both bridges have connected to Redis. Each starts an epoch with its first
    /// connection, and a value from an earlier epoch never counts as a repeat.
    #[track_caller]
    fn wait_until_connected(&self) {
        for (number, bridge) in self.bridges.iter().enumerate() {
            let id = format!("event_met_{number}");
            let body = minimal_event(EventType::Traffic, &id, unique_ms(), "room");
            assert_eq!(
                response_status(&post(bridge, &agent(), &body)).0,
                "published"
            );
        }
    }

    /// Waits until both bridges use Redis again after an outage.
    #[track_caller]
    fn wait_until_reconnected(&self) {
        let has_line =
            |bridge: &BridgeProcess| bridge.output().contains("Redis is available again");
        wait_within(Duration::from_secs(20), "Redis is used again", || {
            self.bridges.iter().all(has_line)
        });
    }

    /// Sums a counter over both bridges.
    fn count(&self, name: &str) -> u64 {
        let all = self.bridges.iter().map(|bridge| counter(bridge, name));
        all.sum()
    }

    /// Stops both bridges and checks their ledgers.
    #[track_caller]
    fn finish(mut self) {
        for bridge in &mut self.bridges {
            bridge.signal("TERM");
            assert!(bridge.wait().success(), "{}", bridge.output());
            let output = bridge.output();
            assert!(output.contains("balanced=true"), "{output}");
        }
    }
}

#[track_caller]
fn counter(bridge: &BridgeProcess, name: &str) -> u64 {
    sum_series(&scrape(bridge), name)
}

fn scrape(bridge: &BridgeProcess) -> String {
    let url = format!("http://{}/metrics", bridge.admin());
    HttpRequest::new("GET", &url).send(&agent()).text()
}

/// Sums all series of a counter.
#[track_caller]
fn sum_series(text: &str, name: &str) -> u64 {
    let name = format!("butlr_bridge_{name}");
    let is_same = |series: &str| series.split('{').next() == Some(&name);
    let exists = parse_samples(text).any(|(series, _)| is_same(series));
    assert!(exists, "no {name} in {text}");
    sum_samples(text, &name, "") as u64
}

fn post(bridge: &BridgeProcess, agent: &ureq::Agent, body: &str) -> HttpResponse {
    let url = format!("http://{}/v1/events", bridge.ingest());
    HttpRequest::new("POST", &url).body(body).send(agent)
}

fn response_status(response: &HttpResponse) -> (String, String) {
    let response = response.expect(200).json();
    let text = |name: &str| response[name].as_str().unwrap_or_default().to_owned();
    (text("status"), text("kind"))
}

fn event_id(second: u32, number: u32) -> String {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&second.to_be_bytes());
    bytes[16..].copy_from_slice(&number.to_be_bytes());
    format!("event_{}", Ksuid::from_bytes(bytes))
}

/// Builds an occupancy event with this value.
fn occupancy(id: &str, timestamp_ms: i64, value: u32) -> String {
    let text = minimal_event(EventType::RoomOccupancy, id, timestamp_ms, "room");
    let mut json: Value = serde_json::from_str(&text).expect("an event");
    json["data"] = value.into();
    json.to_string()
}

/// Prevents a busy machine from being taken for a slow Redis.
const PATIENT: &str = "dedup.redis_timeout=1s";

fn of_copies_at_the_same_moment_one_is_stored() {
    const EVENTS: u32 = 200;
    let server = RedisServer::start(&[]);
    let replicas = ReplicaPair::start(&kafka_address(), &server.url(), &[PATIENT]);
    let now = unique_ms();
    let published: Mutex<HashMap<u32, u32>> = Mutex::default();
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for worker in 0..4 {
            let (bridge, published, barrier) =
                (&replicas.bridges[worker % 2], &published, &barrier);
            scope.spawn(move || {
                let agent = agent();
                for number in 0..EVENTS {
                    let id = event_id(1, number);
                    let kind = [EventType::RoomOccupancy, EventType::Traffic][number as usize % 2];
                    let body = minimal_event(kind, &id, now + i64::from(number), "room");
                    barrier.wait();
                    let response = response_status(&post(bridge, &agent, &body));
                    match (response.0.as_str(), response.1.as_str()) {
                        ("published", _) => {
                            let mut published = published.lock().expect("lock not poisoned");
                            *published.entry(number).or_default() += 1;
                        }
                        ("duplicate", "redelivery") => {}
                        _ => panic!("{number}: {response:?}"),
                    }
                }
            });
        }
    });
    let published = published.into_inner().expect("lock not poisoned");
    assert!(
        (0..EVENTS).all(|number| published.get(&number) == Some(&1)),
        "{published:?}"
    );
    let mut records = replicas.records(EventType::Traffic);
    records.extend(replicas.records(EventType::RoomOccupancy));
    let ids: Vec<_> = records.iter().map(|r| r.header("ce_id")).collect();
    for number in 0..EVENTS {
        let id = event_id(1, number);
        let there = ids.iter().filter(|i| **i == Some(&id)).count();
        assert_eq!(there, 1, "{number}");
    }
    assert_eq!(replicas.count("redis_errors_total"), 0);
    replicas.finish();
}

fn what_one_replica_stored_the_other_knows() {
    let server = RedisServer::start(&[]);
    let replicas = ReplicaPair::start(&kafka_address(), &server.url(), &[PATIENT]);
    replicas.wait_until_connected();
    let [one, other] = &replicas.bridges;
    let agent = agent();
    let time = unique_ms();
    let send = |bridge, id: &str, value| {
        response_status(&post(bridge, &agent, &occupancy(id, time, value)))
    };
    let ids: Vec<_> = (0..6).map(|second| event_id(second, 0)).collect();
    let is = |status: &str, kind: &str| (status.to_owned(), kind.to_owned());
    assert_eq!(send(one, &ids[1], 4), is("published", ""));
    assert_eq!(send(other, &ids[1], 4), is("duplicate", "redelivery"));
    assert_eq!(send(other, &ids[2], 4), is("duplicate", "repeat"));
    // Remembered, although it is in no topic.
    assert_eq!(send(one, &ids[2], 4), is("duplicate", "redelivery"));
    assert_eq!(send(other, &ids[3], 5), is("published", ""));
    assert_eq!(send(one, &ids[4], 4), is("published", ""));
    assert_eq!(send(other, &ids[0], 7), is("published", ""));
    assert_eq!(send(one, &ids[4], 9), is("published", ""));

    let records = replicas.records(EventType::RoomOccupancy);
    let of = |id: &str| {
        let record = records.iter().find(|r| r.header("ce_id") == Some(id));
        let record = record.unwrap_or_else(|| panic!("{id} is not stored"));
        let names = ["ce_revision", "ce_supersedes", "ce_stale", "ce_originalid"];
        names.map(|name| record.header(name).unwrap_or_default().to_owned())
    };
    assert_eq!(of(&ids[1]), ["", "", "", ""]);
    assert_eq!(of(&ids[3]), ["1", &ids[1], "", ""]);
    assert_eq!(of(&ids[4]), ["2", &ids[3], "", ""]);
    assert_eq!(of(&ids[0]), ["", "", "true", ""]);
    let conflict = records.iter().find(|r| r.header("ce_idconflict").is_some());
    let id = conflict
        .and_then(|r| r.header("ce_id"))
        .expect("a conflict");
    assert_eq!(of(id), ["3", &ids[4], "", &ids[4]]);
    assert_eq!(records.len(), 5);
    assert_eq!(replicas.count("redis_errors_total"), 0);
    replicas.finish();
}

fn copies_inside_an_array_that_reaches_both() {
    const ARRAYS: u32 = 40;
    let server = RedisServer::start(&[]);
    let replicas = ReplicaPair::start(&kafka_address(), &server.url(), &[PATIENT]);
    let now = unique_ms();
    let published: Mutex<HashMap<String, u32>> = Mutex::default();
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        for worker in 0..2 {
            let (bridge, published, barrier) = (&replicas.bridges[worker], &published, &barrier);
            scope.spawn(move || {
                let agent = agent();
                for number in 0..ARRAYS {
                    let time = now + i64::from(number) * 60_000;
                    // Two values for one (type, space, timestamp) and another event, each twice.
                    let mut bodies = vec![
                        occupancy(&event_id(1, number), time, 4),
                        occupancy(&event_id(2, number), time, 5),
                        minimal_event(EventType::Traffic, &event_id(3, number), time, "room"),
                    ];
                    bodies.extend(bodies.clone());
                    if worker == 1 {
                        bodies.reverse();
                    }
                    barrier.wait();
                    let response = post(bridge, &agent, &format!("[{}]", bodies.join(",")));
                    let results = response.expect(200).json()["results"].clone();
                    let results = results.as_array().expect("an array").clone();
                    assert_eq!(results.len(), 6);
                    for result in results {
                        let text = |name: &str| result[name].as_str().unwrap_or_default();
                        match (text("status"), text("kind")) {
                            ("published", _) => {
                                let mut published = published.lock().expect("lock not poisoned");
                                *published.entry(text("id").to_owned()).or_default() += 1;
                            }
                            ("duplicate", "redelivery") => {}
                            _ => panic!("{number}: {result}"),
                        }
                    }
                }
            });
        }
    });
    let published = published.into_inner().expect("lock not poisoned");
    assert_eq!(published.len(), 3 * ARRAYS as usize, "{published:?}");
    assert!(published.values().all(|times| *times == 1), "{published:?}");
    let mut records = replicas.records(EventType::Traffic);
    records.extend(replicas.records(EventType::RoomOccupancy));
    assert_eq!(records.len(), 3 * ARRAYS as usize);
    // One of the two values comes first; the other revises it or is stale.
    let marked = |name| records.iter().filter(|r| r.header(name).is_some()).count();
    assert_eq!(marked("ce_revision") + marked("ce_stale"), ARRAYS as usize);
    assert_eq!(replicas.count("redis_errors_total"), 0);
    replicas.finish();
}

/// Redis returns with a snapshot from before the last value was stored.
fn a_value_that_goes_back_to_what_a_snapshot_has() {
    let mut server = RedisServer::start(&[]);
    let replicas = ReplicaPair::start(&kafka_address(), &server.url(), &[PATIENT]);
    replicas.wait_until_connected();
    let [one, other] = &replicas.bridges;
    let agent = agent();
    let time = unique_ms();
    let send = |bridge, second, value| {
        let body = occupancy(&event_id(second, 0), time, value);
        response_status(&post(bridge, &agent, &body))
    };
    let is = |status: &str, kind: &str| (status.to_owned(), kind.to_owned());
    assert_eq!(send(one, 1, 4), is("published", ""));
    assert_eq!(send(other, 2, 4), is("duplicate", "repeat"));
    server.save();
    assert_eq!(send(other, 3, 5), is("published", ""));
    server.kill();
    server.restart();
    replicas.wait_until_reconnected();
    assert_eq!(send(one, 4, 4), is("published", ""));
    // Longer than the recovery period after an outage.
    thread::sleep(Duration::from_secs(7));
    assert_eq!(send(other, 5, 5), is("published", ""));
    assert_eq!(send(one, 6, 5), is("duplicate", "repeat"));
    let values: Vec<_> = replicas
        .records(EventType::RoomOccupancy)
        .iter()
        .map(|r| r.header("ce_revision").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(values.len(), 4);
    assert!(
        values[1..].iter().all(|revision| !revision.is_empty()),
        "{values:?}"
    );
    replicas.finish();
}

/// Runs a load on both replicas, then `away`, then `back`, and checks what must hold during and
/// after the outage.
fn run_through_outage(away: impl FnOnce(&mut RedisServer), back: impl FnOnce(&mut RedisServer)) {
    let _alone = lock_heavy();
    let mut server = RedisServer::start(&[]);
    let replicas = ReplicaPair::start(&kafka_address(), &server.url(), &[]);
    let loads = replicas
        .bridges
        .each_ref()
        .map(|b| BridgeLoad::start(b.ingest(), 8));
    let accepted = || loads.iter().map(BridgeLoad::accepted).sum::<usize>();
    wait_within(Duration::from_secs(20), "the load is running", || {
        accepted() >= 500
    });

    let errors = || {
        replicas
            .bridges
            .each_ref()
            .map(|b| counter(b, "redis_errors_total"))
    };
    let earlier = errors();
    away(&mut server);
    // A bridge decides without Redis from its first error on.
    wait_within(
        Duration::from_secs(20),
        "both replicas work without Redis",
        || {
            let now = errors();
            (0..2).all(|bridge| now[bridge] > earlier[bridge])
        },
    );
    // Each replica has 8 senders, so it claimed at most 8 events before the outage.
    let answered = loads.each_ref().map(BridgeLoad::accepted);
    wait_within(
        Duration::from_secs(20),
        "both replicas answer 200 without Redis",
        || {
            let now = loads.each_ref().map(BridgeLoad::accepted);
            (0..2).all(|replica| now[replica] - answered[replica] >= 50)
        },
    );
    let before = replicas.received_and_errors();
    thread::sleep(Duration::from_secs(4));
    let mut after = before;
    wait_within(
        Duration::from_secs(20),
        "events are decided without Redis",
        || {
            after = replicas.received_and_errors();
            after[0] - before[0] > 500
        },
    );
    let [received, counted] = [0, 1].map(|place| after[place] - before[place]);
    // Events of the 16 senders that were in flight at either scrape may be on either side. So may
    // claims that Redis had granted and lost.
    assert!(counted.abs_diff(received) <= 64, "{counted}, {received}");

    back(&mut server);
    replicas.wait_until_reconnected();
    // Redeliveries are recognised at once, without a recovery period.
    let agent = agent();
    let body = minimal_event(EventType::PirMotion, &event_id(1, 1), unique_ms(), "room");
    let [one, other] = &replicas.bridges;
    assert_eq!(response_status(&post(one, &agent, &body)).0, "published");
    assert_eq!(response_status(&post(other, &agent, &body)).0, "duplicate");

    let attempts: Vec<LoadAttempt> = loads.into_iter().flat_map(BridgeLoad::stop).collect();
    let statuses = count_by_status(&attempts);
    assert_eq!(statuses.len(), 1, "{statuses:?}");
    assert!(statuses.contains_key(&Some(200)), "{statuses:?}");
    let slowest = attempts.iter().map(|a| a.took).max().expect("a load");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_stored(&attempts, &replicas.all_records());
    replicas.finish();
}

fn redis_killed_and_started_again_under_load() {
    run_through_outage(RedisServer::kill, RedisServer::restart);
}

fn redis_paused_under_load() {
    run_through_outage(|server| server.pause(), |server| server.resume());
}

fn without_redis_a_bridge_starts_and_says_so_once() {
    let mut server = RedisServer::start(&["--requirepass", "hush"]);
    let url = format!("redis://:hush@127.0.0.1:{}", server.port());
    server.kill();
    let replicas = ReplicaPair::start(&kafka_address(), &url, &[PATIENT]);
    let agent = agent();
    let send = |bridge, id: &str| {
        let body = minimal_event(EventType::Traffic, id, unique_ms(), "room");
        response_status(&post(bridge, &agent, &body)).0
    };
    let [one, other] = &replicas.bridges;
    for number in 0..20 {
        let id = event_id(1, number);
        assert_eq!(send(one, &id), "published");
    }
    thread::sleep(Duration::from_secs(2));
    let count_lines = |bridge: &BridgeProcess, what| bridge.output().matches(what).count();
    assert_eq!(
        count_lines(one, "Redis is unavailable"),
        1,
        "{}",
        one.output()
    );
    assert_eq!(counter(one, "redis_errors_total"), 20);
    server.restart();
    for bridge in [one, other] {
        wait_within(Duration::from_secs(10), "Redis is used", || {
            count_lines(bridge, "Redis is available again") == 1
        });
        assert_eq!(count_lines(bridge, "hush"), 0, "{}", bridge.output());
    }
    assert_eq!(send(one, "late"), "published");
    assert_eq!(counter(one, "redis_errors_total"), 20);
    replicas.finish();
}

fn what_a_dead_replica_had_begun_the_other_takes_over() {
    let _alone = lock_heavy();
    let server = RedisServer::start(&[]);
    let broker = RealBroker::start();
    let mut replicas = ReplicaPair::start(
        &broker.address(),
        &server.url(),
        &[PATIENT, "http.answer_within=10s"],
    );
    let body = minimal_event(EventType::Traffic, &event_id(1, 1), unique_ms(), "room");
    // Makes the topic known and opens the connection.
    let first = minimal_event(EventType::Traffic, &event_id(1, 0), unique_ms(), "room");
    for (bridge, status) in replicas.bridges.iter().zip(["published", "duplicate"]) {
        assert_eq!(response_status(&post(bridge, &agent(), &first)).0, status);
    }
    broker.pause();
    let url = format!("http://{}/v1/events", replicas.bridges[0].ingest());
    let request = HttpRequest::new("POST", &url).body(&body);
    let sender = thread::spawn(move || request.try_send(&agent()));
    // Redis has granted the claim by the time the event is handed to Kafka.
    let status = format!("http://{}/status", replicas.bridges[0].admin());
    wait_within(
        Duration::from_secs(20),
        "the event is handed to Kafka",
        || {
            let status = HttpRequest::new("GET", &status).send(&agent()).json();
            status["types"][EventType::Traffic.index()]["in_flight"] == 1
        },
    );
    replicas.bridges[0].signal("KILL");
    let response = sender.join().expect("the thread did not panic");
    assert!(response.is_err(), "{response:?}");
    broker.resume();
    let since = Instant::now();
    let response = response_status(&post(&replicas.bridges[1], &agent(), &body));
    assert_eq!(response.0, "published");
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
    let records = replicas.records(EventType::Traffic);
    let id = event_id(1, 1);
    assert!(records.iter().any(|r| r.header("ce_id") == Some(&id)));
    replicas.bridges.reverse();
    let [mut alive, _dead] = replicas.bridges;
    alive.signal("TERM");
    assert!(alive.wait().success(), "{}", alive.output());
}
