//! Duplicate detection: decides whether an event is new and, if so, how it relates to the events
//! already stored.
//!
//! - `deduplicator`: the entry point, used by the pipeline;
//! - [`facts`], `keys`: the parts of an event that are compared, as hashes;
//! - `rules`: the decisions, without state;
//! - `memory`, `claim`: the events this process knows to be stored, and the right to publish a new
//!   one;
//! - `rebuild`, `stored_facts`: the window of stored events, read back from the topics and the
//!   spool after a start;
//! - `redis`: claims shared by replicas.

pub mod claim;
pub mod deduplicator;
pub mod facts;
pub mod keys;
pub mod memory;
pub mod rebuild;
pub mod redis;
mod rules;
pub mod stored_facts;
mod window;

pub use facts::EventFacts;
pub use keys::{IdHash, OccupancyKey, ReadingHash, SourceKey};

use crate::marks::{DuplicateKind, Marks};

/// Outcome of the rules for one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DedupVerdict {
    /// The event is published with these marks.
    Publish(Marks),
    /// The event is dropped.
    Duplicate(DuplicateKind),
}

/// Location of a stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageLocation {
    /// In Kafka.
    Published,
    /// In the spool, not in Kafka yet.
    Spooled,
}

impl StorageLocation {
    /// Returns `true` if the event is on disk and not in Kafka yet.
    pub fn is_spooled(self) -> bool {
        self == Self::Spooled
    }
}
