//! The thread that rebuilds the memory after a start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::desk::Desk;
use super::rebuild::rebuild;
use crate::config::Config;
use crate::kafka::client;
use butlr_event::EventType;

/// Between two looks whether the spool was read.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

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
                    // What is in the spool is newer, and has to be known before.
                    while !desk.knows_spool() && !stop.load(Ordering::Relaxed) {
                        std::thread::sleep(LOOK_AGAIN);
                    }
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
    use std::time::Instant;

    use super::*;
    use crate::config::{self, ConfigSources};
    use crate::kafka::embedded::EmbeddedKafka;
    use crate::metrics::Metrics;

    fn desk(within: &str) -> (Config, Arc<Desk>) {
        let flags = [
            ("kafka.bootstrap_servers", "127.0.0.1:1"),
            ("dedup.rebuild_within", within),
        ];
        let sources = ConfigSources {
            flags: flags.map(|(k, v)| (k.to_owned(), v.into())).into(),
            ..ConfigSources::default()
        };
        let config = config::load(&sources, &|_, _| Ok(())).expect("a configuration");
        let desk = Desk::open(&config, &Metrics::new(&config.topics.names())).expect("no Redis");
        let desk = Arc::new(desk.expect("it is on"));
        (config, desk)
    }

    /// Started with a Kafka that is not there.
    fn started(within: &str) -> (Rebuilding, Arc<Desk>) {
        let (config, desk) = desk(within);
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
    fn the_spool_is_read_before_the_topics() {
        let (config, desk) = desk("10s");
        let topics = config.topics.names().map(|name| (name, 1));
        let broker = EmbeddedKafka::start(&topics).expect("a broker");
        let start = || Rebuilding::start(&config, broker.bootstrap_servers(), &desk);
        let is_over = |rebuilding: &Rebuilding| {
            let thread = rebuilding.thread.as_ref();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(2) {
                if thread.is_some_and(JoinHandle::is_finished) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            false
        };
        desk.expect_spool();
        let given_up = start();
        assert!(!is_over(&given_up));
        drop(given_up);
        assert!(!desk.is_rebuilt());

        let rebuilding = start();
        desk.spool_restored();
        assert!(is_over(&rebuilding));
        assert!(desk.is_rebuilt() && desk.incomplete().is_none());
    }

    #[test]
    fn topics_alone_are_not_all() {
        let (_config, desk) = desk("1s");
        desk.expect_spool();
        desk.set_rebuilt();
        assert!(!desk.is_rebuilt() && !desk.knows_spool());
        desk.spool_restored();
        assert!(desk.is_rebuilt());
    }

    #[test]
    fn nothing_read_is_nothing_to_wait_for() {
        let (_rebuilding, desk) = started("0s");
        assert!(desk.is_rebuilt());
    }
}
