//! Reads topics back after a start, beginning at the end of each partition.
//!
//! Reading goes backwards in rounds of growing chunks, so the newest records are known first:
//!
//! - `partition`, `span`: how far a partition is read, and the offsets of one chunk (pure);
//! - `record`: the bridge's headers of a record (pure);
//! - `reader`: the Kafka part.
//!
//! Kafka's lookup by timestamp does not help here: records carry the time of the event, not of
//! receipt. Receipt is not in the order of offsets either: a record that waited on disk or in
//! quarantine ([`TailRecord::waited`]) may follow much newer ones, so it never ends a search.

mod partition;
mod reader;
mod record;
mod span;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use partition::{TailPartition, max_round_records};
pub use reader::{LocatedTopics, Patience, TailReader};
pub use record::TailRecord;
pub use span::OffsetSpan;

/// Reason why reading ended early.
#[derive(Debug)]
pub enum TailError {
    /// The caller asked to stop.
    Stopped,
    /// The time limit has passed.
    TimedOut,
    /// This topic cannot be read; others may be.
    TopicUnreadable {
        /// Description for the log.
        reason: String,
        /// Trying again does not help.
        is_permanent: bool,
    },
}

/// Time limit and stop flag of a read.
///
/// The limit counts from Kafka's first answer. Before that nothing can be stored either, so waiting
/// costs nothing.
#[derive(Debug)]
pub struct ReadBounds<'s> {
    stop: &'s AtomicBool,
    within: Duration,
    first_answer: Arc<OnceLock<Instant>>,
}

impl<'s> ReadBounds<'s> {
    /// Creates bounds that end with `stop`, or `within` after Kafka's first answer.
    pub fn new(stop: &'s AtomicBool, within: Duration) -> Self {
        Self {
            stop,
            within,
            first_answer: Arc::default(),
        }
    }

    /// Returns the time limit.
    pub fn within(&self) -> Duration {
        self.within
    }

    /// Returns an error once reading has to end.
    pub fn check(&self) -> Result<(), TailError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(TailError::Stopped);
        }
        match self.first_answer.get() {
            Some(answered) if answered.elapsed() >= self.within => Err(TailError::TimedOut),
            _ => Ok(()),
        }
    }
}

/// Topic to look for, with the caller's number for it.
#[derive(Clone, Debug)]
pub struct WantedTopic {
    /// Index that the caller uses for the topic.
    pub index: usize,
    /// Name of the topic.
    pub name: String,
}

/// Existing topic and how far each of its partitions is read.
#[derive(Debug)]
pub struct TailTopic {
    /// Index of the [`WantedTopic`].
    pub index: usize,
    /// Name of the topic.
    pub name: String,
    /// All partitions of the topic.
    pub partitions: Vec<TailPartition>,
}

impl TailTopic {
    /// Counts the partitions that have more to read.
    pub fn count_unread_partitions(&self) -> usize {
        self.partitions.iter().filter(|p| p.has_more()).count()
    }

    /// Marks every partition as finished, because the topic cannot be read.
    pub fn give_up(&mut self) {
        self.partitions.iter_mut().for_each(TailPartition::give_up);
    }
}
