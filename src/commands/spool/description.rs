//! Everything that is known of an entry, for people and for programs.

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

/// An entry and where it stands.
pub struct EntryDescription<'e> {
    pub to: Destination,
    pub seq: u64,
    /// It was handed to Kafka before: its record may be there already.
    pub is_handed_over: bool,
    /// Why and when it was set aside, if so.
    pub dead_letter: Option<&'e DeadLetter>,
    bytes: &'e [u8],
    entry: Result<SpoolEntry<'e>, String>,
}

/// What the value says of itself, where it is an event.
#[derive(Default)]
struct EntryIdentity {
    id: Option<String>,
    space: Option<String>,
}

impl<'e> EntryDescription<'e> {
    /// One that waits; `handed`: how far its destination's were handed to Kafka.
    pub fn from_spooled(to: Destination, seq: u64, bytes: &'e [u8], handed: Option<u64>) -> Self {
        Self {
            to,
            seq,
            is_handed_over: handed.is_some_and(|upto| seq <= upto),
            dead_letter: None,
            bytes,
            entry: SpoolEntry::decode(bytes).map_err(|error| error.to_string()),
        }
    }

    /// One that was set aside.
    pub fn from_dead_letter(aside: &'e DeadLetter) -> Self {
        let bytes = &aside.value;
        let waiting = Self::from_spooled(aside.destination, aside.seq, bytes, None);
        Self {
            dead_letter: Some(aside),
            ..waiting
        }
    }

    /// Why this release cannot read it, if so.
    pub fn decode_error(&self) -> Option<&str> {
        self.entry.as_ref().err().map(String::as_str)
    }

    /// The value as it was received; of an entry that cannot be read, all there is.
    pub fn value(&self) -> &[u8] {
        match &self.entry {
            Ok(entry) => &entry.value,
            Err(_) => self.bytes,
        }
    }

    fn identity(&self) -> EntryIdentity {
        match &self.entry {
            Ok(SpoolEntry {
                content: EntryContent::Event { marks, .. },
                value,
                ..
            }) => match parse(value, None, ParseLimits::UNLIMITED) {
                Ok(ParsedBody::Single(Ok(event))) => EntryIdentity {
                    id: Some(
                        marks
                            .conflict_id(event.id())
                            .unwrap_or_else(|| event.id().to_owned()),
                    ),
                    space: Some(event.space_id().to_owned()),
                },
                _ => EntryIdentity::default(),
            },
            _ => EntryIdentity::default(),
        }
    }

    /// The head of the lines that [`Described::line`] makes.
    pub fn header_line() -> String {
        format_line(
            ["destination", "seq", "received at", "bytes"],
            "id  space  marks",
        )
    }

    /// For people.
    pub fn text_line(&self) -> String {
        let EntryIdentity { id, space } = self.identity();
        let received = match &self.entry {
            Ok(entry) => format_timestamp(entry.received_ms),
            Err(_) => "-".to_owned(),
        };
        let [id, space] =
            [id, space].map(|name| name.map_or("-".to_owned(), |name| escape_control(&name)));
        let (seq, bytes) = (self.seq.to_string(), self.value().len().to_string());
        let words = self.remarks().join(", ");
        let rest = format!("{id}  {space}  {words}");
        format_line([self.to.name(), &seq, &received, &bytes], rest.trim_end())
    }

    /// What is special about it.
    fn remarks(&self) -> Vec<String> {
        let mut words = Vec::new();
        match &self.entry {
            Err(why) => words.push(format!("cannot be read: {why}")),
            Ok(entry) => {
                words.extend(entry.in_doubt.then(|| "in doubt".to_owned()));
                words.extend(self.is_handed_over.then(|| "handed over".to_owned()));
                match &entry.content {
                    EntryContent::Event {
                        marks,
                        replayed_from,
                    } => {
                        words.extend(describe_marks(marks));
                        words.extend(
                            replayed_from
                                .as_ref()
                                .map(|place| format!("replayed from {}", format_origin(place))),
                        );
                    }
                    EntryContent::Quarantined(of) => {
                        words.push(escape_control(&of.codes.join(" ")))
                    }
                }
            }
        }
        let aside = self.dead_letter.map(|aside| {
            format!(
                "set aside {}: {}",
                format_timestamp(aside.at_ms),
                escape_control(&aside.reason)
            )
        });
        words.extend(aside);
        words
    }

    /// For programs: all but the value.
    pub fn json_fields(&self) -> Map<String, Value> {
        let mut facts = Map::new();
        let mut set = |name: &str, value: Value| facts.insert(name.to_owned(), value);
        set("destination", self.to.name().into());
        set("seq", self.seq.into());
        if let Some(aside) = self.dead_letter {
            set(
                "set_aside",
                json!({ "at": format_timestamp(aside.at_ms), "reason": aside.reason }),
            );
        }
        let entry = match &self.entry {
            Ok(entry) => entry,
            Err(why) => {
                set("unreadable", why.as_str().into());
                return facts;
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
                if let Some(place) = replayed_from {
                    set("replayed_from", json!(place));
                }
            }
            EntryContent::Quarantined(of) => {
                set("quarantined", json!(of));
            }
        }
        facts
    }

    /// For programs: one line with everything, the value too, exactly: as JSON where it is JSON.
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

/// JSON as it is, but on one line: in JSON a line can only end between tokens, where a blank means the same. `None`: no JSON.
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
    let words = [
        duplicate.map(|kind| format!("duplicate ({})", kind.as_str())),
        revision
            .as_ref()
            .map(|revision| format!("revision {}", revision.number)),
        stale.then(|| "stale".to_owned()),
        out_of_order.then(|| "out of order".to_owned()),
        conflict.map(|_| "id conflict".to_owned()),
    ];
    words.into_iter().flatten().collect()
}

/// Those that there are, named as the headers that they become.
fn marks_to_json(marks: &Marks) -> Value {
    let Marks {
        duplicate,
        revision,
        stale,
        out_of_order,
        conflict,
    } = marks;
    let mut facts = Map::new();
    let mut set = |name: &str, value: Value| facts.insert(name.to_owned(), value);
    if let Some(kind) = duplicate {
        set("duplicate", kind.as_str().into());
    }
    if let Some(revision) = revision {
        set("revision", revision.number.into());
        set("supersedes", revision.supersedes.to_string().into());
    }
    for (name, is_so) in [
        ("stale", *stale),
        ("outoforder", *out_of_order),
        ("idconflict", conflict.is_some()),
    ] {
        if is_so {
            set(name, true.into());
        }
    }
    facts.into()
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

/// A sender's text must not move the cursor of a terminal.
fn escape_control(text: &str) -> String {
    let clean = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(clean).collect()
}

/// RFC 3339 with milliseconds.
pub fn format_timestamp(at_ms: i64) -> String {
    // The last that has a year of four digits.
    const LAST_MS: i64 = 253_402_300_799_999;
    let since = Duration::from_millis(at_ms.clamp(0, LAST_MS).unsigned_abs());
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests;
