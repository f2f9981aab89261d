//! The id of an event, kept in little room.

use std::fmt;

use crate::ksuid::Ksuid;

/// What stands before the KSUID in the sender's ids.
const PREFIX: &str = "event_";

/// The id of an event as `ce_id` names it: 24 bytes for the ids that the sender makes, which are KSUIDs; others are kept as
/// they are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventId(EventIdRepr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum EventIdRepr {
    /// `event_` and 27 digits.
    Ksuid([u8; 20]),
    Other(Box<str>),
}

impl EventId {
    /// Keeps `id`.
    pub fn new(id: &str) -> Self {
        Self(match parse_ksuid(id) {
            Some(ksuid) => EventIdRepr::Ksuid(*ksuid.as_bytes()),
            None => EventIdRepr::Other(id.into()),
        })
    }

    /// The second in which it was made, since 1970; none where the id is no KSUID. An id that was changed because of a
    /// conflict was made when the original was.
    pub fn ksuid_seconds(&self) -> Option<i64> {
        match &self.0 {
            EventIdRepr::Ksuid(bytes) => Some(Ksuid::from_bytes(*bytes).seconds()),
            EventIdRepr::Other(id) => {
                parse_ksuid(strip_conflict_suffix(id)?).map(|ksuid| ksuid.seconds())
            }
        }
    }
}

fn parse_ksuid(id: &str) -> Option<Ksuid> {
    Ksuid::parse(id.strip_prefix(PREFIX)?)
}

/// The id under which an event is published whose own id is taken by an event with another reading: `<id>~<8 hex digits>`,
/// the digits from the hash of its reading.
pub fn conflict_id(id: &str, reading: u64) -> String {
    format!("{id}~{:08x}", reading >> 32)
}

/// The id that [`own_id`] was given, if `id` comes from there.
fn strip_conflict_suffix(id: &str) -> Option<&str> {
    let (id, reading) = id.rsplit_once('~')?;
    let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    (reading.len() == 8 && reading.bytes().all(is_hex)).then_some(id)
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            EventIdRepr::Ksuid(bytes) => write!(f, "{PREFIX}{}", Ksuid::from_bytes(*bytes)),
            EventIdRepr::Other(id) => f.write_str(id),
        }
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small() {
        assert_eq!(size_of::<EventId>(), 24);
    }

    #[test]
    fn seconds_of_ksuids_only() {
        let seconds = |id: &str| {
            let kept = EventId::new(id);
            assert_eq!(kept.to_string(), id);
            kept.ksuid_seconds()
        };
        let made = Some(1_507_608_047);
        assert_eq!(seconds("event_0ujtsYcgvSTl8PAuAdqWYSMnLOv"), made);
        assert_eq!(seconds("event_0ujtsYcgvSTl8PAuAdqWYSMnLOv~0123cdef"), made);
        for other in [
            "",
            "event_",
            "evt_0ujtsYcgvSTl8PAuAdqWYSMnLOv",
            "Event_0ujtsYcgvSTl8PAuAdqWYSMnLOv",
            "0ujtsYcgvSTl8PAuAdqWYSMnLOv",
            "event_0ujtsYcgvSTl8PAuAdqWYSMnLO",
            "event_0ujtsYcgvSTl8PAuAdqWYSMnLOv0",
            "event_0ujtsYcgvSTl8PAuAdqWYSMnLO-",
            "event_aWgEPTl1tmebfsQzFP4bxwgy80W",
            "event_zzzzzzzzzzzzzzzzzzzzzzzzzzz",
            "event_0ujtsYcgvSTl8PAuAdqWYSMnLOv~",
            "event_0ujtsYcgvSTl8PAuAdqWYSMnLOv~0123cdeF",
            "event_0ujtsYcgvSTl8PAuAdqWYSMnLOv~0123cdef0",
            "event_é~01234567",
            "~",
        ] {
            assert_eq!(seconds(other), None, "{other}");
        }
        let last = Ksuid::EPOCH_SECONDS + i64::from(u32::MAX);
        assert_eq!(seconds("event_aWgEPTl1tmebfsQzFP4bxwgy80V"), Some(last));
    }

    proptest! {
        #[test]
        fn ksuids_come_back(bytes: [u8; 20], reading: u64) {
            let ksuid = Ksuid::from_bytes(bytes);
            let text = format!("event_{ksuid}");
            let id = EventId::new(&text);
            prop_assert!(matches!(id.0, EventIdRepr::Ksuid(_)));
            prop_assert_eq!(id.to_string(), &*text);
            prop_assert_eq!(id.ksuid_seconds(), Some(ksuid.seconds()));
            let other = EventId::new(&conflict_id(&text, reading));
            prop_assert_ne!(&other, &id);
            prop_assert_eq!(other.ksuid_seconds(), id.ksuid_seconds());
        }

        #[test]
        fn any_text_comes_back(id in "(event_|evt_|)([0-9A-Za-z]{26,28}|.*)(~[0-9a-g]{7,9})?") {
            prop_assert_eq!(EventId::new(&id).to_string(), &*id);
        }
    }
}
