//! Which topics are there, and where their partitions begin and end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use super::super::{TailPartition, TailTopic};
use super::{Patience, TailConsumer, lock};

/// The longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The same about a partition while others may be read instead.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two questions.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// A broker that has just started may not know yet what there is: that no topic is there is believed after so long.
const MISSING_GRACE: Duration = Duration::from_secs(1);
/// A partition may have no leader for a moment; so many answers are waited for one when nothing else is left to read.
const MAX_TRIES: usize = 15;

/// A look at the topics, on a thread of its own; ends soon once it is `over`.
pub struct TopicLookup {
    pub client: Arc<TailConsumer>,
    pub cancelled: Arc<AtomicBool>,
    /// When Kafka first answered.
    pub first_answer: Arc<OnceLock<Instant>>,
    pub last_error: Arc<Mutex<Option<String>>>,
    pub patience: Patience,
}

/// What came of a look.
#[derive(Debug, Default)]
pub struct LocatedTopics {
    /// The topics that are there.
    pub topics: Vec<TailTopic>,
    /// What could not be found out, and will not be.
    pub failures: Vec<String>,
    /// The places of topics that are there and cannot be read yet.
    pub postponed: Vec<usize>,
}

/// What one answer says of a topic.
enum TopicAnswer {
    Partitions(Vec<i32>),
    Missing,
    Refused(String),
    /// A leader that is being elected, and what else passes.
    NotReady(String),
}

/// Why a topic cannot be read.
enum TopicLookupError {
    Transient(String),
    Refused(String),
}

impl TopicLookup {
    /// Looks at the topics with these places. Those that cannot be read yet are left for later as long as others can be;
    /// else they are waited for.
    pub fn find_topics(&self, wanted: &[(usize, String)]) -> LocatedTopics {
        let mut found = LocatedTopics::default();
        let mut missing: Vec<_> = wanted.iter().collect();
        let mut last_errors = Vec::new();
        let mut since = None;
        let mut tries = 0_usize;
        while !missing.is_empty() && !self.is_cancelled() {
            let answer = match tries {
                0 => FIRST_ANSWER_TIMEOUT,
                _ => ANSWER_TIMEOUT,
            };
            last_errors.clear();
            found.postponed.clear();
            missing.retain(
                |(place, name)| match self.find_topic(*place, name, answer) {
                    Ok(Some(topic)) => {
                        found.topics.push(topic);
                        false
                    }
                    Ok(None) => true,
                    Err(TopicLookupError::Transient(reason)) => {
                        last_errors.push(format!("topic {name}: {reason}"));
                        found.postponed.push(*place);
                        true
                    }
                    Err(TopicLookupError::Refused(reason)) => {
                        found.failures.push(format!("topic {name}: {reason}"));
                        false
                    }
                },
            );
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
                // One that knows some of the topics knows them all.
                let patience = match found.topics.is_empty() {
                    true => MISSING_GRACE,
                    false => RETRY_PAUSE,
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

    /// One topic, if it is there.
    fn find_topic(
        &self,
        place: usize,
        name: &str,
        answer: Duration,
    ) -> Result<Option<TailTopic>, TopicLookupError> {
        loop {
            match self.query_topic(name) {
                None if self.is_cancelled() => return Ok(None),
                // Kafka is away: nothing else could be read meanwhile.
                None => std::thread::sleep(RETRY_PAUSE),
                Some(TopicAnswer::Refused(reason)) => {
                    return Err(TopicLookupError::Refused(reason));
                }
                Some(TopicAnswer::Missing) => return Ok(None),
                Some(TopicAnswer::NotReady(reason)) => {
                    return Err(TopicLookupError::Transient(reason));
                }
                Some(TopicAnswer::Partitions(ids)) => {
                    let partitions = ids.iter().map(|&id| self.fetch_partition(name, id, answer));
                    return Ok(Some(TailTopic {
                        index: place,
                        name: name.to_owned(),
                        partitions: partitions.collect::<Result<_, _>>()?,
                    }));
                }
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// `None`: Kafka does not answer, or speaks of something that passes.
    fn query_topic(&self, name: &str) -> Option<TopicAnswer> {
        use RDKafkaRespErr::*;
        let metadata = self.client.fetch_metadata(Some(name), ANSWER_TIMEOUT);
        let metadata = metadata.map_err(|e| self.store_error(&e)).ok()?;
        self.first_answer.get_or_init(Instant::now);
        let topic = metadata.topics().iter().find(|t| t.name() == name)?;
        Some(match topic.error() {
            None if topic.partitions().is_empty() => TopicAnswer::Missing,
            None => TopicAnswer::Partitions(topic.partitions().iter().map(|p| p.id()).collect()),
            Some(
                RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
                | RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
            ) => TopicAnswer::Missing,
            Some(error @ RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => {
                TopicAnswer::Refused(RDKafkaErrorCode::from(error).to_string())
            }
            Some(error) => TopicAnswer::NotReady(RDKafkaErrorCode::from(error).to_string()),
        })
    }

    fn fetch_partition(
        &self,
        name: &str,
        id: i32,
        answer: Duration,
    ) -> Result<TailPartition, TopicLookupError> {
        match self.client.fetch_watermarks(name, id, answer) {
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
