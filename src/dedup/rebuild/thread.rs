//! The thread that rebuilds the window after a start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use super::{RebuildContext, rebuild};
use crate::config::Config;
use crate::dedup::deduplicator::Deduplicator;
use crate::kafka::client;
use butlr_event::EventType;

/// Poll interval for the end of restoring the spool.
const SPOOL_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A rebuild that runs on its own thread. Dropping it stops the rebuild.
#[derive(Debug)]
pub struct RebuildThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RebuildThread {
    /// Starts the rebuild. When it ends, the deduplicator is told, and why it is incomplete if so.
    /// Events are accepted meanwhile.
    pub fn start(config: &Config, bootstrap: &str, deduplicator: &Arc<Deduplicator>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if config.dedup.rebuild_within.is_zero() {
            deduplicator.mark_topics_read();
            return Self { stop, thread: None };
        }
        let consumer_config = client::base_config(&config.kafka, bootstrap);
        let (settings, topics) = (config.dedup.clone(), config.topics.names());
        let thread = std::thread::Builder::new()
            .name("dedup-rebuild".into())
            .spawn({
                let (deduplicator, stop) = (Arc::clone(deduplicator), Arc::clone(&stop));
                move || {
                    let context = RebuildContext {
                        topics: &topics,
                        memory: deduplicator.memory(),
                        settings: &settings,
                        stop: &stop,
                    };
                    run(&deduplicator, consumer_config, context);
                }
            })
            .expect("the system can start a thread");
        Self {
            stop,
            thread: Some(thread),
        }
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

fn run(deduplicator: &Deduplicator, consumer_config: ClientConfig, context: RebuildContext<'_>) {
    let mut guard = RebuiltGuard(Some(deduplicator));
    // The spool holds newer events, which must be known first.
    while !deduplicator.is_spool_restored() && !context.stop.load(Ordering::Relaxed) {
        std::thread::sleep(SPOOL_POLL_INTERVAL);
    }
    let outcome = rebuild(consumer_config, context, &mut |index| {
        deduplicator.mark_type_restored(EventType::ALL[index]);
    });
    match outcome.incomplete_reason {
        None => tracing::info!(
            records = outcome.records,
            ids = outcome.ids,
            readings = outcome.readings,
            unreadable = outcome.unreadable,
            took_s = outcome.duration.as_secs_f64(),
            "the dedup window is rebuilt"
        ),
        // The bridge is stopping: the window must not count as rebuilt.
        Some(_) if context.stop.load(Ordering::Relaxed) => guard.0 = None,
        Some(why) => {
            tracing::warn!(
                records = outcome.records,
                took_s = outcome.duration.as_secs_f64(),
                why,
                "the dedup window is rebuilt only in part: copies of events that are missing \
                 from it are published as new"
            );
            deduplicator.set_incomplete_reason(why);
        }
    }
}

/// Marks the window as rebuilt when dropped, also after a panic: events must not wait for a rebuild
/// that has ended. Setting it to `None` disarms it.
struct RebuiltGuard<'d>(Option<&'d Deduplicator>);

impl Drop for RebuiltGuard<'_> {
    fn drop(&mut self) {
        let Some(deduplicator) = self.0 else { return };
        if std::thread::panicking() {
            deduplicator.set_incomplete_reason("the rebuild failed".to_owned());
        }
        deduplicator.mark_topics_read();
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
        let config = config::load(&sources, &|_, _| Ok(())).expect("a valid configuration");
        let deduplicator =
            Deduplicator::open(&config, &Metrics::new(&config.topics.names())).expect("no Redis");
        let deduplicator = Arc::new(deduplicator.expect("dedup is enabled"));
        (config, deduplicator)
    }

    /// Starts a rebuild without a Kafka.
    fn start_without_kafka(within: &str) -> (RebuildThread, Arc<Deduplicator>) {
        let (config, deduplicator) = new_deduplicator(within);
        let rebuild = RebuildThread::start(&config, "127.0.0.1:1", &deduplicator);
        (rebuild, deduplicator)
    }

    #[test]
    fn a_rebuild_that_is_stopped_does_not_count_as_done() {
        let (rebuild, deduplicator) = start_without_kafka("1s");
        std::thread::sleep(std::time::Duration::from_millis(1500));
        assert!(
            !deduplicator.is_rebuilt(),
            "the time limit starts with Kafka's first answer"
        );
        drop(rebuild);
        assert!(!deduplicator.is_rebuilt() && deduplicator.incomplete_reason().is_none());
    }

    #[test]
    fn the_spool_is_read_before_the_topics() {
        let (config, deduplicator) = new_deduplicator("10s");
        let topics = config.topics.names().map(|name| (name, 1));
        let broker = EmbeddedKafka::start(&topics).expect("a broker");
        let start = || RebuildThread::start(&config, broker.bootstrap_servers(), &deduplicator);
        let is_finished_soon = |rebuild: &RebuildThread| {
            let thread = rebuild.thread.as_ref();
            let started_at = Instant::now();
            while started_at.elapsed() < Duration::from_secs(2) {
                if thread.is_some_and(JoinHandle::is_finished) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            false
        };
        deduplicator.expect_spool();
        let stopped = start();
        assert!(!is_finished_soon(&stopped));
        drop(stopped);
        assert!(!deduplicator.is_rebuilt());

        let rebuild = start();
        deduplicator.mark_spool_restored();
        assert!(is_finished_soon(&rebuild));
        assert!(deduplicator.is_rebuilt() && deduplicator.incomplete_reason().is_none());
    }

    #[test]
    fn both_topics_and_spool_must_be_restored() {
        let (_config, deduplicator) = new_deduplicator("1s");
        deduplicator.expect_spool();
        deduplicator.mark_topics_read();
        assert!(!deduplicator.is_rebuilt() && !deduplicator.is_spool_restored());
        deduplicator.mark_spool_restored();
        assert!(deduplicator.is_rebuilt());
    }

    #[test]
    fn a_disabled_rebuild_is_done_at_once() {
        let (_rebuild, deduplicator) = start_without_kafka("0s");
        assert!(deduplicator.is_rebuilt());
    }
}
