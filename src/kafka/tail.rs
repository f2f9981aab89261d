//! What topics hold already: read back after a start, from the ends of their partitions.
//!
//! Backwards, in rounds of growing chunks, so that the newest is known first:
//!
//! - `partition`, `span`: how far a partition is to be read, and the offsets of one chunk of it (pure);
//! - `record`: what a record of the bridge's says in its headers (pure);
//! - `reader`: the Kafka part.
//!
//! Kafka's look-up by time is of no use here: it goes by the time of the event. Nor is receipt in the order of offsets,
//! where records waited ([`Record::waited`]): those end no search.

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

/// Why reading ends.
#[derive(Debug)]
pub enum TailError {
    /// It was asked to.
    Stopped,
    /// The time for it is up.
    TimedOut,
    /// Only this topic: it cannot be read, now or at all.
    TopicUnreadable {
        /// Why.
        reason: String,
        /// It is of no use to try again.
        is_permanent: bool,
    },
}

/// How long it may go on. Before Kafka answers nothing can be stored either, so that waiting for it costs nothing.
#[derive(Debug)]
pub struct ReadBounds<'s> {
    stop: &'s AtomicBool,
    within: Duration,
    /// When Kafka first answered.
    first_answer: Arc<OnceLock<Instant>>,
}

impl<'s> ReadBounds<'s> {
    /// Until `stop`, or `within` after Kafka's first answer.
    pub fn new(stop: &'s AtomicBool, within: Duration) -> Self {
        Self {
            stop,
            within,
            first_answer: Arc::default(),
        }
    }

    /// The time it has.
    pub fn within(&self) -> Duration {
        self.within
    }

    /// # Errors
    /// It is to end.
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

/// A topic that is there, and how far it is read.
#[derive(Debug)]
pub struct TailTopic {
    /// Its place among those asked for.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// All of its partitions.
    pub partitions: Vec<TailPartition>,
}

impl TailTopic {
    /// How many of its partitions have more to read.
    pub fn count_unread_partitions(&self) -> usize {
        self.partitions.iter().filter(|p| p.has_more()).count()
    }

    /// It cannot be read.
    pub fn give_up(&mut self) {
        self.partitions.iter_mut().for_each(TailPartition::give_up);
    }
}
