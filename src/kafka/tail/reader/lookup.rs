//! Lookup of topics and of the bounds of their partitions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::types::RDKafkaErrorCode;

use super::super::{TailPartition, TailTopic, WantedTopic};
use super::{Patience, TailConsumer, lock};
use crate::kafka::lane::TopicState;
use crate::kafka::watch::classify_topic;

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Same for a partition in the first try, when other topics can be read instead.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Time after which an answer that no topic exists is believed: a broker that has just started may
/// not know its topics yet.
const MISSING_GRACE: Duration = Duration::from_secs(1);
/// Tries for a topic that is not ready (a partition may have no leader for a moment), once no other
/// topic is left to read.
const MAX_TRIES: usize = 15;

/// Lookup that runs on its own thread and ends soon after `cancelled` is set.
pub struct TopicLookup {
    pub client: Arc<TailConsumer>,
    pub cancelled: Arc<AtomicBool>,
    pub first_answer: Arc<OnceLock<Instant>>,
    pub last_error: Arc<Mutex<Option<String>>>,
    pub patience: Patience,
}

/// Result of a lookup.
#[derive(Debug, Default)]
pub struct LocatedTopics {
    /// Topics that exist.
    pub topics: Vec<TailTopic>,
    /// Permanent errors, one per topic.
    pub failures: Vec<String>,
    /// Indexes of topics that exist but cannot be read yet.
    pub postponed: Vec<usize>,
}

/// Answer of Kafka about one topic.
enum TopicAnswer {
    Partitions(Vec<i32>),
    Missing,
    Refused(String),
    /// A temporary error, such as a leader election.
    NotReady(String),
}

/// Reason why a topic cannot be read.
enum TopicLookupError {
    Transient(String),
    Refused(String),
}

impl TopicLookup {
    /// Finds the topics. Those that cannot be read yet are postponed if others can be read;
    /// otherwise it waits for them.
    pub fn find_topics(&self, wanted: &[WantedTopic]) -> LocatedTopics {
        let mut found = LocatedTopics::default();
        let mut missing: Vec<_> = wanted.iter().collect();
        let mut last_errors = Vec::new();
        let mut since = None;
        let mut tries = 0_usize;
        while !missing.is_empty() && !self.is_cancelled() {
            let timeout = if tries == 0 {
                FIRST_ANSWER_TIMEOUT
            } else {
                ANSWER_TIMEOUT
            };
            last_errors.clear();
            found.postponed.clear();
            missing.retain(|wanted| match self.find_topic(wanted, timeout) {
                Ok(Some(topic)) => {
                    found.topics.push(topic);
                    false
                }
                Ok(None) => true,
                Err(TopicLookupError::Transient(reason)) => {
                    last_errors.push(format!("topic {}: {reason}", wanted.name));
                    found.postponed.push(wanted.index);
                    true
                }
                Err(TopicLookupError::Refused(reason)) => {
                    found
                        .failures
                        .push(format!("topic {}: {reason}", wanted.name));
                    false
                }
            });
            tries += 1;
            if !found.postponed.is_empty() {
                if !found.topics.is_empty() {
                    break;
                }
                if tries == MAX_TRIES && self.patience == Patience::Limited {
                    found.postponed.clear();
                    found.failures.append(&mut last_errors);
                    break;
                }
            } else {
                // A broker that knows some of the topics knows them all.
                let patience = if found.topics.is_empty() {
                    MISSING_GRACE
                } else {
                    RETRY_PAUSE
                };
                if since.get_or_insert_with(Instant::now).elapsed() >= patience {
                    break;
                }
            }
            if !missing.is_empty() {
                std::thread::sleep(RETRY_PAUSE);
            }
        }
        found.topics.sort_by_key(|t| t.index);
        found
    }

    /// Finds one topic. Returns `None` if it does not exist.
    fn find_topic(
        &self,
        wanted: &WantedTopic,
        timeout: Duration,
    ) -> Result<Option<TailTopic>, TopicLookupError> {
        let WantedTopic { index, name } = wanted;
        loop {
            match self.query_topic(name) {
                None if self.is_cancelled() => return Ok(None),
                // Kafka is unreachable, so no other topic could be read meanwhile.
                None => std::thread::sleep(RETRY_PAUSE),
                Some(TopicAnswer::Refused(reason)) => {
                    return Err(TopicLookupError::Refused(reason));
                }
                Some(TopicAnswer::Missing) => return Ok(None),
                Some(TopicAnswer::NotReady(reason)) => {
                    return Err(TopicLookupError::Transient(reason));
                }
                Some(TopicAnswer::Partitions(ids)) => {
                    let partitions = ids
                        .iter()
                        .map(|&id| self.fetch_partition(name, id, timeout));
                    return Ok(Some(TailTopic {
                        index: *index,
                        name: name.clone(),
                        partitions: partitions.collect::<Result<_, _>>()?,
                    }));
                }
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Queries one topic. Returns `None` if Kafka does not answer.
    fn query_topic(&self, name: &str) -> Option<TopicAnswer> {
        let metadata = self.client.fetch_metadata(Some(name), ANSWER_TIMEOUT);
        let metadata = metadata.map_err(|e| self.store_error(&e)).ok()?;
        self.first_answer.get_or_init(Instant::now);
        let topic = metadata.topics().iter().find(|t| t.name() == name)?;
        let (error, partitions) = (topic.error(), topic.partitions());
        let reason = |error| RDKafkaErrorCode::from(error).to_string();
        Some(match (classify_topic(error, partitions.len()), error) {
            (TopicState::Missing, _) => TopicAnswer::Missing,
            (TopicState::Forbidden, Some(error)) => TopicAnswer::Refused(reason(error)),
            (_, Some(error)) => TopicAnswer::NotReady(reason(error)),
            (_, None) => TopicAnswer::Partitions(partitions.iter().map(|p| p.id()).collect()),
        })
    }

    fn fetch_partition(
        &self,
        name: &str,
        id: i32,
        timeout: Duration,
    ) -> Result<TailPartition, TopicLookupError> {
        match self.client.fetch_watermarks(name, id, timeout) {
            Ok((low, high)) => Ok(TailPartition::new(id, low, high)),
            Err(error) => {
                self.store_error(&error);
                Err(TopicLookupError::Transient(format!(
                    "partition {id}: {error}"
                )))
            }
        }
    }

    fn store_error(&self, error: &rdkafka::error::KafkaError) {
        *lock(&self.last_error) = Some(error.to_string());
    }
}
