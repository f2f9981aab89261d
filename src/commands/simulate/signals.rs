//! Ctrl-C: the first ends the run as its duration would, the second ends the process.

use std::io;
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::EXIT_FAILED;
use butlr_simulate::progress::ProgressOutput;
use butlr_simulate::sender::StopSignal;

/// Listens from now on, on a thread of its own.
///
/// # Errors
/// The system does not let it.
pub fn stop_on_signal(stop: StopSignal, progress: ProgressOutput) -> io::Result<()> {
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
            if stop.is_stopped() {
                std::process::exit(EXIT_FAILED.into());
            }
            stop.stop();
            // Standard error may be closed by now.
            let _ = progress
                .note("ending: what the story still needs is sent; a second Ctrl-C ends at once");
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(listen))?;
    Ok(())
}
