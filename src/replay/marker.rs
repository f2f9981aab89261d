//! What the quarantine topic says of replays.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::candidate::QuarantinePosition;

/// The key of every marker.
pub const MARKER_KEY: &str = "butlr-replay";
/// The header by which a marker is told from what is quarantined; its value is `intent` or `done`.
pub const MARKER_HEADER: &str = "butlr-replayed";
/// The partition that has all of them.
pub const MARKER_PARTITION: i32 = 0;

/// Where topics end: the offset that the next record of each partition gets.
pub type TopicEnds = BTreeMap<String, BTreeMap<i32, i64>>;

/// A marker's value, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayMarker {
    /// A batch is about to be published.
    Intent {
        /// Which run.
        run: String,
        /// Which of its batches.
        batch: u32,
        /// Nothing of it is published later than so long after this.
        lease_ms: u64,
        /// The records it is about.
        records: Vec<QuarantinePosition>,
        /// From here on their events are to be found.
        ends: TopicEnds,
    },
    /// A batch was published.
    Done {
        /// Of which run.
        run: String,
        /// Which of its batches.
        batch: u32,
        /// What came of it; `None`: its run is gone, and nobody knows.
        finished: Option<BatchOutcome>,
    },
}

/// What came of a batch. Records that are not named here are certainly not stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOutcome {
    /// All of their events are stored; with their keys.
    pub records: Vec<(QuarantinePosition, String)>,
    /// Of arrays: some events are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partly: Vec<PartlyStoredRecord>,
    /// Some of their events may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsure: Vec<QuarantinePosition>,
}

/// A record, some of whose events are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartlyStoredRecord {
    /// Where it lies.
    pub place: QuarantinePosition,
    /// The hashes of those events.
    pub items: Vec<u64>,
}

impl ReplayMarker {
    /// The run whose batch it is about.
    pub fn run(&self) -> &str {
        match self {
            ReplayMarker::Intent { run, .. } | ReplayMarker::Done { run, .. } => run,
        }
    }

    /// The value of its header.
    pub fn kind(&self) -> &'static str {
        match self {
            ReplayMarker::Intent { .. } => "intent",
            ReplayMarker::Done { .. } => "done",
        }
    }
}
