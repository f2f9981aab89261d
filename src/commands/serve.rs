//! `serve`: runs the bridge until a signal ends it.

use std::ops::ControlFlow;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::{CommandExit, ConfigArguments, load_config, signals};
use crate::app::{self, LaunchOptions, Listeners};
use crate::config::{Config, ConfigSources};
use crate::telemetry;

#[derive(clap::Args, Debug)]
pub struct ServeArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Create missing topics, as `topics --apply` does, once Kafka is reached
    #[arg(long)]
    create_topics: bool,
}

pub fn run(arguments: ServeArguments) -> CommandExit {
    let sources = arguments.config.sources();
    let config = match arguments.config.load_with_kafka() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
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
        Ok(_) => CommandExit::Success,
        Err(error) => report_failure(&error),
    }
}

/// Raises the limit of open files. The usual default of 1,024 is far below `http.max_connections`,
/// and at the limit no connection can be accepted, not even a probe's.
fn raise_open_file_limit(max_connections: usize) {
    // The HTTP server and the gate, which closes idle connections, each hold a descriptor.
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

/// Prints why the bridge could not run.
pub(super) fn report_failure(error: &app::Error) -> CommandExit {
    let exit = match error {
        app::Error::Configuration(_) => CommandExit::Usage,
        app::Error::Listen { .. } | app::Error::Server(_) => CommandExit::Failed,
    };
    exit.print_error(format!("butlr-bridge: {error}"))
}

/// Requests that arrive as signals.
pub(super) struct ProcessSignals<F> {
    /// Completes at the first SIGTERM or SIGINT; the second ends the process at once.
    pub stopped: F,
    /// Valid configurations, reloaded at SIGHUP.
    pub reloads: mpsc::Receiver<Config>,
}

impl ProcessSignals<()> {
    pub(super) fn listen(
        sources: ConfigSources,
    ) -> std::io::Result<ProcessSignals<impl Future<Output = ()>>> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (reload, reloads) = mpsc::channel(1);
        let mut stop = Some(stop);
        signals::listen(move || match stop.take() {
            Some(stop) => {
                let _ = stop.send(());
                ControlFlow::Continue(())
            }
            None => {
                tracing::warn!("second signal: exiting at once");
                ControlFlow::Break(())
            }
        })?;
        let hangup = signal(SignalKind::hangup())?;
        tokio::spawn(reload_on_hangup(hangup, sources, reload));
        let stopped = async move {
            let _ = stopped.await;
        };
        Ok(ProcessSignals { stopped, reloads })
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
            Ok(Err(errors)) => {
                for error in &errors {
                    tracing::error!(
                        "configuration not reloaded, the current one stays in use: {error}"
                    );
                }
            }
            Err(join) => tracing::error!(%join, "the configuration could not be reloaded"),
        }
    }
}
