//! Which topics are there, and where their partitions begin and end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use super::super::{Partition, Topic};
use super::{Client, Patience, lock};

/// The longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(3);
/// The same about a partition while others may be read instead.
const FIRST_ANSWER: Duration = Duration::from_millis(500);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);
/// A broker that has just started may not know yet what there is: that no topic is there is believed after so long.
const UNKNOWN: Duration = Duration::from_secs(1);
/// A partition may have no leader for a moment; so many answers are waited for one when nothing else is left to read.
const TRIES: usize = 15;

/// A look at the topics, on a thread of its own; ends soon once it is `over`.
pub struct Look {
    pub client: Arc<Client>,
    pub over: Arc<AtomicBool>,
    /// When Kafka first answered.
    pub answered: Arc<OnceLock<Instant>>,
    pub trouble: Arc<Mutex<Option<String>>>,
    pub patience: Patience,
}

/// What came of a look.
#[derive(Debug, Default)]
pub struct Found {
    /// The topics that are there.
    pub topics: Vec<Topic>,
    /// What could not be found out, and will not be.
    pub trouble: Vec<String>,
    /// The places of topics that are there and cannot be read yet.
    pub later: Vec<usize>,
}

/// What one answer says of a topic.
enum Said {
    Partitions(Vec<i32>),
    Missing,
    Refused(String),
    /// A leader that is being elected, and what else passes.
    NotYet(String),
}

/// Why a topic cannot be read.
enum Trouble {
    Passing(String),
    Refused(String),
}

impl Look {
    /// Looks at the topics with these places. Those that cannot be read yet are left for later as long as others can be;
    /// else they are waited for.
    pub fn all(&self, wanted: &[(usize, String)]) -> Found {
        let mut found = Found::default();
        let mut missing: Vec<_> = wanted.iter().collect();
        let mut last_words = Vec::new();
        let mut since = None;
        let mut tries = 0_usize;
        while !missing.is_empty() && !self.is_over() {
            let answer = match tries {
                0 => FIRST_ANSWER,
                _ => ANSWER,
            };
            last_words.clear();
            found.later.clear();
            missing.retain(|(place, name)| match self.topic(*place, name, answer) {
                Ok(Some(topic)) => {
                    found.topics.push(topic);
                    false
                }
                Ok(None) => true,
                Err(Trouble::Passing(reason)) => {
                    last_words.push(format!("topic {name}: {reason}"));
                    found.later.push(*place);
                    true
                }
                Err(Trouble::Refused(reason)) => {
                    found.trouble.push(format!("topic {name}: {reason}"));
                    false
                }
            });
            tries += 1;
            if !found.later.is_empty() {
                if !found.topics.is_empty() {
                    break;
                }
                if tries == TRIES && self.patience == Patience::Some {
                    found.later.clear();
                    found.trouble.append(&mut last_words);
                    break;
                }
            } else {
                // One that knows some of the topics knows them all.
                let patience = match found.topics.is_empty() {
                    true => UNKNOWN,
                    false => PAUSE,
                };
                if since.get_or_insert_with(Instant::now).elapsed() >= patience {
                    break;
                }
            }
            if !missing.is_empty() {
                std::thread::sleep(PAUSE);
            }
        }
        found.topics.sort_by_key(|t| t.place);
        found
    }

    /// One topic, if it is there.
    fn topic(&self, place: usize, name: &str, answer: Duration) -> Result<Option<Topic>, Trouble> {
        loop {
            match self.ask(name) {
                None if self.is_over() => return Ok(None),
                // Kafka is away: nothing else could be read meanwhile.
                None => std::thread::sleep(PAUSE),
                Some(Said::Refused(reason)) => return Err(Trouble::Refused(reason)),
                Some(Said::Missing) => return Ok(None),
                Some(Said::NotYet(reason)) => return Err(Trouble::Passing(reason)),
                Some(Said::Partitions(ids)) => {
                    let partitions = ids.iter().map(|&id| self.partition(name, id, answer));
                    return Ok(Some(Topic {
                        place,
                        name: name.to_owned(),
                        partitions: partitions.collect::<Result<_, _>>()?,
                    }));
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// `None`: Kafka does not answer, or speaks of something that passes.
    fn ask(&self, name: &str) -> Option<Said> {
        use RDKafkaRespErr::*;
        let metadata = self.client.fetch_metadata(Some(name), ANSWER);
        let metadata = metadata.map_err(|e| self.note(&e)).ok()?;
        self.answered.get_or_init(Instant::now);
        let topic = metadata.topics().iter().find(|t| t.name() == name)?;
        Some(match topic.error() {
            None if topic.partitions().is_empty() => Said::Missing,
            None => Said::Partitions(topic.partitions().iter().map(|p| p.id()).collect()),
            Some(
                RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
                | RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
            ) => Said::Missing,
            Some(error @ RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => {
                Said::Refused(RDKafkaErrorCode::from(error).to_string())
            }
            Some(error) => Said::NotYet(RDKafkaErrorCode::from(error).to_string()),
        })
    }

    fn partition(&self, name: &str, id: i32, answer: Duration) -> Result<Partition, Trouble> {
        match self.client.fetch_watermarks(name, id, answer) {
            Ok((low, high)) => Ok(Partition::new(id, low, high)),
            Err(error) => {
                self.note(&error);
                Err(Trouble::Passing(format!("partition {id}: {error}")))
            }
        }
    }

    fn note(&self, error: &rdkafka::error::KafkaError) {
        *lock(&self.trouble) = Some(error.to_string());
    }
}
