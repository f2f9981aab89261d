//! What came before: is an event new, and if so, what is it to what is stored?
//!
//! - `desk`: where the pipeline asks;
//! - [`facts`]: what this step looks at in an event;
//! - `memory`, `claim`: what this process knows to be stored, and the right to publish what is not;
//! - `rebuild`: the same from the tails of the topics, after a start; `spooled`: from what is on disk and not there yet;
//! - `redis`: the same shared between replicas.

pub mod claim;
pub mod desk;
pub mod facts;
pub mod memory;
pub mod rebuild;
pub mod rebuilding;
pub mod redis;
pub mod spooled;
mod window;

pub use facts::Facts;

use crate::marks::{Duplicate, Marks};

/// What is to become of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is published, marked so.
    Publish(Marks),
    /// It is not published.
    Duplicate(Duplicate),
}
