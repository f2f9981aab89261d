//! Core: the parts between the listeners and Kafka, wired in one place for `serve`, `replay` and
//! `spool drain`.

use std::sync::Arc;
use std::time::Instant;

use butlr_event::ParseLimits;
use butlr_event::destination::Destination;

use crate::config::{Config, DedupStore};
use crate::dedup::deduplicator::Deduplicator;
use crate::dedup::rebuild::RebuildThread;
use crate::delivery::RecordProducer;
use crate::kafka::client;
use crate::kafka::contact::Contact;
use crate::kafka::lane::TopicLane;
use crate::kafka::watch::{KafkaWatch, MissingTopics};
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::record::TimestampPolicy;
use crate::spool::dedup_restore::restore_dedup_window;
use crate::spool::store::SpoolStore;
use crate::spool::{DrainHandle, Spool, SpoolParts};

/// The pipeline and the threads that work for it.
pub struct Core {
    /// The path of an event, with everything it uses.
    pub pipeline: Pipeline,
    /// Watches Kafka and its topics.
    pub watch: KafkaWatch,
    /// Drains the spool; `None` without a spool.
    pub drain: Option<DrainHandle>,
    /// Rebuilds the dedup window; `None` in a drain and if duplicate detection is off.
    pub rebuild: Option<RebuildThread>,
}

/// The command that runs the core; decides which parts are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreMode {
    /// Everything.
    Serve {
        /// Treatment of topics that do not exist.
        missing_topics: MissingTopics,
    },
    /// No spool and no quarantine; the configuration says so.
    Replay,
    /// Publishes from the spool only; the pipeline gets no requests.
    SpoolDrain,
}

impl Core {
    /// Starts the parts; `store` is the opened spool, if there is one.
    ///
    /// # Errors
    /// A sentence that names the configuration key that can't be used.
    pub fn start(
        config: &Config,
        mode: CoreMode,
        store: Option<SpoolStore>,
    ) -> Result<Self, String> {
        let bootstrap = config
            .require_bootstrap_servers()
            .map_err(|error| error.to_string())?;
        let properties_error = |error| format!("kafka.properties: {error}");
        let metrics = Arc::new(Metrics::new(&config.topics.names()));
        let contact = Arc::new(Contact::default());
        let producer = RecordProducer::start(
            client::producer_config(config, bootstrap),
            Arc::clone(&metrics),
            Arc::clone(&contact),
        );
        let producer = Arc::new(producer.map_err(properties_error)?);
        let lanes = TopicLane::all(config);
        let is_drain = mode == CoreMode::SpoolDrain;
        // A drain asks for no claims; it only tells a shared store what reaches Kafka.
        let uses_dedup = !is_drain || matches!(config.dedup.store, DedupStore::Redis(_));
        let deduplicator = if uses_dedup {
            Deduplicator::open(config, &metrics)?.map(Arc::new)
        } else {
            None
        };
        let watched = watched_lanes(config, mode, &lanes[..], store.as_ref());
        let consumer = client::base_config(&config.kafka, bootstrap);
        let timestamp_policy = TimestampPolicy::from_config(&config.kafka);
        let spool = store.map(|store| {
            Spool::start(SpoolParts {
                store,
                settings: config.spool.clone(),
                deduplicator: deduplicator.clone(),
                lanes: Arc::clone(&lanes),
                lane_events: config.kafka.max_in_flight_per_topic,
                lane_bytes: client::lane_bytes(&config.http),
                metrics: Arc::clone(&metrics),
            })
        });
        if let Some(spool) = &spool {
            metrics.register(spool.metrics().collectors());
        }
        let window = deduplicator.as_ref().filter(|_| !is_drain);
        if let (Some(spool), Some(deduplicator)) = (&spool, window) {
            restore_dedup_window(spool, deduplicator, &config.dedup);
        }
        let missing_topics = match mode {
            CoreMode::Serve { missing_topics } => missing_topics,
            CoreMode::Replay | CoreMode::SpoolDrain => MissingTopics::Report,
        };
        let watch = KafkaWatch::start(&consumer, Arc::clone(&producer), watched, missing_topics)
            .map_err(properties_error)?;
        let drain = spool
            .as_ref()
            .map(|spool| spool.start_drain(Arc::clone(&producer), timestamp_policy, consumer));
        let rebuild =
            window.map(|deduplicator| RebuildThread::start(config, bootstrap, deduplicator));
        let pipeline = Pipeline {
            metrics,
            deduplicator,
            producer,
            contact,
            started_at: Instant::now(),
            lanes,
            spool,
            confirm_within: config.kafka.confirm_within,
            spool_reserve: config.http.answer_within / 4,
            quarantine: config.quarantine,
            timestamp_policy,
            limits: ParseLimits {
                max_events: config.http.max_events,
                max_event_bytes: config.http.max_event_bytes,
            },
        };
        Ok(Self {
            pipeline,
            watch,
            drain,
            rebuild,
        })
    }
}

/// Returns the lanes whose topics have to exist. A missing topic is an error only if something is
/// published to it.
fn watched_lanes(
    config: &Config,
    mode: CoreMode,
    lanes: &[Arc<TopicLane>],
    store: Option<&SpoolStore>,
) -> Vec<Arc<TopicLane>> {
    let is_watched = |lane: &&Arc<TopicLane>| {
        let destination = lane.destination();
        let has_entries = store.is_some_and(|store| store.present(destination) > 0);
        if mode == CoreMode::SpoolDrain {
            return has_entries;
        }
        match destination {
            Destination::Events(_) => true,
            // Rejected items in the spool are drained even after the quarantine was turned off.
            Destination::Quarantine => config.quarantine.keep || has_entries,
        }
    };
    lanes.iter().filter(is_watched).cloned().collect()
}
