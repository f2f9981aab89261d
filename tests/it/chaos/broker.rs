//! Broker of the chaos suite behind a proxy, with all the faults that can be injected into it.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use crate::harness::FaultyProxy;
use crate::real_kafka::{RealBroker, wait_within};

/// Time limit for an administrative request to a healthy broker.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options for a quick start, because the broker is restarted often.
const QUICK_START: [&str; 8] = [
    "--jvm",
    "-XX:TieredStopAtLevel=1",
    "--jvm",
    "-XX:+UseSerialGC",
    // After a crash, the broker waits until its earlier session has expired.
    "--set",
    "broker.session.timeout.ms=2000",
    "--set",
    "broker.heartbeat.interval.ms=500",
];

/// Broker used for many schedules; removed with its data on drop.
pub struct ChaosKafka {
    pub broker: RealBroker,
    pub proxy: FaultyProxy,
}

impl ChaosKafka {
    /// Starts a broker and its proxy, which takes about 5 s.
    pub fn start() -> Self {
        let broker = RealBroker::start_with(&QUICK_START);
        let local = |port: u16| ([127, 0, 0, 1], port).into();
        // The listener at N+4 is advertised as N+5 (see `broker.sh`).
        let port = broker.port();
        let proxy =
            FaultyProxy::start(local(port + 5), local(port + 4)).expect("broker.sh's free port");
        Self { broker, proxy }
    }

    /// Returns the address without the proxy.
    pub fn address(&self) -> String {
        self.broker.address()
    }

    /// Returns the address behind the proxy.
    pub fn proxied_address(&self) -> String {
        format!("127.0.0.1:{}", self.broker.port() + 5)
    }

    /// Sets `min.insync.replicas` of a topic.
    pub fn set_min_insync_replicas(&self, topic: &str, replicas: &str) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", self.address())
            .create()
            .expect("an admin client");
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        wait_within(PATIENCE, "min.insync.replicas is changed", || {
            let topic = ResourceSpecifier::Topic(topic);
            let change = AlterConfig::new(topic).set("min.insync.replicas", replicas);
            let changed = runtime.block_on(admin.alter_configs(&[change], &options));
            changed.is_ok_and(|results| results.iter().all(Result::is_ok))
        });
    }
}
