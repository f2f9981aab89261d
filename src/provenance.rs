//! Provenance of a record: the request behind a quarantined item, and the source of a replay.

use serde::{Deserialize, Serialize};

/// Request details recorded with a quarantined item, in the record's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuarantineDetails {
    /// Problem code, or the codes of the field errors.
    pub codes: Vec<String>,
    /// The errors as text.
    pub detail: String,
    /// Path of the request.
    pub path: String,
    /// Configured name of the request's credential.
    pub credential: String,
    /// Event type that the item claims to have.
    pub claimed_type: Option<String>,
    /// Content type of the request.
    pub content_type: Option<String>,
}

/// Position of the quarantined record that an event is replayed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayOrigin {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}
