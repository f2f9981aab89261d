//! `serve`: the bridge, until a signal ends it.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::{ConfigArguments, EXIT_FAILED, EXIT_MISUSED, load_config, report_mistakes};
use crate::app::{self, LaunchOptions, Listeners};
use crate::config::{Config, ConfigSources};
use crate::telemetry;

#[derive(clap::Args, Debug)]
pub struct ServeArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Create the topics that are missing, as `topics --apply` does, once Kafka is reached
    #[arg(long)]
    create_topics: bool,
}

pub fn run(arguments: ServeArguments) -> ExitCode {
    let sources = arguments.config.sources();
    let config = match arguments.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(mistake) = config.require_bootstrap_servers() {
        return report_mistakes(&[mistake]);
    }
    telemetry::init(&config.log);
    raise_open_file_limit(config.http.max_connections);
    let listeners = match Listeners::bind(&config) {
        Ok(listeners) => listeners,
        Err(error) => return report_failure(&error),
    };
    let launch = LaunchOptions {
        config,
        listeners,
        create_topics: arguments.create_topics,
    };
    let result = actix_web::rt::System::new().block_on(async {
        let signals = ProcessSignals::listen(sources).map_err(app::Error::Server)?;
        app::run(launch, signals.stopped, signals.reloads).await
    });
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => report_failure(&error),
    }
}

/// A login shell's or systemd's default of 1,024 open files is far below `http.max_connections`; beyond it nothing can be
/// accepted, the probes included.
fn raise_open_file_limit(max_connections: usize) {
    // Each connection is held by the HTTP server and by the gate, which closes it when it idles.
    let needed = 2 * max_connections as u64 + 512;
    match rlimit::increase_nofile_limit(needed) {
        Ok(limit) if limit < needed => tracing::warn!(
            limit,
            needed,
            "the limit of open files is too low for http.max_connections; raise it (LimitNOFILE, ulimit -n)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

/// Tells why the bridge could not run; the exit code.
pub(super) fn report_failure(error: &app::Error) -> ExitCode {
    eprintln!("butlr-bridge: {error}");
    match error {
        app::Error::Configuration(_) => ExitCode::from(EXIT_MISUSED),
        app::Error::Listen { .. } | app::Error::Server(_) => ExitCode::from(EXIT_FAILED),
    }
}

/// What signals ask for.
pub(super) struct ProcessSignals<F> {
    /// Ready at the first SIGTERM or SIGINT; the second ends the process at once.
    pub stopped: F,
    /// A configuration that was read again at SIGHUP and is good.
    pub reloads: mpsc::Receiver<Config>,
}

impl ProcessSignals<()> {
    pub(super) fn listen(
        sources: ConfigSources,
    ) -> std::io::Result<ProcessSignals<impl Future<Output = ()>>> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (reload, reloads) = mpsc::channel(1);
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        tokio::spawn(stop_on_signal(terminate, interrupt, stop));
        tokio::spawn(reload_on_hangup(hangup, sources, reload));
        let stopped = async move {
            let _ = stopped.await;
        };
        Ok(ProcessSignals { stopped, reloads })
    }
}

async fn stop_on_signal(mut terminate: Signal, mut interrupt: Signal, stop: oneshot::Sender<()>) {
    let mut stop = Some(stop);
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        match stop.take() {
            Some(stop) => drop(stop.send(())),
            None => {
                tracing::warn!("a second signal: ending at once");
                std::process::exit(EXIT_FAILED.into());
            }
        }
    }
}

async fn reload_on_hangup(
    mut hangup: Signal,
    sources: ConfigSources,
    reload: mpsc::Sender<Config>,
) {
    while hangup.recv().await.is_some() {
        let sources = sources.clone();
        let loaded = tokio::task::spawn_blocking(move || load_config(&sources)).await;
        match loaded {
            Ok(Ok(config)) => {
                if reload.send(config).await.is_err() {
                    return;
                }
            }
            Ok(Err(mistakes)) => {
                for mistake in &mistakes {
                    tracing::error!(
                        "configuration not read again, what is in use stays: {mistake}"
                    );
                }
            }
            Err(join) => tracing::error!(%join, "the configuration could not be read again"),
        }
    }
}
