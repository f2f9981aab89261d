//! The thread that rebuilds the memory after a start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::deduplicator::Deduplicator;
use super::rebuild::rebuild;
use crate::config::Config;
use crate::kafka::client;
use butlr_event::EventType;

/// Between two looks whether the spool was read.
const SPOOL_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A rebuilding under way. Dropped: it is given up.
#[derive(Debug)]
pub struct RebuildThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RebuildThread {
    /// Starts it; the desk is told when it is over, and what is missing then. Events are taken meanwhile.
    pub fn start(config: &Config, bootstrap: &str, deduplicator: &Arc<Deduplicator>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if config.dedup.rebuild_within.is_zero() {
            deduplicator.mark_rebuilt();
            return Self { stop, thread: None };
        }
        let consumer = client::base_config(&config.kafka, bootstrap);
        let (settings, topics) = (config.dedup.clone(), config.topics.names());
        let thread = std::thread::Builder::new()
            .name("dedup-rebuild".into())
            .spawn({
                let (desk, stop) = (Arc::clone(deduplicator), Arc::clone(&stop));
                move || {
                    // Also after a panic: events must not wait for what does not come.
                    let guard = RebuiltGuard(&desk);
                    // What is in the spool is newer, and has to be known before.
                    while !desk.is_spool_restored() && !stop.load(Ordering::Relaxed) {
                        std::thread::sleep(SPOOL_POLL_INTERVAL);
                    }
                    let mut on_topic_restored = |place: usize| desk.mark_type_restored(EventType::ALL[place]);
                    let memory = desk.memory();
                    let outcome =
                        rebuild(consumer, &topics, memory, &settings, &stop, &mut on_topic_restored);
                    match &outcome.incomplete_reason {
                        None => tracing::info!(
                            records = outcome.records,
                            ids = outcome.ids,
                            readings = outcome.readings,
                            unreadable = outcome.unreadable,
                            took_s = outcome.duration.as_secs_f64(),
                            "what was stored before the start is known again"
                        ),
                        // The bridge ends: nobody is to take what is not known for known.
                        Some(_) if stop.load(Ordering::Relaxed) => std::mem::forget(guard),
                        Some(why) => {
                            tracing::warn!(
                                records = outcome.records,
                                took_s = outcome.duration.as_secs_f64(),
                                why,
                                "not all that was stored before the start is known again: copies of it are published as new"
                            );
                            desk.set_incomplete_reason(why.clone());
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

struct RebuiltGuard<'d>(&'d Deduplicator);

impl Drop for RebuiltGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_incomplete_reason("it failed".to_owned());
        }
        self.0.mark_rebuilt();
    }
}

impl Drop for RebuildThread {
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

    fn new_deduplicator(within: &str) -> (Config, Arc<Deduplicator>) {
        let flags = [
            ("kafka.bootstrap_servers", "127.0.0.1:1"),
            ("dedup.rebuild_within", within),
        ];
        let sources = ConfigSources {
            flags: flags.map(|(k, v)| (k.to_owned(), v.into())).into(),
            ..ConfigSources::default()
        };
        let config = config::load(&sources, &|_, _| Ok(())).expect("a configuration");
        let desk =
            Deduplicator::open(&config, &Metrics::new(&config.topics.names())).expect("no Redis");
        let desk = Arc::new(desk.expect("it is on"));
        (config, desk)
    }

    /// Started with a Kafka that is not there.
    fn start_without_kafka(within: &str) -> (RebuildThread, Arc<Deduplicator>) {
        let (config, desk) = new_deduplicator(within);
        let rebuilding = RebuildThread::start(&config, "127.0.0.1:1", &desk);
        (rebuilding, desk)
    }

    #[test]
    fn a_bridge_that_ends_before_it_is_over_knows_nothing_new() {
        let (rebuilding, desk) = start_without_kafka("1s");
        std::thread::sleep(std::time::Duration::from_millis(1500));
        assert!(!desk.is_rebuilt(), "its time has not begun");
        drop(rebuilding);
        assert!(!desk.is_rebuilt() && desk.incomplete_reason().is_none());
    }

    #[test]
    fn the_spool_is_read_before_the_topics() {
        let (config, desk) = new_deduplicator("10s");
        let topics = config.topics.names().map(|name| (name, 1));
        let broker = EmbeddedKafka::start(&topics).expect("a broker");
        let start = || RebuildThread::start(&config, broker.bootstrap_servers(), &desk);
        let is_over = |rebuilding: &RebuildThread| {
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
        desk.mark_spool_restored();
        assert!(is_over(&rebuilding));
        assert!(desk.is_rebuilt() && desk.incomplete_reason().is_none());
    }

    #[test]
    fn topics_alone_are_not_all() {
        let (_config, desk) = new_deduplicator("1s");
        desk.expect_spool();
        desk.mark_rebuilt();
        assert!(!desk.is_rebuilt() && !desk.is_spool_restored());
        desk.mark_spool_restored();
        assert!(desk.is_rebuilt());
    }

    #[test]
    fn nothing_read_is_nothing_to_wait_for() {
        let (_rebuilding, desk) = start_without_kafka("0s");
        assert!(desk.is_rebuilt());
    }
}
