//! Bridges that keep their addresses when they are started again, and what they count, over all of their runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use butlr_simulate::sender::SendTarget;
use serde_json::Value;

use crate::harness::{BridgeProcess, RedisServer, agent, clock_ms};
use crate::real_kafka::{
    create_topics, delete_topics, free_address, kafka_address, ten_topics, unique_name, wait_within,
};

/// Replicas on the same topics.
pub struct BridgeReplicas {
    settings: Vec<String>,
    pub template: String,
    pub has_redis: bool,
    replicas: Vec<Mutex<BridgeReplica>>,
    /// When the first of them was away, ms since 1970.
    pub away_ms: AtomicI64,
}

/// One of them.
struct BridgeReplica {
    ingest: SocketAddr,
    admin: SocketAddr,
    process: BridgeProcess,
    /// The last look at the counters of each process.
    samples: Vec<CounterSamples>,
    /// What the log of ended ones counted.
    final_counters: Vec<Option<Value>>,
}

/// Series and their values.
type CounterSamples = BTreeMap<String, u64>;

/// For the sake of slow machines: as long as Kafka and the memory may take, nothing depends on it.
const ANSWER_WITHIN: &str = "http.answer_within=10s";

impl BridgeReplicas {
    /// Starts so many, with these settings in addition.
    pub fn start(bridges: usize, redis: Option<&RedisServer>, settings: &[&str]) -> Self {
        let template = format!("{}.{{type}}", unique_name("oracle"));
        create_topics(&kafka_address(), &ten_topics(&template), 3, &[]);
        let mut all = vec![
            format!("kafka.bootstrap_servers={}", kafka_address()),
            format!("topics.template={template}"),
            "log.format=json".to_owned(),
            ANSWER_WITHIN.to_owned(),
            "shutdown.timeout=20s".to_owned(),
        ];
        if let Some(redis) = redis {
            all.push("dedup.store=redis".to_owned());
            all.push(format!("dedup.redis_url={}", redis.url()));
            // On a busy machine the default would end in doing without.
            all.push("dedup.redis_timeout=1s".to_owned());
        }
        all.extend(settings.iter().map(|&setting| setting.to_owned()));
        let settings = all;
        let start = |_| {
            let (ingest, admin) = (free_address(), free_address());
            Mutex::new(BridgeReplica {
                process: start_process(&settings, ingest, admin),
                ingest,
                admin,
                samples: vec![CounterSamples::new()],
                final_counters: Vec::new(),
            })
        };
        Self {
            replicas: (0..bridges).map(start).collect(),
            settings,
            template,
            has_redis: redis.is_some(),
            away_ms: AtomicI64::new(i64::MAX),
        }
    }

    fn lock_all(&self) -> impl Iterator<Item = MutexGuard<'_, BridgeReplica>> {
        let all = self.replicas.iter();
        all.map(|bridge| bridge.lock().expect("no panic holds it"))
    }

    /// Where events go.
    pub fn targets(&self) -> Vec<SendTarget> {
        let target = |bridge: MutexGuard<'_, BridgeReplica>| {
            SendTarget::parse(&format!("http://{}/v1/events", bridge.ingest)).expect("a URL")
        };
        self.lock_all().map(target).collect()
    }

    /// Ends the first with this signal once so many events were received, and starts it again at once.
    pub fn restart(&self, signal: &str, after: u64) {
        wait_within(Duration::from_secs(300), "half of it has come", || {
            let received = |bridge: MutexGuard<'_, BridgeReplica>| {
                let look = bridge.samples.last().expect("one");
                sum_series(look, "butlr_bridge_received_total", &[])
            };
            self.lock_all().map(received).sum::<u64>() >= after
        });
        let first = || self.replicas[0].lock().expect("no panic holds it");
        first().process.signal(signal);
        // The lock is free meanwhile, so that its counters are looked at to the end.
        wait_within(Duration::from_secs(40), "it ends", || {
            !first().process.is_running()
        });
        self.away_ms.store(clock_ms(), Ordering::Relaxed);
        let mut bridge = first();
        let output = bridge.process.output();
        let last = parse_final_counters(&output);
        assert_eq!(last.is_some(), signal == "TERM", "{output}");
        bridge.final_counters.push(last);
        bridge.samples.push(CounterSamples::new());
        bridge.process = start_process(&self.settings, bridge.ingest, bridge.admin);
    }

    /// Looks at all counters again and again until it is `over`: what a process counts last nobody can ask it any more.
    pub fn watch_counters(&self, over: &AtomicBool) {
        std::thread::scope(|scope| {
            for bridge in &self.replicas {
                scope.spawn(|| watch_replica(bridge, over));
            }
        });
    }

    /// A counter of all bridges, over all of their runs: the sum of those of its series whose labels contain these.
    pub fn sum_counter(&self, metric: &str, labels: &[&str]) -> u64 {
        let of_one = |bridge: MutexGuard<'_, BridgeReplica>| {
            let looks = bridge.samples.iter();
            looks
                .map(|look| sum_series(look, metric, labels))
                .sum::<u64>()
        };
        self.lock_all().map(of_one).sum()
    }

    /// How many events ended bridges counted after the last look at them.
    pub fn count_unseen(&self) -> u64 {
        let mut unseen = 0;
        for bridge in self.lock_all() {
            for (last, look) in bridge.final_counters.iter().zip(&bridge.samples) {
                let received = last.as_ref().and_then(|last| last["received"].as_u64());
                let received = received.expect("counted at the end");
                unseen += received - sum_series(look, "butlr_bridge_received_total", &[]);
            }
        }
        unseen
    }
}

impl Drop for BridgeReplicas {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            delete_topics(&kafka_address(), &ten_topics(&self.template));
        }
    }
}

fn start_process(settings: &[String], ingest: SocketAddr, admin: SocketAddr) -> BridgeProcess {
    let addresses = [format!("http.bind={ingest}"), format!("admin.bind={admin}")];
    let all: Vec<_> = addresses
        .iter()
        .chain(settings)
        .map(String::as_str)
        .collect();
    let process = BridgeProcess::serve(&all);
    assert_eq!((process.ingest(), process.admin()), (ingest, admin));
    process
}

fn watch_replica(bridge: &Mutex<BridgeReplica>, over: &AtomicBool) {
    let (admin, agent) = (bridge.lock().expect("no panic holds it").admin, agent());
    let url = format!("http://{admin}/metrics");
    loop {
        let last = over.load(Ordering::Relaxed);
        if let Ok(answer) = agent.get(&url).call()
            && let Ok(text) = answer.into_body().read_to_string()
        {
            let counters = parse_counters(&text);
            let mut bridge = bridge.lock().expect("no panic holds it");
            // One that has just been started again counts from nothing.
            let total = |counters| sum_series(counters, "butlr_bridge_received_total", &[]);
            let look = bridge.samples.last_mut().expect("one");
            if total(&counters) >= total(look) {
                *look = counters;
            }
        }
        if last {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn parse_counters(exposition: &str) -> CounterSamples {
    let lines = exposition.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        Some((series.to_owned(), value.parse::<f64>().ok()? as u64))
    };
    lines.filter_map(sample).collect()
}

fn sum_series(counters: &CounterSamples, metric: &str, labels: &[&str]) -> u64 {
    let of_metric = counters.iter().filter(|(series, _)| {
        let found = series.strip_prefix(metric);
        let found = found.filter(|found| found.is_empty() || found.starts_with('{'));
        found.is_some_and(|found| labels.iter().all(|label| found.contains(label)))
    });
    of_metric.map(|(_, value)| value).sum()
}

fn parse_final_counters(output: &str) -> Option<Value> {
    let lines = output
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    lines.into_iter().find(|line| line["message"] == "ended")
}
