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
    /// Starts it; the desk is told when it is over, and what is missing then. Events are taken meanwhile.
    pub fn start(config: &Config, bootstrap: &str, desk: &Arc<Desk>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if config.dedup.rebuild_within.is_zero() {
            desk.set_rebuilt();
            return Self { stop, thread: None };
        }
        let consumer = client::base(&config.kafka, bootstrap);
        let (settings, topics) = (config.dedup.clone(), config.topics.names());
        let thread = std::thread::Builder::new()
            .name("dedup-rebuild".into())
            .spawn({
                let (desk, stop) = (Arc::clone(desk), Arc::clone(&stop));
                move || {
                    // Also after a panic: events must not wait for what does not come.
                    let over = Over(&desk);
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
                        // The bridge ends: nobody is to take what is not known for known.
                        Some(_) if stop.load(Ordering::Relaxed) => std::mem::forget(over),
                        Some(why) => {
                            tracing::warn!(
                                records = outcome.records,
                                took_s = outcome.took.as_secs_f64(),
                                why,
                                "not all that was stored before the start is known again: copies of it are published as new"
                            );
                            desk.set_incomplete(why.clone());
                        }
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

struct Over<'d>(&'d Desk);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_incomplete("it failed".to_owned());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};
    use crate::metrics::Metrics;

    /// Started with a Kafka that is not there.
    fn started(within: &str) -> (Rebuilding, Arc<Desk>) {
        let flags = [
            ("kafka.bootstrap_servers", "127.0.0.1:1"),
            ("dedup.rebuild_within", within),
        ];
        let sources = Sources {
            flags: flags.map(|(k, v)| (k.to_owned(), v.into())).into(),
            ..Sources::default()
        };
        let config = config::load(&sources, &|_, _| Ok(())).expect("a configuration");
        let desk = Desk::open(&config, &Metrics::new(&config.topics.names())).expect("no Redis");
        let desk = Arc::new(desk.expect("it is on"));
        let rebuilding = Rebuilding::start(&config, "127.0.0.1:1", &desk);
        (rebuilding, desk)
    }

    #[test]
    fn a_bridge_that_ends_before_it_is_over_knows_nothing_new() {
        let (rebuilding, desk) = started("1s");
        std::thread::sleep(std::time::Duration::from_millis(1500));
        assert!(!desk.is_rebuilt(), "its time has not begun");
        drop(rebuilding);
        assert!(!desk.is_rebuilt() && desk.incomplete().is_none());
    }

    #[test]
    fn nothing_read_is_nothing_to_wait_for() {
        let (_rebuilding, desk) = started("0s");
        assert!(desk.is_rebuilt());
    }
}
