//! Inspects the topics' settings in the background, and creates missing topics at the start.

use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::time::sleep;
use arc_swap::ArcSwap;

use crate::config::Config;
use crate::kafka::topics::{self, TopicInspection};
use crate::kafka::watch::TopicCreationGuard;

/// Pause between two inspections.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(300);
/// Pause while a topic is missing.
const MISSING_TOPIC_INTERVAL: Duration = Duration::from_secs(15);
/// Pause before the next attempt if Kafka could not be asked or a topic could not be created.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Time until a topic that was just created shows up in metadata.
const CREATION_DELAY: Duration = Duration::from_millis(300);

/// Inspects the topics until it is aborted. With a `creation` guard it first creates the missing
/// ones. Settings that weaken the promise go to the log, once, and to `warnings` for `/status`.
pub(super) async fn inspect_topics(
    config: Config,
    mut creation: Option<TopicCreationGuard>,
    warnings: Arc<ArcSwap<Vec<String>>>,
) {
    let config_warnings = config.warnings();
    loop {
        let mut pause = RETRY_INTERVAL;
        match topics::inspect(&config).await {
            Ok(inspection) if creation.is_some() && inspection.has_missing() => {
                if create_missing_topics(&config, &inspection).await {
                    sleep(CREATION_DELAY).await;
                    creation = None;
                    continue;
                }
            }
            Ok(inspection) => {
                creation = None;
                pause = if inspection.has_missing() {
                    MISSING_TOPIC_INTERVAL
                } else {
                    INSPECTION_INTERVAL
                };
                let found: Vec<_> = inspection.warnings().collect();
                let known = warnings.load_full();
                for warning in found.iter().filter(|w| !known.contains(w)) {
                    tracing::warn!("{warning}");
                }
                warnings.store(Arc::new([config_warnings.as_slice(), &found].concat()));
            }
            Err(error) => tracing::debug!(%error, "the topics could not be inspected yet"),
        }
        sleep(pause).await;
    }
}

/// Returns `true` if Kafka answered. A topic that it refused is not tried again, because it would
/// be refused again.
async fn create_missing_topics(config: &Config, inspection: &TopicInspection) -> bool {
    match topics::create_missing(config, inspection).await {
        Ok(results) => {
            for (topic, result) in results {
                match result {
                    Ok(()) => tracing::info!(topic, "topic created"),
                    Err(reason) => tracing::error!(topic, reason, "topic not created"),
                }
            }
            true
        }
        Err(error) => {
            tracing::warn!(%error, "missing topics could not be created yet");
            false
        }
    }
}
