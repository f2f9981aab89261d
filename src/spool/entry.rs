//! The on-disk format of a spooled event or rejected item: a version byte, the length of the head,
//! the head (a JSON object with everything but the value), and the value as received. Unknown
//! members of the head are ignored and missing ones have a default, so that a release can add
//! members and an older one still reads the entry.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use butlr_event::event_id::EventId;

use crate::marks::{DuplicateKind, Marks, Revision};
use crate::provenance::{QuarantineDetails, ReplayOrigin};

const FORMAT_VERSION: u8 = 1;
const PREFIX_LEN: usize = 1 + 4;

/// An event or rejected item in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolEntry<'v> {
    /// Time of receipt, ms since 1970.
    pub received_ms: i64,
    /// `true` if librdkafka had a record of it when it was spooled.
    pub in_doubt: bool,
    /// The event's or rejected item's metadata.
    pub content: EntryContent,
    /// Value of its record.
    pub value: Cow<'v, [u8]>,
}

/// Metadata of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryContent {
    /// A valid event.
    Event {
        /// Relation to earlier events, as found when it was claimed.
        marks: Marks,
        /// Position in the quarantine that it was replayed from.
        replayed_from: Option<ReplayOrigin>,
    },
    /// A body, or an item of one, that is not a valid event.
    Quarantined(QuarantineDetails),
}

/// Reason why bytes are not an entry.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The entry is of a later release.
    #[error(
        "it has format {0}, which this release cannot read: use the release that wrote it, or a later one"
    )]
    Version(u8),
    /// The entry is incomplete.
    #[error("it is truncated")]
    Truncated,
    /// The head is not valid.
    #[error("its head cannot be read: {0}")]
    Header(#[from] serde_json::Error),
}

impl SpoolEntry<'_> {
    /// Encodes the entry for the disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PREFIX_LEN + 128 + self.value.len());
        bytes.extend_from_slice(&[FORMAT_VERSION, 0, 0, 0, 0]);
        serde_json::to_writer(&mut bytes, &EntryHeader::from(self)).expect("strings and numbers");
        let head =
            u32::try_from(bytes.len() - PREFIX_LEN).expect("a few strings, limited like bodies");
        bytes[1..PREFIX_LEN].copy_from_slice(&head.to_le_bytes());
        bytes.extend_from_slice(&self.value);
        bytes
    }

    /// Decodes the result of [`SpoolEntry::encode`].
    ///
    /// # Errors
    /// The bytes are not an entry.
    pub fn decode(bytes: &[u8]) -> Result<SpoolEntry<'_>, DecodeError> {
        let (head, value) = split_header(bytes)?;
        let head: EntryHeader = serde_json::from_slice(head)?;
        let content = match head.quarantined {
            Some(quarantined) => EntryContent::Quarantined(quarantined),
            None => EntryContent::Event {
                marks: head.marks.into(),
                replayed_from: head.replayed_from,
            },
        };
        Ok(SpoolEntry {
            received_ms: head.received_ms,
            in_doubt: head.in_doubt,
            content,
            value: Cow::Borrowed(value),
        })
    }
}

fn split_header(bytes: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let (version, rest) = bytes.split_first().ok_or(DecodeError::Truncated)?;
    if *version != FORMAT_VERSION {
        return Err(DecodeError::Version(*version));
    }
    let (len, rest) = rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
        .ok_or(DecodeError::Truncated)
}

/// The head, as JSON.
#[derive(Serialize, Deserialize)]
struct EntryHeader {
    received_ms: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    in_doubt: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    marks: WrittenMarks,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replayed_from: Option<ReplayOrigin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quarantined: Option<QuarantineDetails>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// On-disk form of [`Marks`], so that these can change.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct WrittenMarks {
    #[serde(skip_serializing_if = "is_default")]
    duplicate: Option<WrittenDuplicate>,
    #[serde(skip_serializing_if = "is_default")]
    revision: Option<WrittenRevision>,
    #[serde(skip_serializing_if = "is_default")]
    stale: bool,
    #[serde(skip_serializing_if = "is_default")]
    out_of_order: bool,
    #[serde(skip_serializing_if = "is_default")]
    conflict: Option<u64>,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenDuplicate {
    Redelivery,
    Repeat,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct WrittenRevision {
    number: u32,
    supersedes: String,
}

impl From<&SpoolEntry<'_>> for EntryHeader {
    fn from(entry: &SpoolEntry<'_>) -> Self {
        let mut head = EntryHeader {
            received_ms: entry.received_ms,
            in_doubt: entry.in_doubt,
            marks: WrittenMarks::default(),
            replayed_from: None,
            quarantined: None,
        };
        match &entry.content {
            EntryContent::Event {
                marks,
                replayed_from,
            } => {
                head.marks = marks.into();
                head.replayed_from = replayed_from.clone();
            }
            EntryContent::Quarantined(quarantined) => head.quarantined = Some(quarantined.clone()),
        }
        head
    }
}

impl From<&Marks> for WrittenMarks {
    fn from(marks: &Marks) -> Self {
        // Destructured, so that a new mark cannot be forgotten here.
        let Marks {
            duplicate,
            revision,
            stale,
            out_of_order,
            conflict,
        } = marks;
        Self {
            duplicate: duplicate.map(|duplicate| match duplicate {
                DuplicateKind::Redelivery => WrittenDuplicate::Redelivery,
                DuplicateKind::Repeat => WrittenDuplicate::Repeat,
            }),
            revision: revision.as_ref().map(|revision| WrittenRevision {
                number: revision.number,
                supersedes: revision.supersedes.to_string(),
            }),
            stale: *stale,
            out_of_order: *out_of_order,
            conflict: *conflict,
        }
    }
}

impl From<WrittenMarks> for Marks {
    fn from(written: WrittenMarks) -> Self {
        Self {
            duplicate: written.duplicate.map(|duplicate| match duplicate {
                WrittenDuplicate::Redelivery => DuplicateKind::Redelivery,
                WrittenDuplicate::Repeat => DuplicateKind::Repeat,
            }),
            revision: written.revision.map(|revision| Revision {
                number: revision.number,
                supersedes: EventId::new(&revision.supersedes),
            }),
            stale: written.stale,
            out_of_order: written.out_of_order,
            conflict: written.conflict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> SpoolEntry<'static> {
        SpoolEntry {
            received_ms: 1_700_000_000_123,
            in_doubt: true,
            content: EntryContent::Event {
                marks: Marks {
                    duplicate: Some(DuplicateKind::Repeat),
                    revision: Some(Revision {
                        number: 3,
                        supersedes: EventId::new("event_x"),
                    }),
                    stale: true,
                    out_of_order: true,
                    conflict: Some(u64::MAX),
                },
                replayed_from: Some(ReplayOrigin {
                    topic: "butlr.quarantine.v1".to_owned(),
                    partition: 2,
                    offset: 1 << 40,
                }),
            },
            value: Cow::Borrowed(br#"{"id":"a"}"#),
        }
    }

    fn quarantined() -> SpoolEntry<'static> {
        let content = EntryContent::Quarantined(QuarantineDetails {
            codes: vec!["not_json".to_owned()],
            detail: "The body is cut off \u{2026}".to_owned(),
            path: "/v1/events".to_owned(),
            credential: "butlr".to_owned(),
            claimed_type: None,
            content_type: Some("application/json".to_owned()),
        });
        SpoolEntry {
            received_ms: -1,
            in_doubt: false,
            content,
            value: Cow::Borrowed(&[0, 255, 1]),
        }
    }

    #[test]
    fn decoding_reverses_encoding() {
        let plain = EntryContent::Event {
            marks: Marks::default(),
            replayed_from: None,
        };
        let plain = SpoolEntry {
            content: plain,
            in_doubt: false,
            value: Cow::Borrowed(b""),
            ..event()
        };
        for entry in [event(), quarantined(), plain] {
            assert_eq!(SpoolEntry::decode(&entry.encode()).unwrap(), entry);
        }
    }

    #[test]
    fn other_bytes_are_an_error() {
        let whole = event().encode();
        let head =
            PREFIX_LEN + u32::from_le_bytes(whole[1..PREFIX_LEN].try_into().unwrap()) as usize;
        for len in 0..head {
            assert!(SpoolEntry::decode(&whole[..len]).is_err(), "{len} bytes");
        }
        let later = [&[9], &whole[1..]].concat();
        assert!(matches!(
            SpoolEntry::decode(&later),
            Err(DecodeError::Version(9))
        ));
    }

    #[test]
    fn unknown_members_are_ignored() {
        let head = br#"{"received_ms":5,"marks":{"stale":true,"new":[1]},"also_new":{}}"#;
        let mut bytes = vec![FORMAT_VERSION];
        bytes.extend((head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(b"value");
        let entry = SpoolEntry::decode(&bytes).unwrap();
        let marks = Marks {
            stale: true,
            ..Marks::default()
        };
        assert_eq!(
            entry.content,
            EntryContent::Event {
                marks,
                replayed_from: None
            }
        );
        assert_eq!((entry.received_ms, &entry.value[..]), (5, &b"value"[..]));
    }

    /// Entries outlive the release that wrote them: changing these bytes breaks spools that exist.
    #[test]
    fn the_format_stays() {
        let head = r#"{"received_ms":1700000000123,"in_doubt":true,"marks":{"duplicate":"repeat","revision":{"number":3,"supersedes":"event_x"},"stale":true,"out_of_order":true,"conflict":18446744073709551615},"replayed_from":{"topic":"butlr.quarantine.v1","partition":2,"offset":1099511627776}}"#;
        let mut expected = vec![1];
        expected.extend((head.len() as u32).to_le_bytes());
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(br#"{"id":"a"}"#);
        assert_eq!(event().encode(), expected);
    }
}
