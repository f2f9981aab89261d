//! Record of the quarantine topic, as it is read back.

use std::collections::{HashMap, HashSet};

use rdkafka::message::{BorrowedMessage, Message};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::marker::{MARKER_HEADER, ReplayMarker};
use crate::kafka::headers::{catch_invalid_name, header_text, parse_unix_ms};
use butlr_event::EventType;

/// Position of a record in the quarantine topic; a pair of numbers in the markers' JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(i32, i64)", into = "(i32, i64)")]
pub struct QuarantinePosition {
    pub partition: i32,
    pub offset: i64,
}

impl From<(i32, i64)> for QuarantinePosition {
    fn from((partition, offset): (i32, i64)) -> Self {
        Self { partition, offset }
    }
}

impl From<QuarantinePosition> for (i32, i64) {
    fn from(position: QuarantinePosition) -> Self {
        (position.partition, position.offset)
    }
}

/// Key of a quarantined record: a hash of its value, so equal bytes have equal keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContentKey(pub String);

/// Hash of one event's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ItemHash(u64);

impl ItemHash {
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(xxh3_64(bytes))
    }
}

/// Hashes of the stored events, by the record they came from.
pub type StoredItems = HashMap<QuarantinePosition, HashSet<ItemHash>>;

/// Record of the quarantine topic, by kind.
#[derive(Debug)]
pub enum QuarantineTopicRecord {
    /// A rejected item.
    Candidate(ReplayCandidate),
    /// A marker that a replay wrote.
    Marker {
        offset: i64,
        /// Timestamp, ms since 1970.
        ms: i64,
        /// `None` if it cannot be parsed.
        marker: Option<ReplayMarker>,
    },
    /// A record that the bridge did not write.
    Foreign,
}

/// Rejected item in the quarantine.
#[derive(Debug)]
pub struct ReplayCandidate {
    pub position: QuarantinePosition,
    pub key: ContentKey,
    /// Bytes as received.
    pub value: Vec<u8>,
    pub received_ms: i64,
    /// Codes with which it was rejected.
    pub codes: Vec<String>,
    /// Event type that its route required.
    pub expected_type: Option<EventType>,
}

impl QuarantineTopicRecord {
    pub fn from_message(message: &BorrowedMessage<'_>) -> Self {
        catch_invalid_name(|| parse_message(message)).unwrap_or(Self::Foreign)
    }
}

fn parse_message(message: &BorrowedMessage<'_>) -> QuarantineTopicRecord {
    let timestamp = message.timestamp().to_millis();
    if header_text(message, MARKER_HEADER).is_some() {
        return QuarantineTopicRecord::Marker {
            offset: message.offset(),
            ms: timestamp.unwrap_or(0),
            marker: serde_json::from_slice(message.payload().unwrap_or_default()).ok(),
        };
    }
    let received = header_text(message, "butlr-received-at").and_then(parse_unix_ms);
    let codes = header_text(message, "butlr-error-codes");
    let (Some(codes), Some(received_ms)) = (codes, received.or(timestamp)) else {
        return QuarantineTopicRecord::Foreign;
    };
    let path = header_text(message, "butlr-path").unwrap_or_default();
    let key = String::from_utf8_lossy(message.key().unwrap_or_default());
    QuarantineTopicRecord::Candidate(ReplayCandidate {
        position: (message.partition(), message.offset()).into(),
        key: ContentKey(key.into_owned()),
        value: message.payload().unwrap_or_default().to_vec(),
        received_ms,
        codes: codes.split(',').map(str::to_owned).collect(),
        expected_type: path.strip_prefix("/v1/events/").and_then(EventType::parse),
    })
}

#[cfg(test)]
impl ReplayCandidate {
    /// Creates a candidate without content.
    pub fn for_test(position: QuarantinePosition, key: &str) -> Self {
        Self {
            position,
            key: ContentKey(key.to_owned()),
            value: Vec::new(),
            received_ms: 0,
            codes: Vec::new(),
            expected_type: None,
        }
    }
}
