//! Where a record comes from when it is not simply an event on its way: a quarantined request, or a replay of one.

use serde::{Deserialize, Serialize};

/// What the quarantine's headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuarantineDetails {
    /// Of the mistakes.
    pub codes: Vec<String>,
    /// The mistakes in words.
    pub detail: String,
    /// Of the request.
    pub path: String,
    /// The configured name of the credential that it came with.
    pub credential: String,
    /// The type that it says it has.
    pub claimed_type: Option<String>,
    /// Of the request.
    pub content_type: Option<String>,
}

/// The place of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayOrigin {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}
