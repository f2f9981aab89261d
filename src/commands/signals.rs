//! SIGTERM and SIGINT.

use std::io;
use std::ops::ControlFlow;
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::CommandExit;

/// Calls `on_signal` for each SIGTERM or SIGINT, on its own thread. If it returns `Break`, the
/// process exits at once; a command does so on the second signal.
pub fn listen(mut on_signal: impl FnMut() -> ControlFlow<()> + Send + 'static) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    let listen = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if on_signal().is_break() {
                std::process::exit(CommandExit::Failed.into());
            }
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(listen))?;
    Ok(())
}
