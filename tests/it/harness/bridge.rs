//! A bridge inside the test process: the same `app::run` as in production, on free ports, with its
//! own Kafka.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use butlr_bridge::app::{self, LaunchOptions, Listeners, ShutdownSummary};
use butlr_bridge::config::{self, Config, ConfigSources};
use butlr_bridge::kafka::client::check_property;
use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_bridge::kafka::topics;
use butlr_event::EventType;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    HttpRequest, HttpResponse, PATIENCE, TestRecord, agent, eventually, ledger, read_records,
    read_response,
};

/// Kafka that a bridge uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KafkaBackend {
    /// The real Kafka if `BUTLR_BRIDGE_TEST_KAFKA` is set, otherwise an embedded broker.
    #[default]
    Default,
    /// An embedded broker for this bridge alone; faults can be injected into it.
    Embedded,
    /// The real Kafka named by `BUTLR_BRIDGE_TEST_KAFKA`.
    Real,
    /// A broker at this address, which may be down. The test manages the topics.
    Address(String),
}

type BrokerSetup = Box<dyn FnOnce(&EmbeddedKafka)>;

/// Builder for a [`TestBridge`]. Starts from the default configuration, with two workers.
pub struct BridgeSetup {
    kafka: KafkaBackend,
    settings: Vec<(String, toml::Value)>,
    create_topics: bool,
    wait_until_ready: bool,
    prepare_broker: Option<BrokerSetup>,
}

impl Default for BridgeSetup {
    fn default() -> Self {
        Self {
            kafka: KafkaBackend::Default,
            settings: Vec::new(),
            create_topics: true,
            wait_until_ready: true,
            prepare_broker: None,
        }
    }
}

impl BridgeSetup {
    /// Uses an embedded broker, for tests that inject faults or measure time.
    pub fn embedded() -> Self {
        Self::with_kafka(KafkaBackend::Embedded)
    }

    pub fn with_kafka(kafka: KafkaBackend) -> Self {
        Self {
            kafka,
            ..Self::default()
        }
    }

    /// Sets a configuration key, for example `("http.max_events", 3)`.
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.settings.push((key.to_owned(), value.into()));
        self
    }

    /// Leaves the topics uncreated.
    pub fn without_topics(mut self) -> Self {
        self.create_topics = false;
        self
    }

    /// Lets [`TestBridge::start`] return as soon as the bridge listens, ready or not.
    pub fn without_waiting(mut self) -> Self {
        self.wait_until_ready = false;
        self
    }

    /// Prepares the embedded broker before the bridge starts.
    pub fn prepare_broker(mut self, act: impl FnOnce(&EmbeddedKafka) + 'static) -> Self {
        self.prepare_broker = Some(Box::new(act));
        self
    }

    pub fn start(self) -> TestBridge {
        TestBridge::start(self)
    }
}

/// Running bridge. Its ledger is checked when it ends, by [`TestBridge::finish`] or on drop.
pub struct TestBridge {
    /// Address of the ingest listener.
    pub ingest: SocketAddr,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    pub config: Config,
    pub bootstrap_servers: String,
    agent: ureq::Agent,
    settings: Vec<(String, toml::Value)>,
    reloads: mpsc::Sender<Config>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<ShutdownSummary, app::Error>>>,
    counted: AtomicU64,
    delete_topics: bool,
    kafka: Option<EmbeddedKafka>,
}

impl TestBridge {
    #[track_caller]
    pub fn start(setup: BridgeSetup) -> Self {
        let backend = match (&setup.kafka, std::env::var("BUTLR_BRIDGE_TEST_KAFKA")) {
            (KafkaBackend::Default, Ok(address)) if !address.is_empty() => {
                KafkaBackend::Address(address)
            }
            (KafkaBackend::Default | KafkaBackend::Embedded, _) => KafkaBackend::Embedded,
            (KafkaBackend::Real, address) => KafkaBackend::Address(address.expect("a real Kafka")),
            (KafkaBackend::Address(address), _) => KafkaBackend::Address(address.clone()),
        };
        let real = matches!(setup.kafka, KafkaBackend::Default | KafkaBackend::Real)
            && backend != KafkaBackend::Embedded;

        let mut set = base_settings();
        if real {
            // Each bridge gets its own topics, so that tests do not see each other's records.
            static BRIDGES: AtomicU32 = AtomicU32::new(0);
            let number = BRIDGES.fetch_add(1, Ordering::Relaxed);
            let prefix = format!("it.{}.{number}", std::process::id());
            let quarantine = format!("{prefix}.quarantine.v1");
            set.push(("topics.quarantine".into(), quarantine.into()));
            set.push((
                "topics.template".into(),
                format!("{prefix}.{{type}}.v1").into(),
            ));
        }
        set.extend(setup.settings);
        let (kafka, bootstrap_servers) = match backend {
            KafkaBackend::Address(address) => (None, address),
            _ => {
                let topics = if setup.create_topics {
                    topics_of(&load_config(&set))
                } else {
                    Vec::new()
                };
                let kafka = EmbeddedKafka::start(&topics).expect("an embedded broker");
                let address = kafka.bootstrap_servers().to_owned();
                (Some(kafka), address)
            }
        };
        if let (Some(act), Some(kafka)) = (setup.prepare_broker, &kafka) {
            act(kafka);
        }
        let server = bootstrap_servers.as_str().into();
        set.push(("kafka.bootstrap_servers".into(), server));
        let config = load_config(&set);
        let create = real && setup.create_topics;
        if create {
            create_topics(&config);
        }

        let listeners = Listeners::bind(&config).expect("two free ports");
        let ingest = listeners.ingest.local_addr().expect("bound");
        let admin = listeners.admin.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let (reloads, to_reload) = mpsc::channel(1);
        let launch = LaunchOptions {
            config: config.clone(),
            listeners,
            create_topics: false,
        };
        let thread = std::thread::spawn(move || {
            let stopped = async move { drop(stopped.await) };
            actix_web::rt::System::new().block_on(app::run(launch, stopped, to_reload))
        });
        let bridge = Self {
            ingest,
            admin,
            config,
            bootstrap_servers,
            agent: agent(),
            settings: set,
            reloads,
            stop: Some(stop),
            thread: Some(thread),
            counted: AtomicU64::new(0),
            delete_topics: create,
            kafka,
        };
        if setup.wait_until_ready {
            bridge.wait_until_ready();
        }
        bridge
    }

    #[track_caller]
    pub fn wait_until_ready(&self) {
        eventually("/readyz returns 200", || {
            (self.get_admin("/readyz").status == 200).then_some(())
        });
    }

    /// Returns the embedded broker.
    #[track_caller]
    pub fn kafka(&self) -> &EmbeddedKafka {
        self.kafka.as_ref().expect("a bridge on an embedded broker")
    }

    /// Sets the round-trip time of the embedded broker.
    pub fn slow_down(&self, delay: Duration) {
        self.kafka()
            .with_cluster(move |cluster| cluster.broker_round_trip_time(1, delay))
            .unwrap();
    }

    pub fn topic(&self, event_type: EventType) -> &str {
        &self.config.topics.for_type(event_type).name
    }

    /// Creates a request to the ingest listener.
    pub fn request(&self, method: &str, path: &str) -> CountedRequest<'_> {
        let scheme = match self.config.http.tls {
            Some(_) => "https",
            None => "http",
        };
        // The test certificates are issued for localhost.
        let url = format!("{scheme}://localhost:{}{path}", self.ingest.port());
        CountedRequest {
            bridge: self,
            request: HttpRequest::new(method, &url),
        }
    }

    /// Sends a JSON body with POST.
    #[track_caller]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> HttpResponse {
        self.request("POST", path)
            .header("content-type", "application/json")
            .body(body)
            .send()
    }

    /// Sends one event, or an array, to `/v1/events`.
    #[track_caller]
    pub fn send(&self, body: impl AsRef<[u8]>) -> HttpResponse {
        self.post("/v1/events", body)
    }

    /// Opens a bare connection to the ingest listener, with a read timeout. Read responses with
    /// [`TestBridge::read_response`], so that their events are counted.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.ingest).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("a socket option");
        stream
    }

    /// Reads a response from a bare connection and counts its events.
    #[track_caller]
    pub fn read_response(&self, stream: &mut impl Read) -> HttpResponse {
        let response = read_response(stream).expect("a response");
        self.count_response(&response);
        response
    }

    /// Counts the events of a response that did not come through [`TestBridge::request`].
    pub fn count_response(&self, response: &HttpResponse) {
        let events = ledger::count_events(response);
        self.counted.fetch_add(events, Ordering::Relaxed);
    }

    /// Counts events whose response the test did not read.
    pub fn count_events(&self, events: u64) {
        self.counted.fetch_add(events, Ordering::Relaxed);
    }

    /// Sends a GET to the admin listener.
    #[track_caller]
    pub fn get_admin(&self, path: &str) -> HttpResponse {
        self.admin_request(path).send(&self.agent)
    }

    /// Creates a GET of the admin listener, to be sent with [`agent`].
    pub fn admin_request(&self, path: &str) -> HttpRequest {
        let address = SocketAddr::from(([127, 0, 0, 1], self.admin.port()));
        HttpRequest::new("GET", &format!("http://{address}{path}"))
    }

    #[track_caller]
    pub fn metrics(&self) -> String {
        self.get_admin("/metrics").expect(200).text()
    }

    /// Returns the value of one series, such as
    /// `butlr_bridge_events_total{outcome="published",type="TRAFFIC"}` (labels in alphabetical
    /// order). Fails the test if there is none.
    #[track_caller]
    pub fn metric(&self, series: &str) -> f64 {
        let exposition = self.metrics();
        let mut same = ledger::parse_samples(&exposition).filter(|(s, _)| *s == series);
        let found = same.next().map(|(_, value)| value);
        found.unwrap_or_else(|| panic!("{series} is not in\n{exposition}"))
    }

    /// Sums all series of a metric that contain `label` (all series if it is empty).
    #[track_caller]
    pub fn metric_sum(&self, name: &str, label: &str) -> f64 {
        ledger::sum_samples(&self.metrics(), name, label)
    }

    /// Waits until the bridge has received this many events since it started.
    #[track_caller]
    pub fn wait_until_received(&self, events: f64) {
        eventually("the events are received", || {
            let received = self.metric_sum("butlr_bridge_received_total", "");
            (received >= events).then_some(())
        });
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.get_admin("/status").expect(200).json()
    }

    /// Returns the state of a type's topic from `/status`.
    #[track_caller]
    pub fn topic_state(&self, event_type: EventType) -> String {
        let status = self.status();
        let state = status["types"][event_type.index()]["topic_state"].as_str();
        state.expect("a state").to_owned()
    }

    /// Reads all records of a type's topic.
    #[track_caller]
    pub fn records(&self, event_type: EventType) -> Vec<TestRecord> {
        read_records(&self.bootstrap_servers, self.topic(event_type))
    }

    /// Reloads the configuration with these changes, as SIGHUP does.
    #[track_caller]
    pub fn reload(&self, changes: &[(&str, toml::Value)]) {
        let changes = changes.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
        let set: Vec<_> = self.settings.iter().cloned().chain(changes).collect();
        self.reloads
            .blocking_send(load_config(&set))
            .expect("it runs");
    }

    /// Begins the shutdown without waiting for its end.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Checks the ledger, stops the bridge and returns its shutdown summary.
    pub fn finish(mut self) -> ShutdownSummary {
        self.end().expect("not ended yet")
    }

    fn end(&mut self) -> Option<ShutdownSummary> {
        let thread = self.thread.take()?;
        let panicking = std::thread::panicking();
        let objection = match self.stop {
            Some(_) if !panicking => self.find_imbalance(),
            _ => None,
        };
        self.begin_stop();
        let ended = thread.join();
        if self.delete_topics {
            delete_topics(&self.config);
        }
        if panicking {
            eprintln!("the bridge of the failed test: {ended:?}");
            return None;
        }
        assert_eq!(objection, None, "the ledger does not balance");
        let summary = ended.expect("the bridge did not panic");
        let summary = summary.expect("the bridge ran");
        assert!(summary.ledger.is_balanced(), "{:?}", summary.ledger);
        let counted = self.counted.load(Ordering::Relaxed);
        assert_eq!(summary.ledger.received, counted, "counted by the harness");
        Some(summary)
    }

    /// Describes how the ledger fails to balance. Waits first, because events of clients that
    /// disconnected may still be in flight.
    fn find_imbalance(&self) -> Option<String> {
        let counted = self.counted.load(Ordering::Relaxed);
        let wait = self.config.http.answer_within + Duration::from_secs(5);
        let start = Instant::now();
        loop {
            let spool = || {
                let spool = self.config.spool.dir.as_ref().map(|_| self.status());
                spool.and_then(|status| ledger::find_spool_imbalance(&status["spool"]))
            };
            let objection = ledger::find_imbalance(&self.metrics(), counted).or_else(spool);
            if objection.is_none() || start.elapsed() > wait {
                return objection;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for TestBridge {
    fn drop(&mut self) {
        self.end();
    }
}

/// Request whose events are counted when the response arrives.
pub struct CountedRequest<'b> {
    bridge: &'b TestBridge,
    request: HttpRequest,
}

impl CountedRequest<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.request = self.request.body(body);
        self
    }

    #[track_caller]
    pub fn send(self) -> HttpResponse {
        let bridge = self.bridge;
        self.send_with(&bridge.agent)
    }

    /// Sends it with another client.
    #[track_caller]
    pub fn send_with(self, agent: &ureq::Agent) -> HttpResponse {
        let response = self.request.send(agent);
        self.bridge.count_response(&response);
        response
    }
}

fn base_settings() -> Vec<(String, toml::Value)> {
    [
        ("http.workers", toml::Value::from(2)),
        ("http.bind", "127.0.0.1:0".into()),
        ("admin.bind", "127.0.0.1:0".into()),
        ("topics.partitions", 3.into()),
        // Most tests tell rejected requests from quarantined ones; tests of the quarantine enable
        // it.
        ("quarantine.keep", false.into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

#[track_caller]
fn load_config(set: &[(String, toml::Value)]) -> Config {
    let sources = ConfigSources {
        flags: set.to_vec(),
        ..ConfigSources::default()
    };
    config::load(&sources, &check_property).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn topics_of(config: &Config) -> Vec<(String, i32)> {
    let specs = config.required_topics();
    specs.map(|s| (s.name.clone(), s.partitions)).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

#[track_caller]
fn create_topics(config: &Config) {
    block_on(async {
        let report = topics::inspect(config).await.expect("Kafka responds");
        for (topic, result) in topics::create_missing(config, &report)
            .await
            .expect("Kafka responds")
        {
            result.unwrap_or_else(|reason| panic!("{topic}: {reason}"));
        }
    });
    eventually("the topics are visible", || {
        let report = block_on(topics::inspect(config)).expect("Kafka responds");
        (!report.has_missing()).then_some(())
    });
}

/// Deletes the topics of a test. Hundreds of leftover topics would slow down the broker for later
/// tests.
fn delete_topics(config: &Config) {
    use rdkafka::admin::{AdminClient, AdminOptions};
    use rdkafka::client::DefaultClientContext;

    let topics = topics_of(config);
    let names: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
    let bootstrap = config.require_bootstrap_servers().unwrap_or_default();
    let admin: Result<AdminClient<DefaultClientContext>, _> =
        butlr_bridge::kafka::client::base_config(&config.kafka, bootstrap).create();
    if let Ok(admin) = admin {
        let _ = block_on(admin.delete_topics(&names, &AdminOptions::new()));
    }
}
