//! Description of a spool entry, as text and as JSON.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::marks::Marks;
use crate::provenance::ReplayOrigin;
use crate::spool::entry::{EntryContent, SpoolEntry};
use crate::spool::store::DeadLetter;
use butlr_event::destination::Destination;
use butlr_event::{ParseLimits, ParsedBody, parse};

/// Entry of the spool with its state.
pub struct EntryDescription<'e> {
    pub to: Destination,
    pub seq: u64,
    /// The entry was handed to Kafka before, so its record may be stored already.
    pub is_handed_over: bool,
    /// Reason and time if the entry was set aside.
    pub dead_letter: Option<&'e DeadLetter>,
    bytes: &'e [u8],
    entry: Result<SpoolEntry<'e>, String>,
}

/// Ids in the value, if it is an event.
#[derive(Default)]
struct EntryIdentity {
    id: Option<String>,
    space: Option<String>,
}

impl<'e> EntryDescription<'e> {
    /// Describes a waiting entry. Entries of its destination up to `handed_up_to` were handed to
    /// Kafka.
    pub fn from_spooled(
        to: Destination,
        seq: u64,
        bytes: &'e [u8],
        handed_up_to: Option<u64>,
    ) -> Self {
        Self {
            to,
            seq,
            is_handed_over: handed_up_to.is_some_and(|last| seq <= last),
            dead_letter: None,
            bytes,
            entry: SpoolEntry::decode(bytes).map_err(|error| error.to_string()),
        }
    }

    /// Describes an entry that was set aside.
    pub fn from_dead_letter(letter: &'e DeadLetter) -> Self {
        Self {
            dead_letter: Some(letter),
            ..Self::from_spooled(letter.destination, letter.seq, &letter.value, None)
        }
    }

    /// Returns the reason if this release cannot decode the entry.
    pub fn decode_error(&self) -> Option<&str> {
        self.entry.as_ref().err().map(String::as_str)
    }

    /// Returns the value as it was received, or all bytes of an entry that cannot be decoded.
    pub fn value(&self) -> &[u8] {
        match &self.entry {
            Ok(entry) => &entry.value,
            Err(_) => self.bytes,
        }
    }

    fn identity(&self) -> EntryIdentity {
        let Ok(SpoolEntry { content, value, .. }) = &self.entry else {
            return EntryIdentity::default();
        };
        let EntryContent::Event { marks, .. } = content else {
            return EntryIdentity::default();
        };
        let Ok(ParsedBody::Single(Ok(event))) = parse(value, None, ParseLimits::UNLIMITED) else {
            return EntryIdentity::default();
        };
        let id = marks.conflict_id(event.id());
        EntryIdentity {
            id: Some(id.unwrap_or_else(|| event.id().to_owned())),
            space: Some(event.space_id().to_owned()),
        }
    }

    /// Returns the header of the lines that [`text_line`](Self::text_line) returns.
    pub fn header_line() -> String {
        format_line(
            ["destination", "seq", "received at", "bytes"],
            "id  space  marks",
        )
    }

    /// Returns the entry as one line of text.
    pub fn text_line(&self) -> String {
        let EntryIdentity { id, space } = self.identity();
        let received = match &self.entry {
            Ok(entry) => format_timestamp(entry.received_ms),
            Err(_) => "-".to_owned(),
        };
        let [id, space] =
            [id, space].map(|name| name.map_or("-".to_owned(), |name| escape_control(&name)));
        let (seq, bytes) = (self.seq.to_string(), self.value().len().to_string());
        let remarks = self.remarks().join(", ");
        let rest = format!("{id}  {space}  {remarks}");
        format_line([self.to.name(), &seq, &received, &bytes], rest.trim_end())
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        match &self.entry {
            Err(reason) => remarks.push(format!("cannot be read: {reason}")),
            Ok(entry) => {
                remarks.extend(entry.in_doubt.then(|| "in doubt".to_owned()));
                remarks.extend(self.is_handed_over.then(|| "handed over".to_owned()));
                match &entry.content {
                    EntryContent::Event {
                        marks,
                        replayed_from,
                    } => {
                        remarks.extend(describe_marks(marks));
                        let origin = replayed_from.as_ref().map(format_origin);
                        remarks.extend(origin.map(|origin| format!("replayed from {origin}")));
                    }
                    EntryContent::Quarantined(details) => {
                        remarks.push(escape_control(&details.codes.join(" ")))
                    }
                }
            }
        }
        remarks.extend(self.dead_letter.map(|letter| {
            let (at, reason) = (format_timestamp(letter.at_ms), &letter.reason);
            format!("set aside {at}: {}", escape_control(reason))
        }));
        remarks
    }

    /// Returns everything but the value as JSON.
    pub fn json_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        set("destination", self.to.name().into());
        set("seq", self.seq.into());
        if let Some(letter) = self.dead_letter {
            set(
                "set_aside",
                json!({ "at": format_timestamp(letter.at_ms), "reason": letter.reason }),
            );
        }
        let entry = match &self.entry {
            Ok(entry) => entry,
            Err(reason) => {
                set("unreadable", reason.as_str().into());
                return fields;
            }
        };
        set("received_at", format_timestamp(entry.received_ms).into());
        set("bytes", entry.value.len().into());
        set("in_doubt", entry.in_doubt.into());
        set("handed_over", self.is_handed_over.into());
        match &entry.content {
            EntryContent::Event {
                marks,
                replayed_from,
            } => {
                let EntryIdentity { id, space } = self.identity();
                set("id", id.into());
                set("space_id", space.into());
                set("marks", marks_to_json(marks));
                if let Some(origin) = replayed_from {
                    set("replayed_from", json!(origin));
                }
            }
            EntryContent::Quarantined(details) => {
                set("quarantined", json!(details));
            }
        }
        fields
    }

    /// Returns the entry with its exact value as one line of JSON.
    pub fn json_line(&self) -> String {
        let mut line = Value::from(self.json_fields()).to_string();
        let value = match (&self.entry, to_single_line(self.value())) {
            (Ok(_), Some(json)) => format!(r#","value":{json}}}"#),
            (Ok(_), None) => format!(r#","value_base64":"{}"}}"#, STANDARD.encode(self.value())),
            (Err(_), _) => format!(r#","entry_base64":"{}"}}"#, STANDARD.encode(self.bytes)),
        };
        line.truncate(line.len() - 1);
        line + &value
    }
}

/// Puts JSON on one line without changing it: line ends in JSON are only between tokens, where a
/// space means the same. Returns `None` if the value is not JSON.
pub fn to_single_line(value: &[u8]) -> Option<String> {
    let json: &RawValue = serde_json::from_slice(value).ok()?;
    Some(json.get().replace(['\n', '\r'], " "))
}

fn describe_marks(marks: &Marks) -> Vec<String> {
    let Marks {
        duplicate,
        revision,
        stale,
        out_of_order,
        conflict,
    } = marks;
    let remarks = [
        duplicate.map(|kind| format!("duplicate ({})", kind.as_str())),
        revision
            .as_ref()
            .map(|revision| format!("revision {}", revision.number)),
        stale.then(|| "stale".to_owned()),
        out_of_order.then(|| "out of order".to_owned()),
        conflict.map(|_| "id conflict".to_owned()),
    ];
    remarks.into_iter().flatten().collect()
}

/// Returns the marks as JSON; the names are those of the record headers.
fn marks_to_json(marks: &Marks) -> Value {
    let Marks {
        duplicate,
        revision,
        stale,
        out_of_order,
        conflict,
    } = marks;
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    if let Some(kind) = duplicate {
        set("duplicate", kind.as_str().into());
    }
    if let Some(revision) = revision {
        set("revision", revision.number.into());
        set("supersedes", revision.supersedes.to_string().into());
    }
    for (name, is_set) in [
        ("stale", *stale),
        ("outoforder", *out_of_order),
        ("idconflict", conflict.is_some()),
    ] {
        if is_set {
            set(name, true.into());
        }
    }
    fields.into()
}

fn format_origin(
    ReplayOrigin {
        topic,
        partition,
        offset,
    }: &ReplayOrigin,
) -> String {
    format!("{topic}/{partition}/{offset}")
}

fn format_line([to, seq, received, bytes]: [&str; 4], rest: &str) -> String {
    format!("{to:<20}  {seq:>12}  {received:<24}  {bytes:>7}  {rest}")
}

/// Escapes control characters, so that a sender's text cannot move the cursor of a terminal.
fn escape_control(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// Formats a time as RFC 3339 with milliseconds.
pub fn format_timestamp(at_ms: i64) -> String {
    // Last millisecond of the year 9999.
    const LAST_MS: i64 = 253_402_300_799_999;
    let since = Duration::from_millis(at_ms.clamp(0, LAST_MS).unsigned_abs());
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests;
