//! The thread that rebuilds the memory after a start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::desk::Desk;
use super::rebuild::rebuild;
use crate::config::Config;
use crate::event::EventType;
use crate::kafka::client;

/// A rebuilding under way. Dropped: it is given up.
#[derive(Debug)]
pub struct Rebuilding {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rebuilding {
    /// Starts it; the desk is told when it is over. Events are taken meanwhile.
    pub fn start(config: &Config, bootstrap: &str, topics: [String; 10], desk: &Arc<Desk>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if config.dedup.rebuild_within.is_zero() {
            desk.set_rebuilt();
            return Self { stop, thread: None };
        }
        let consumer = client::base(&config.kafka, bootstrap);
        let settings = config.dedup.clone();
        let thread = std::thread::Builder::new()
            .name("dedup-rebuild".into())
            .spawn({
                let (desk, stop) = (Arc::clone(desk), Arc::clone(&stop));
                move || {
                    // Also after a panic: events must not wait for what does not come.
                    let _over = Over(Arc::clone(&desk));
                    let mut known = |place: usize| desk.set_known(EventType::ALL[place]);
                    let memory = desk.memory();
                    let outcome =
                        rebuild(consumer, &topics, memory, &settings, &stop, &mut known);
                    match &outcome.why_not {
                        None => tracing::info!(
                            records = outcome.records,
                            ids = outcome.ids,
                            readings = outcome.readings,
                            unreadable = outcome.unreadable,
                            took_s = outcome.took.as_secs_f64(),
                            "what was stored before the start is known again"
                        ),
                        Some(_) if stop.load(Ordering::Relaxed) => {}
                        Some(why) => tracing::warn!(
                            records = outcome.records,
                            took_s = outcome.took.as_secs_f64(),
                            why,
                            "not all that was stored before the start is known again: copies of it are published as new"
                        ),
                    }
                }
            })
            .expect("the system can start a thread");
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

struct Over(Arc<Desk>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.set_rebuilt();
    }
}

impl Drop for Rebuilding {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
