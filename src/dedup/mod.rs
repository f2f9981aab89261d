//! What came before: is an event new, and if so, what is it to what is stored?
//!
//! - `desk`: where the pipeline asks;
//! - [`facts`]: what this step looks at in an event;
//! - `memory`, `claim`: what this process knows to be stored, and the right to publish what is not;
//! - `rebuild`: the same from the tails of the topics, after a start; `spooled`: from what is on disk and not there yet;
//! - `redis`: the same shared between replicas.

pub mod claim;
pub mod deduplicator;
pub mod facts;
pub mod memory;
pub mod rebuild;
pub mod rebuild_thread;
pub mod redis;
pub mod spooled_facts;
mod window;

pub use facts::EventFacts;

use crate::marks::{DuplicateKind, Marks};

/// What is to become of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DedupVerdict {
    /// It is published, marked so.
    Publish(Marks),
    /// It is not published.
    Duplicate(DuplicateKind),
}
