//! Builds the bridge's parts, runs them, and ends them in the right order.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpServer, rt};
use arc_swap::ArcSwap;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use crate::auth::{AdminAuthenticator, Authenticator};
use crate::config::{self, Config, ConfigError};
use crate::dedup::deduplicator::Deduplicator;
use crate::dedup::rebuild_thread::RebuildThread;
use crate::http::admin::AdminState;
use crate::http::gate::AdmissionGate;
use crate::http::ingest::{IngestState, IngestWorker, RequestIdGenerator};
use crate::http::tls::Certificate;
use crate::kafka::contact::Contact;
use crate::kafka::lane::TopicLane;
use crate::kafka::producer::Producer;
use crate::kafka::watch::{KafkaWatch, TopicCreationGuard};
use crate::kafka::{client, topics};
use crate::metrics::{EventOutcome, Metrics};
use crate::pipeline::Pipeline;
use crate::record::TimestampPolicy;
use crate::spool::dedup_restore::restore_dedup_window;
use crate::spool::health;
use crate::spool::store::{self, OpenReport, SpoolStore};
use crate::spool::{DrainHandle, Spool, SpoolParts};
use crate::telemetry::LogThrottle;
use butlr_event::ParseLimits;
use butlr_event::destination::Destination;

/// Why a bridge could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the configuration says cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address} ({key}): {source}; choose another address, or end what listens there"
    )]
    Listen {
        /// The key that names it.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The HTTP server ended by itself.
    #[error("the HTTP server failed: {0}")]
    Server(#[from] io::Error),
}

impl From<ConfigError> for Error {
    fn from(mistake: ConfigError) -> Self {
        Error::Configuration(mistake.to_string())
    }
}

/// The two sockets, bound before anything else is started, so that a port in use is told at once.
#[derive(Debug)]
pub struct Listeners {
    /// For the sender.
    pub ingest: TcpListener,
    /// For operators.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds both; port 0 takes a free one.
    ///
    /// # Errors
    /// [`Error::Listen`]
    pub fn bind(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            ingest: bind_listener("http.bind", config.http.bind)?,
            admin: bind_listener("admin.bind", config.admin.bind)?,
        })
    }
}

/// Connections that wait to be accepted while both workers are busy.
const ACCEPT_BACKLOG: i32 = 1024;
/// Between two looks at the connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

fn bind_listener(key: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(ACCEPT_BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    bind().map_err(|source| Error::Listen {
        key,
        address,
        source,
    })
}

/// The final count, once everything has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownSummary {
    /// Events received, and what they ended as.
    pub ledger: crate::metrics::EventTotals,
    /// Records that librdkafka still held when the time was up; none of them was promised.
    pub given_up: usize,
}

/// What a bridge is started with.
#[derive(Debug)]
pub struct LaunchOptions {
    /// Everything that can be configured.
    pub config: Config,
    /// Its sockets.
    pub listeners: Listeners,
    /// Whether missing topics are created once Kafka is reached.
    pub create_topics: bool,
}

/// Runs a bridge until `stop` is ready, then drains it. `reloads` brings configurations that were read again: their
/// credentials and certificate take effect.
///
/// To be run within an actix system (`actix_web::rt::System`).
///
/// # Errors
/// What the configuration asks for and cannot be had, or a server that ended by itself.
pub async fn run(
    launch: LaunchOptions,
    stop: impl Future<Output = ()>,
    mut reloads: mpsc::Receiver<Config>,
) -> Result<ShutdownSummary, Error> {
    let LaunchOptions {
        config,
        listeners,
        create_topics,
    } = launch;
    let bridge = RunningBridge::build(&config, create_topics)?;
    let ingest_address = listeners.ingest.local_addr()?;
    let admin_address = listeners.admin.local_addr()?;
    let (ingest_server, ingest_handle) = bridge.serve_ingest(&config, listeners.ingest)?;
    let (admin_server, admin_handle) =
        bridge.serve_admin(&config, listeners.admin, admin_address)?;
    let mut ingest_server = rt::spawn(ingest_server);
    let mut admin_server = rt::spawn(admin_server);
    tracing::info!(
        ingest = %ingest_address,
        admin = %admin_address,
        tls = config.http.tls.is_some(),
        version = env!("CARGO_PKG_VERSION"),
        "butlr-bridge is listening"
    );
    match (config.dedup.is_enabled(), &config.dedup.store) {
        (true, config::DedupStore::Memory) => tracing::info!(
            "what is stored is remembered in memory (dedup.store): of several replicas each knows its own, so copies that reach different ones are not recognised, and a value that goes back may be taken for a repeat"
        ),
        (true, config::DedupStore::Redis(_)) => {}
        (false, _) => {
            tracing::info!("duplicates are not looked for (dedup.redelivery, dedup.repeat)")
        }
    }
    for warning in bridge.warnings.load().iter() {
        tracing::warn!("{warning}");
    }
    let inspection = inspect_topics(
        config.clone(),
        create_topics.then(|| bridge.watch.start_topic_creation()),
        Arc::clone(&bridge.warnings),
    );
    let inspection = rt::spawn(inspection);

    let idle = config.http.keep_alive + config.http.header_timeout;
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = sweep.tick() => bridge.sweep(idle),
            Some(fresh) = reloads.recv() => bridge.reload(&fresh, ingest_address),
            ended = &mut ingest_server => return Err(server_exit_error(ended)),
            ended = &mut admin_server => return Err(server_exit_error(ended)),
        }
    }
    inspection.abort();
    let summary = bridge.shut_down(&config, ingest_handle).await;
    admin_handle.stop(false).await;
    Ok(summary)
}

fn server_exit_error(ended: Result<io::Result<()>, rt::task::JoinError>) -> Error {
    let ended = ended.unwrap_or_else(|join| Err(io::Error::other(join)));
    Error::Server(ended.err().unwrap_or_else(|| io::Error::other("it ended")))
}

/// Between two looks at the topics' settings; sooner while one is missing.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(300);

/// What the end takes beyond `shutdown.timeout` where Kafka or the disk let it: a purge of librdkafka's queue, a last commit.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(3);

/// Looks at the topics again and again, and creates missing ones at the start where that is asked for. Where a promise is
/// weak, the log (once) and `/status` say so.
async fn inspect_topics(
    config: Config,
    mut creating: Option<TopicCreationGuard>,
    warnings: Arc<ArcSwap<Vec<String>>>,
) {
    let config_warnings = config.warnings();
    loop {
        let mut pause = Duration::from_secs(2);
        match topics::inspect(&config).await {
            Ok(report) if creating.is_some() && report.has_missing() => {
                if create_missing_topics(&config, &report).await {
                    // A topic just created takes a moment to be seen.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    creating = None;
                    continue;
                }
            }
            Ok(report) => {
                creating = None;
                pause = match report.has_missing() {
                    true => Duration::from_secs(15),
                    false => INSPECTION_INTERVAL,
                };
                let found: Vec<_> = report.warnings().collect();
                let known = warnings.load_full();
                for warning in found.iter().filter(|w| !known.contains(w)) {
                    tracing::warn!("{warning}");
                }
                warnings.store(Arc::new([config_warnings.as_slice(), &found].concat()));
            }
            Err(error) => tracing::debug!(%error, "the topics could not be looked at yet"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Whether there is nothing left to create: what Kafka refuses once it would refuse again.
async fn create_missing_topics(config: &Config, report: &topics::TopicInspection) -> bool {
    match topics::create_missing(config, report).await {
        Ok(results) => {
            for (topic, result) in results {
                match result {
                    Ok(()) => tracing::info!(topic, "the topic was created"),
                    Err(reason) => tracing::error!(topic, reason, "the topic was not created"),
                }
            }
            true
        }
        Err(error) => {
            tracing::warn!(%error, "topics could not be created yet");
            false
        }
    }
}

struct RunningBridge {
    ingest: Arc<IngestState>,
    rebuilding: Option<RebuildThread>,
    draining: Option<DrainHandle>,
    contact: Arc<Contact>,
    certificate: Option<Arc<Certificate>>,
    warnings: Arc<ArcSwap<Vec<String>>>,
    watch: KafkaWatch,
}

/// What opening the spool found.
fn log_opened_spool(found: &OpenReport) {
    for store::DamagedFile { file, why, .. } in &found.damaged {
        tracing::error!(%file, %why, "a file of the spool is damaged: it was put aside, what could be read of it is drained");
    }
    for file in &found.missing {
        tracing::error!(%file, "a file of the spool is missing: what it held is lost, unless it was drained");
    }
    let entries: u64 = found.entries.iter().sum();
    if entries > 0 || !found.damaged.is_empty() {
        tracing::info!(
            entries,
            files = found.segments,
            bytes = found.bytes,
            took_s = found.took.as_secs_f64(),
            "the spool is open"
        );
    }
}

/// What Kafka refused for good before this start is not forgotten.
fn log_dead_letters(store: &SpoolStore) {
    match store.dead_letters() {
        Ok(entries) if entries.is_empty() => {}
        Ok(entries) => tracing::warn!(
            entries = entries.len(),
            "the spool holds entries that Kafka refused for good: look at them with `butlr-bridge spool list --set-aside`"
        ),
        Err(error) => tracing::warn!(%error, "what was set aside in the spool cannot be read"),
    }
}

/// Opens the spool, where there is one to be, and lets `desk` know what it holds. Damage does not keep it from starting: it is
/// told, and put aside.
fn open_spool(
    config: &Config,
    metrics: &Arc<Metrics>,
    lanes: &Arc<[Arc<TopicLane>; Destination::COUNT]>,
    deduplicator: Option<&Arc<Deduplicator>>,
) -> Result<Option<Arc<Spool>>, Error> {
    let Some(dir) = &config.spool.dir else {
        return Ok(None);
    };
    let options = store::Options {
        dir: dir.clone(),
        segment_bytes: config.spool.segment_bytes,
    };
    let opened = SpoolStore::open(options);
    let (store, found) =
        opened.map_err(|problem| Error::Configuration(format!("spool.dir: {problem}")))?;
    let store = store.with_compaction_above(config.spool.max_bytes / 2);
    log_opened_spool(&found);
    log_dead_letters(&store);
    if health::is_in_memory(dir) {
        tracing::warn!(
            dir = %dir.display(),
            "spool.dir lies in memory (tmpfs): it outlives a crash of this process, and not of its machine; give it a disk"
        );
    }
    let spool = Spool::start(SpoolParts {
        store,
        settings: config.spool.clone(),
        deduplicator: deduplicator.cloned(),
        lanes: Arc::clone(lanes),
        lane_events: config.kafka.max_in_flight_per_topic,
        lane_bytes: client::lane_bytes(&config.http),
        metrics: Arc::clone(metrics),
    });
    metrics.register(spool.metrics().collectors());
    if let Some(deduplicator) = deduplicator {
        restore_dedup_window(&spool, deduplicator, &config.dedup);
    }
    Ok(Some(spool))
}

type ServerWithHandle = (actix_web::dev::Server, ServerHandle);

impl RunningBridge {
    fn build(config: &Config, create_topics: bool) -> Result<Self, Error> {
        let bootstrap = config.require_bootstrap_servers()?;
        let names = config.topics.names();
        let metrics = Arc::new(Metrics::new(&names));
        let contact = Arc::new(Contact::default());
        let properties = client::producer_config(config, bootstrap);
        let properties_error = |error| Error::Configuration(format!("kafka.properties: {error}"));
        let producer = Producer::start(properties, Arc::clone(&metrics), Arc::clone(&contact))
            .map_err(properties_error)?;
        let producer = Arc::new(producer);
        let lanes = TopicLane::all(config);
        let certificate = match &config.http.tls {
            None => None,
            Some(files) => {
                let (certificate, expiry) =
                    Certificate::read(files).map_err(Error::Configuration)?;
                metrics.certificate_expiry.set(expiry);
                Some(certificate)
            }
        };
        let credentials = Authenticator::new(&config.auth, &metrics.auth_requests);
        let deduplicator = Deduplicator::open(config, &metrics).map_err(Error::Configuration)?;
        let deduplicator = deduplicator.map(Arc::new);
        let spool = open_spool(config, &metrics, &lanes, deduplicator.as_ref())?;
        // What was quarantined before is drained although nothing more is.
        let has_entries = |to| {
            spool
                .as_ref()
                .is_some_and(|spool| spool.store().present(to) > 0)
        };
        let is_watched = |lane: &&Arc<TopicLane>| match lane.destination() {
            Destination::Quarantine => {
                config.quarantine.keep || has_entries(Destination::Quarantine)
            }
            Destination::Events(_) => true,
        };
        let watch = KafkaWatch::start(
            &client::base_config(&config.kafka, bootstrap),
            Arc::clone(&producer),
            lanes.iter().filter(is_watched).cloned().collect(),
            Arc::clone(&contact),
            Arc::clone(&metrics),
            create_topics,
        )
        .map_err(properties_error)?;
        let stamping = TimestampPolicy::from_config(&config.kafka);
        let draining = spool.as_ref().map(|spool| {
            let consumer = client::base_config(&config.kafka, bootstrap);
            spool.start_drain(Arc::clone(&producer), stamping, consumer)
        });
        let rebuilding = deduplicator
            .as_ref()
            .map(|desk| RebuildThread::start(config, bootstrap, desk));
        let ingest = Arc::new(IngestState {
            pipeline: Pipeline {
                metrics,
                deduplicator,
                producer,
                contact: Arc::clone(&contact),
                started_at: Instant::now(),
                lanes,
                spool,
                confirm_within: config.kafka.confirm_within,
                spool_reserve: config.http.answer_within / 4,
                quarantine: config.quarantine,
                stamping,
                limits: ParseLimits {
                    max_events: config.http.max_events,
                    max_event_bytes: config.http.max_event_bytes,
                },
            },
            gate: AdmissionGate::new(&config.http),
            credentials: ArcSwap::from_pointee(credentials),
            max_body_bytes: config.http.max_body_bytes,
            body_timeout: config.http.body_timeout,
            answer_within: config.http.answer_within,
            request_ids: RequestIdGenerator::new(),
            refusal_throttle: LogThrottle::default(),
        });
        Ok(Self {
            ingest,
            rebuilding,
            draining,
            contact,
            certificate,
            warnings: Arc::new(ArcSwap::from_pointee(config.warnings())),
            watch,
        })
    }

    fn serve_ingest(
        &self,
        config: &Config,
        listener: TcpListener,
    ) -> Result<ServerWithHandle, Error> {
        let ingest = Arc::clone(&self.ingest);
        let gate = Arc::clone(&ingest.gate);
        let server = HttpServer::new(move || {
            let worker = IngestWorker::start(Arc::clone(&ingest));
            App::new().configure(|routes| worker.configure_routes(routes))
        })
        .workers(config.http.workers)
        // The gate is the limit: actix-web's own only stops accepting, and clients would hang in the backlog.
        .max_connections(usize::MAX >> 1)
        // Of TLS handshakes under way; at this limit, too, actix-web stops accepting.
        .max_connection_rate(config.http.max_connections)
        .tls_handshake_timeout(config.http.header_timeout)
        .on_connect(move |socket, connection| {
            let tcp = socket.downcast_ref::<TcpStream>().or_else(|| {
                type Tls = actix_tls::accept::rustls_0_23::TlsStream<TcpStream>;
                socket.downcast_ref::<Tls>().map(|tls| tls.get_ref().0)
            });
            if let Some(tcp) = tcp {
                connection.insert(gate.register_connection(SockRef::from(tcp)));
            }
        })
        .keep_alive(config.http.keep_alive)
        .client_request_timeout(config.http.header_timeout)
        .client_disconnect_timeout(Duration::from_secs(1))
        .shutdown_timeout(config.shutdown.timeout.as_secs().max(1))
        .disable_signals();
        let server = match &self.certificate {
            None => server.listen(listener)?,
            Some(certificate) => {
                server.listen_rustls_0_23(listener, certificate.server_config())?
            }
        };
        let server = server.run();
        let handle = server.handle();
        Ok((server, handle))
    }

    fn serve_admin(
        &self,
        config: &Config,
        listener: TcpListener,
        address: SocketAddr,
    ) -> Result<ServerWithHandle, Error> {
        let admin = Arc::new(AdminState {
            ingest: Arc::clone(&self.ingest),
            contact: Arc::clone(&self.contact),
            away_after: config.kafka.away_after,
            credentials: AdminAuthenticator::new(&config.admin),
            is_exposed: !address.ip().to_canonical().is_loopback(),
            started_at: Instant::now(),
            warnings: Arc::clone(&self.warnings),
        });
        let server = HttpServer::new(move || {
            App::new().configure(|c| Arc::clone(&admin).configure_routes(c))
        })
        .workers(1)
        .max_connections(1024)
        .disable_signals()
        .listen(listener)?
        .run();
        let handle = server.handle();
        Ok((server, handle))
    }

    /// What is due every [`SWEEP`].
    fn sweep(&self, idle: Duration) {
        self.ingest.gate.close_idle(idle);
        if let Some(deduplicator) = &self.ingest.pipeline.deduplicator {
            deduplicator.memory().sweep(Instant::now());
        }
    }

    /// Credentials and certificate take effect; what cannot be used leaves what is in use.
    fn reload(&self, config: &Config, listening: SocketAddr) {
        // The configuration was checked against the address it names, which need not be the one that is listened on.
        if config.auth.is_empty() && !listening.ip().to_canonical().is_loopback() {
            tracing::error!(
                address = %listening,
                "no credentials in the configuration that was read again; those in use stay, since this address can be reached from other machines"
            );
            return;
        }
        let metrics = &self.ingest.pipeline.metrics;
        let credentials = Authenticator::new(&config.auth, &metrics.auth_requests);
        let names: Vec<_> = credentials.names().map(str::to_owned).collect();
        self.ingest.credentials.store(Arc::new(credentials));
        tracing::info!(credentials = ?names, "credentials were read again");
        if let (Some(certificate), Some(files)) = (&self.certificate, &config.http.tls) {
            match certificate.reload(files) {
                Ok(expiry) => {
                    metrics.certificate_expiry.set(expiry);
                    tracing::info!("the certificate was read again");
                }
                Err(problem) => tracing::error!("the certificate in use stays: {problem}"),
            }
        }
    }

    /// The order of draining: not ready, then no new connections, then what is in flight, then librdkafka's queue.
    async fn shut_down(self, config: &Config, ingest_handle: ServerHandle) -> ShutdownSummary {
        let deadline = Instant::now() + config.shutdown.timeout;
        self.ingest.gate.start_draining();
        drop(self.rebuilding);
        tracing::info!("shutting down");
        tokio::time::sleep(config.shutdown.drain_delay).await;
        let stopped = tokio::time::timeout_at(deadline.into(), ingest_handle.stop(true));
        if stopped.await.is_err() {
            tracing::warn!("connections were still open when the time for shutting down was up");
            drop(ingest_handle.stop(false));
        }
        let producer = Arc::clone(&self.ingest.pipeline.producer);
        let spool = self.ingest.pipeline.spool.clone();
        let mut within = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(100));
        if spool.is_some() {
            // What librdkafka still has is on disk, too.
            within = within.min(config.kafka.confirm_within);
        }
        drop(self.watch);
        let draining = self.draining;
        let (ended, end) = oneshot::channel();
        // No task of the runtime, which would wait for it for ever: a disk that hangs must not keep the process.
        let ending = std::thread::Builder::new().name("ending".into());
        let ending = ending.spawn(move || {
            if let Some(spool) = &spool {
                spool.shut_down();
            }
            let given_up = producer.close(within);
            // Only now: the last reports decide entries.
            drop(draining);
            let _ = ended.send(given_up);
        });
        ending.expect("the system can start a thread");
        let given_up = match tokio::time::timeout_at((deadline + SHUTDOWN_MARGIN).into(), end).await
        {
            Ok(given_up) => given_up.unwrap_or(0),
            Err(_) => {
                tracing::error!(
                    "the spool's disk does not answer; ending without it: what is not on disk by now was answered 503, or not at all"
                );
                0
            }
        };
        if let Some(deduplicator) = &self.ingest.pipeline.deduplicator {
            let within = deadline.saturating_duration_since(Instant::now());
            deduplicator
                .flush(within.max(Duration::from_millis(100)))
                .await;
        }
        let ledger = self.ingest.pipeline.metrics.totals();
        let spool_ledger = self
            .ingest
            .pipeline
            .spool
            .as_ref()
            .map(|spool| spool.ledger());
        tracing::info!(
            received = ledger.received,
            published = ledger.count(EventOutcome::Published),
            duplicate = ledger.count(EventOutcome::Duplicate),
            spooled = ledger.count(EventOutcome::Spooled),
            quarantined = ledger.count(EventOutcome::Quarantined),
            refused = ledger.count(EventOutcome::Refused),
            records_given_up = given_up,
            spool_recovered = spool_ledger.as_ref().map(|life| life.recovered),
            spool_spooled = spool_ledger.as_ref().map(|life| life.spooled),
            spool_drained = spool_ledger.as_ref().map(|life| life.drained),
            spool_confirmed_late = spool_ledger.as_ref().map(|life| life.confirmed_late),
            spool_already_stored = spool_ledger.as_ref().map(|life| life.already_stored),
            spool_set_aside = spool_ledger.as_ref().map(|life| life.dead_letters),
            spool_lost = spool_ledger.as_ref().map(|life| life.lost),
            spool_present = spool_ledger.as_ref().map(|life| life.present),
            balanced = ledger.is_balanced(),
            "ended"
        );
        ShutdownSummary { ledger, given_up }
    }
}
