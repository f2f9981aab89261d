//! The bridge process: binds the listeners, starts the core, serves until it is told to stop.

mod shutdown;
mod spool_opening;
mod topic_inspection;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::{Server, ServerHandle};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpServer, rt};
use arc_swap::ArcSwap;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::sync::mpsc;

use crate::auth::{AdminAuthenticator, Authenticator};
use crate::budget::InFlightBudget;
use crate::config::{Config, ConfigError, DedupStore};
use crate::core::{Core, CoreMode};
use crate::dedup::rebuild::RebuildThread;
use crate::http::admin::AdminState;
use crate::http::connections::ConnectionTable;
use crate::http::ingest::{IngestState, IngestWorker, RequestIdGenerator};
use crate::http::tls::Certificate;
use crate::kafka::watch::{KafkaWatch, MissingTopics};
use crate::spool::DrainHandle;
use crate::telemetry::LogThrottle;

pub use shutdown::ShutdownSummary;
use spool_opening::open_spool;
use topic_inspection::inspect_topics;

/// Error that keeps the bridge from running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configured value cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// An address cannot be bound.
    #[error(
        "cannot listen on {address} ({key}): {source}; choose another address, or stop the process that listens there"
    )]
    Listen {
        /// Configuration key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The HTTP server failed, or ended without being told to.
    #[error("the HTTP server failed: {0}")]
    Server(#[from] io::Error),
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Error::Configuration(error.to_string())
    }
}

/// The two listening sockets. Bound before anything else starts, so that a port in use is reported
/// at once.
#[derive(Debug)]
pub struct Listeners {
    /// For senders.
    pub ingest: TcpListener,
    /// For operators.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds both listeners; port 0 takes a free port.
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

/// Connections that the system queues while all workers are busy.
const ACCEPT_BACKLOG: i32 = 1024;
/// Interval of the sweep over idle connections and expired dedup entries.
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

/// Parameters of [`run`].
#[derive(Debug)]
pub struct LaunchOptions {
    /// The whole configuration.
    pub config: Config,
    /// The bound sockets.
    pub listeners: Listeners,
    /// Creates missing topics once Kafka is reached.
    pub create_topics: bool,
}

/// Runs a bridge until `stop` is ready, then drains it. `reloads` delivers configurations that were
/// read again; their credentials and certificate take effect.
///
/// Must run within an actix system (`actix_web::rt::System`).
///
/// # Errors
/// A configured value that cannot be used, or a server that ended by itself.
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
    let bridge = RunningBridge::start(&config, create_topics)?;
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
    log_dedup_limits(&config);
    for warning in bridge.warnings.load().iter() {
        tracing::warn!("{warning}");
    }
    let creation = create_topics.then(|| bridge.watch.start_topic_creation());
    let warnings = Arc::clone(&bridge.warnings);
    let inspection = rt::spawn(inspect_topics(config.clone(), creation, warnings));

    let max_idle = config.http.keep_alive + config.http.header_timeout;
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = sweep.tick() => bridge.sweep(max_idle),
            Some(fresh) = reloads.recv() => bridge.reload(&fresh, ingest_address),
            result = &mut ingest_server => return Err(server_exit_error(result)),
            result = &mut admin_server => return Err(server_exit_error(result)),
        }
    }
    inspection.abort();
    let summary = bridge.shut_down(&config, ingest_handle).await;
    admin_handle.stop(false).await;
    Ok(summary)
}

fn log_dedup_limits(config: &Config) {
    if !config.dedup.is_enabled() {
        tracing::info!("duplicate detection is off (dedup.redelivery, dedup.repeat)");
    } else if matches!(config.dedup.store, DedupStore::Memory) {
        tracing::info!(
            "the dedup window is in memory (dedup.store), so each replica has its own: copies that reach different replicas are not detected, and a value that changes back may count as a repeat"
        );
    }
}

fn server_exit_error(result: Result<io::Result<()>, rt::task::JoinError>) -> Error {
    let result = result.unwrap_or_else(|join| Err(io::Error::other(join)));
    let error = result.err();
    Error::Server(error.unwrap_or_else(|| io::Error::other("it ended without being stopped")))
}

struct RunningBridge {
    ingest: Arc<IngestState>,
    watch: KafkaWatch,
    drain: Option<DrainHandle>,
    rebuild: Option<RebuildThread>,
    certificate: Option<Arc<Certificate>>,
    warnings: Arc<ArcSwap<Vec<String>>>,
}

type ServerWithHandle = (Server, ServerHandle);

impl RunningBridge {
    fn start(config: &Config, create_topics: bool) -> Result<Self, Error> {
        let tls = config.http.tls.as_ref().map(Certificate::read).transpose();
        let (certificate, expiry) = tls.map_err(Error::Configuration)?.unzip();
        let missing_topics = if create_topics {
            MissingTopics::Create
        } else {
            MissingTopics::Report
        };
        let mode = CoreMode::Serve { missing_topics };
        let core = Core::start(config, mode, open_spool(config)?).map_err(Error::Configuration)?;
        let metrics = &core.pipeline.metrics;
        if let Some(expiry) = expiry {
            metrics.certificate_expiry.set(expiry.0 as f64);
        }
        let credentials = Authenticator::new(&config.auth, &metrics.auth_requests);
        let ingest = Arc::new(IngestState {
            pipeline: core.pipeline,
            budget: InFlightBudget::new(&config.http),
            connections: ConnectionTable::new(config.http.max_connections),
            credentials: ArcSwap::from_pointee(credentials),
            max_body_bytes: config.http.max_body_bytes,
            body_timeout: config.http.body_timeout,
            answer_within: config.http.answer_within,
            request_ids: RequestIdGenerator::new(),
            rejection_throttle: LogThrottle::default(),
        });
        Ok(Self {
            ingest,
            watch: core.watch,
            drain: core.drain,
            rebuild: core.rebuild,
            certificate,
            warnings: Arc::new(ArcSwap::from_pointee(config.warnings())),
        })
    }

    fn serve_ingest(
        &self,
        config: &Config,
        listener: TcpListener,
    ) -> Result<ServerWithHandle, Error> {
        let ingest = Arc::clone(&self.ingest);
        let connections = Arc::clone(&ingest.connections);
        let server = HttpServer::new(move || {
            let worker = IngestWorker::start(Arc::clone(&ingest));
            App::new().configure(|routes| worker.configure_routes(routes))
        })
        .workers(config.http.workers)
        // The connection table enforces the limit. actix-web's own limit stops accepting, which
        // leaves clients waiting in the backlog.
        .max_connections(usize::MAX >> 1)
        // Limits concurrent TLS handshakes; here, too, actix-web stops accepting.
        .max_connection_rate(config.http.max_connections)
        .tls_handshake_timeout(config.http.header_timeout)
        .on_connect(move |socket, connection| {
            let tcp = socket.downcast_ref::<TcpStream>().or_else(|| {
                type Tls = actix_tls::accept::rustls_0_23::TlsStream<TcpStream>;
                socket.downcast_ref::<Tls>().map(|tls| tls.get_ref().0)
            });
            if let Some(tcp) = tcp {
                connection.insert(connections.register(SockRef::from(tcp)));
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
            away_after: config.kafka.away_after,
            credentials: AdminAuthenticator::new(&config.admin),
            is_exposed: !is_loopback(address),
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

    /// Runs every [`SWEEP_INTERVAL`].
    fn sweep(&self, max_idle: Duration) {
        self.ingest.connections.close_idle(max_idle);
        if let Some(deduplicator) = &self.ingest.pipeline.deduplicator {
            deduplicator.memory().sweep(Instant::now());
        }
    }

    /// Applies credentials and certificate of a configuration that was read again. If one of them
    /// cannot be used, the current one stays.
    fn reload(&self, config: &Config, ingest_address: SocketAddr) {
        // The configuration was checked against the address that it names now, which may differ
        // from the one that is bound.
        if config.auth.is_empty() && !is_loopback(ingest_address) {
            tracing::error!(
                address = %ingest_address,
                "the reloaded configuration has no credentials; the current ones stay, because other machines can reach this address"
            );
            return;
        }
        let metrics = &self.ingest.pipeline.metrics;
        let credentials = Authenticator::new(&config.auth, &metrics.auth_requests);
        let names: Vec<_> = credentials.names().map(str::to_owned).collect();
        self.ingest.credentials.store(Arc::new(credentials));
        tracing::info!(credentials = ?names, "credentials reloaded");
        if let (Some(certificate), Some(files)) = (&self.certificate, &config.http.tls) {
            match certificate.reload(files) {
                Ok(expiry) => {
                    metrics.certificate_expiry.set(expiry.0 as f64);
                    tracing::info!("certificate reloaded");
                }
                Err(problem) => tracing::error!("the current certificate stays: {problem}"),
            }
        }
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
