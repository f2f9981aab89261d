//! A record of the quarantine topic, as it is read back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::UNIX_EPOCH;

use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde::{Deserialize, Serialize};

use super::marker::{MARKER_HEADER, ReplayMarker};
use butlr_event::EventType;

/// Partition and offset in the quarantine topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QuarantinePosition(pub i32, pub i64);

/// What a record of the topic is.
#[derive(Debug)]
pub enum QuarantineTopicRecord {
    /// What is no valid event, or was none.
    Candidate(ReplayCandidate),
    /// What a replay noted.
    Marker {
        /// Its offset.
        offset: i64,
        /// When, ms since 1970.
        ms: i64,
        /// `None`: it cannot be read.
        marker: Option<ReplayMarker>,
    },
    /// Not the bridge's.
    Foreign,
}

/// What was quarantined.
#[derive(Debug)]
pub struct ReplayCandidate {
    /// Where it lies.
    pub position: QuarantinePosition,
    /// The hash of its value.
    pub key: String,
    /// Its bytes as they were received.
    pub value: Vec<u8>,
    /// When the bridge had it.
    pub received_ms: i64,
    /// What was wrong with it then.
    pub codes: Vec<String>,
    /// The type that its route asked for.
    pub expected_type: Option<EventType>,
}

impl QuarantineTopicRecord {
    /// What a message is.
    pub fn from_message(message: &BorrowedMessage<'_>) -> Self {
        // rdkafka panics on a header whose name is not UTF-8; a bridge writes none.
        catch_unwind(AssertUnwindSafe(|| parse_message(message)))
            .unwrap_or(QuarantineTopicRecord::Foreign)
    }
}

fn parse_message(message: &BorrowedMessage<'_>) -> QuarantineTopicRecord {
    let stamped = message.timestamp().to_millis();
    if header_text(message, MARKER_HEADER).is_some() {
        return QuarantineTopicRecord::Marker {
            offset: message.offset(),
            ms: stamped.unwrap_or(0),
            marker: serde_json::from_slice(message.payload().unwrap_or_default()).ok(),
        };
    }
    let received = header_text(message, "butlr-received-at").and_then(parse_millis);
    let codes = header_text(message, "butlr-error-codes");
    let (Some(codes), Some(received_ms)) = (codes, received.or(stamped)) else {
        return QuarantineTopicRecord::Foreign;
    };
    let path = header_text(message, "butlr-path").unwrap_or_default();
    QuarantineTopicRecord::Candidate(ReplayCandidate {
        position: QuarantinePosition(message.partition(), message.offset()),
        key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
        value: message.payload().unwrap_or_default().to_vec(),
        received_ms,
        codes: codes.split(',').map(str::to_owned).collect(),
        expected_type: path.strip_prefix("/v1/events/").and_then(EventType::parse),
    })
}

/// The text of a header.
pub fn header_text<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m str> {
    let mut all = message.headers()?.iter();
    let value = all.find(|header| header.key == name)?.value?;
    std::str::from_utf8(value).ok()
}

fn parse_millis(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

#[cfg(test)]
impl ReplayCandidate {
    /// One without content.
    pub fn for_test(place: QuarantinePosition, key: &str) -> Self {
        Self {
            position: place,
            key: key.to_owned(),
            value: Vec::new(),
            received_ms: 0,
            codes: Vec::new(),
            expected_type: None,
        }
    }
}
