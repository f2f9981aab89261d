//! Markers that replays write to the quarantine topic.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::candidate::{ContentKey, ItemHash, QuarantinePosition};

/// Key of every marker.
pub const MARKER_KEY: &str = "butlr-replay";
/// Header that distinguishes a marker from a quarantined record; its value is `intent` or `done`.
pub const MARKER_HEADER: &str = "butlr-replayed";
/// Partition that holds all markers, so that every run sees them in the same order.
pub const MARKER_PARTITION: i32 = 0;

/// End offsets per topic and partition: the offset that the next record gets.
pub type TopicEnds = BTreeMap<String, BTreeMap<i32, i64>>;

/// Value of a marker, written as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayMarker {
    /// A batch is about to be published.
    Intent {
        /// Id of the run.
        run: String,
        /// Number of the batch within the run.
        batch: u32,
        /// Nothing of the batch is published later than this long after the marker.
        lease_ms: u64,
        /// Records of the batch.
        records: Vec<QuarantinePosition>,
        /// Offsets from which on the events of the batch can be found.
        ends: TopicEnds,
    },
    /// A batch was published or abandoned.
    Done {
        /// Id of the run.
        run: String,
        /// Number of the batch within the run.
        batch: u32,
        /// Outcome; `None` if the run is gone and its outcome is unknown.
        finished: Option<BatchOutcome>,
    },
}

/// Outcome of a batch. Records that are not named here are certainly not stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOutcome {
    /// Records whose events are all stored.
    pub records: Vec<(QuarantinePosition, ContentKey)>,
    /// Arrays of which some events are stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partly: Vec<PartlyStoredRecord>,
    /// Records of which some events may be stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsure: Vec<QuarantinePosition>,
}

/// Record of which some events are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartlyStoredRecord {
    /// Position of the record.
    #[serde(rename = "place")]
    pub position: QuarantinePosition,
    /// Hashes of the stored events.
    pub items: Vec<ItemHash>,
}

impl ReplayMarker {
    /// Returns the id of the run.
    pub fn run(&self) -> &str {
        match self {
            ReplayMarker::Intent { run, .. } | ReplayMarker::Done { run, .. } => run,
        }
    }

    /// Returns the value of [`MARKER_HEADER`].
    pub fn kind(&self) -> &'static str {
        match self {
            ReplayMarker::Intent { .. } => "intent",
            ReplayMarker::Done { .. } => "done",
        }
    }
}
