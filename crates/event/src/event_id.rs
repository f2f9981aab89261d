//! Event ids in a compact form.

use std::fmt;

use crate::ksuid::Ksuid;

/// Prefix of the KSUID in the sender's ids.
const PREFIX: &str = "event_";

/// Id of an event as in `ce_id`. It takes 24 bytes and, for the sender's own ids (KSUIDs), no
/// allocation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventId(CompactId);

#[derive(Clone, PartialEq, Eq, Hash)]
enum CompactId {
    /// [`PREFIX`] and 27 digits.
    Ksuid([u8; 20]),
    Other(Box<str>),
}

impl EventId {
    /// Compacts `id`.
    pub fn new(id: &str) -> Self {
        Self(match parse_ksuid(id) {
            Some(ksuid) => CompactId::Ksuid(*ksuid.as_bytes()),
            None => CompactId::Other(id.into()),
        })
    }

    /// Creation time in seconds since 1970; `None` if the id is not a KSUID. An id from [`conflict_id`]
    /// has the time of the original.
    pub fn ksuid_seconds(&self) -> Option<i64> {
        match &self.0 {
            CompactId::Ksuid(bytes) => Some(Ksuid::from_bytes(*bytes).seconds()),
            CompactId::Other(id) => parse_ksuid(original_id(id)?).map(|ksuid| ksuid.seconds()),
        }
    }
}

fn parse_ksuid(id: &str) -> Option<Ksuid> {
    Ksuid::parse(id.strip_prefix(PREFIX)?)
}

/// Makes the id of an event whose `id` already belongs to an event with another reading:
/// `<id>~<8 hex digits>`. The digits come from the hash of the reading.
pub fn conflict_id(id: &str, reading: u64) -> String {
    format!("{id}~{:08x}", reading >> 32)
}

/// Returns the original of an id from [`conflict_id`]; `None` for any other id.
fn original_id(id: &str) -> Option<&str> {
    let (id, reading) = id.rsplit_once('~')?;
    let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    (reading.len() == 8 && reading.bytes().all(is_hex)).then_some(id)
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            CompactId::Ksuid(bytes) => write!(f, "{PREFIX}{}", Ksuid::from_bytes(*bytes)),
            CompactId::Other(id) => f.write_str(id),
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
    fn takes_24_bytes() {
        assert_eq!(size_of::<EventId>(), 24);
    }

    #[test]
    fn only_ksuids_have_seconds() {
        let seconds = |id: &str| {
            let compact = EventId::new(id);
            assert_eq!(compact.to_string(), id);
            compact.ksuid_seconds()
        };
        let created = Some(1_507_608_047);
        assert_eq!(seconds("event_0ujtsYcgvSTl8PAuAdqWYSMnLOv"), created);
        assert_eq!(
            seconds("event_0ujtsYcgvSTl8PAuAdqWYSMnLOv~0123cdef"),
            created
        );
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
        fn ksuids_round_trip(bytes: [u8; 20], reading: u64) {
            let ksuid = Ksuid::from_bytes(bytes);
            let text = format!("event_{ksuid}");
            let id = EventId::new(&text);
            prop_assert!(matches!(id.0, CompactId::Ksuid(_)));
            prop_assert_eq!(id.to_string(), &*text);
            prop_assert_eq!(id.ksuid_seconds(), Some(ksuid.seconds()));
            let other = EventId::new(&conflict_id(&text, reading));
            prop_assert_ne!(&other, &id);
            prop_assert_eq!(other.ksuid_seconds(), id.ksuid_seconds());
        }

        #[test]
        fn any_text_round_trips(id in "(event_|evt_|)([0-9A-Za-z]{26,28}|.*)(~[0-9a-g]{7,9})?") {
            prop_assert_eq!(EventId::new(&id).to_string(), &*id);
        }
    }
}
