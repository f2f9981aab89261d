//! Bridges that keep their addresses over restarts, with counters over all their processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use butlr_simulate::sender::SendTarget;
use serde_json::Value;

use crate::harness::{
    BridgeProcess, RedisServer, agent, clock_ms, find_final_counters, parse_samples,
};
use crate::real_kafka::{
    create_topics, delete_topics, free_address, kafka_address, ten_topics, unique_name, wait_within,
};

/// Replicas on the same topics.
pub struct BridgeReplicas {
    settings: Vec<String>,
    pub template: String,
    pub has_redis: bool,
    replicas: Vec<Mutex<BridgeReplica>>,
    /// Time at which the first replica was away, in ms since 1970.
    pub away_ms: AtomicI64,
}

/// Single replica.
struct BridgeReplica {
    ingest: SocketAddr,
    admin: SocketAddr,
    process: BridgeProcess,
    /// Last counters read from each process.
    samples: Vec<CounterSamples>,
    /// Final counters from the logs of ended processes.
    final_counters: Vec<Option<Value>>,
}

/// Series with their values.
type CounterSamples = BTreeMap<String, u64>;

/// Long enough for slow machines: no result depends on a timeout.
const ANSWER_WITHIN: &str = "http.answer_within=10s";

impl BridgeReplicas {
    /// Starts this many replicas, with these additional settings.
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
            // On a busy machine, the default would let events be decided without Redis.
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
        all.map(|bridge| bridge.lock().expect("lock not poisoned"))
    }

    /// Returns the ingest addresses.
    pub fn targets(&self) -> Vec<SendTarget> {
        let target = |bridge: MutexGuard<'_, BridgeReplica>| {
            SendTarget::parse(&format!("http://{}/v1/events", bridge.ingest)).expect("a URL")
        };
        self.lock_all().map(target).collect()
    }

    /// Ends the first replica with this signal once this many events were received, and restarts it
    /// at once.
    pub fn restart(&self, signal: &str, after: u64) {
        wait_within(
            Duration::from_secs(300),
            "half of the stream has arrived",
            || {
                let received = |bridge: MutexGuard<'_, BridgeReplica>| {
                    let look = bridge.samples.last().expect("one");
                    sum_series(look, "butlr_bridge_received_total", &[])
                };
                self.lock_all().map(received).sum::<u64>() >= after
            },
        );
        let first = || self.replicas[0].lock().expect("lock not poisoned");
        first().process.signal(signal);
        // The lock is released meanwhile, so that the counters are read until the end.
        wait_within(Duration::from_secs(40), "the bridge ends", || {
            !first().process.is_running()
        });
        self.away_ms.store(clock_ms(), Ordering::Relaxed);
        let mut bridge = first();
        let output = bridge.process.output();
        let last = find_final_counters(&output);
        assert_eq!(last.is_some(), signal == "TERM", "{output}");
        bridge.final_counters.push(last);
        bridge.samples.push(CounterSamples::new());
        bridge.process = start_process(&self.settings, bridge.ingest, bridge.admin);
    }

    /// Reads all counters repeatedly until `over`, because a process cannot be asked after its end.
    pub fn watch_counters(&self, over: &AtomicBool) {
        std::thread::scope(|scope| {
            for bridge in &self.replicas {
                scope.spawn(|| watch_replica(bridge, over));
            }
        });
    }

    /// Sums a counter over all processes of all bridges, for series with these labels.
    pub fn sum_counter(&self, metric: &str, labels: &[&str]) -> u64 {
        let of_one = |bridge: MutexGuard<'_, BridgeReplica>| {
            let looks = bridge.samples.iter();
            looks
                .map(|look| sum_series(look, metric, labels))
                .sum::<u64>()
        };
        self.lock_all().map(of_one).sum()
    }

    /// Returns how many events ended processes counted after the last reading.
    pub fn count_unseen(&self) -> u64 {
        let mut unseen = 0;
        for bridge in self.lock_all() {
            for (last, look) in bridge.final_counters.iter().zip(&bridge.samples) {
                let received = last.as_ref().and_then(|last| last["received"].as_u64());
                let received = received.expect("the log has final counters");
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
    let (admin, agent) = (bridge.lock().expect("lock not poisoned").admin, agent());
    let url = format!("http://{admin}/metrics");
    loop {
        let last = over.load(Ordering::Relaxed);
        if let Ok(response) = agent.get(&url).call()
            && let Ok(text) = response.into_body().read_to_string()
        {
            let counters = parse_counters(&text);
            let mut bridge = bridge.lock().expect("lock not poisoned");
            // The counters of a restarted process begin at zero.
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
    let samples = parse_samples(exposition);
    samples
        .map(|(series, value)| (series.to_owned(), value as u64))
        .collect()
}

fn sum_series(counters: &CounterSamples, metric: &str, labels: &[&str]) -> u64 {
    let of_metric = counters.iter().filter(|(series, _)| {
        let found = series.strip_prefix(metric);
        let found = found.filter(|found| found.is_empty() || found.starts_with('{'));
        found.is_some_and(|found| labels.iter().all(|label| found.contains(label)))
    });
    of_metric.map(|(_, value)| value).sum()
}
