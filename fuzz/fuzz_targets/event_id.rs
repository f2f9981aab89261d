//! Event ids and KSUIDs: the compact form prints as the text it was made from.

#![no_main]

use butlr_event::event_id::{EventId, conflict_id};
use butlr_event::ksuid::Ksuid;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, u64)| {
    let (text, reading) = input;
    let id = EventId::new(text);
    assert_eq!(id.to_string(), text);
    assert_eq!(id, EventId::new(&id.to_string()));

    // The id of a conflicting event still tells when the original was made.
    let own = conflict_id(text, reading);
    let parsed = EventId::new(&own);
    assert_eq!(parsed.to_string(), own);
    if id.ksuid_seconds().is_some() && !text.contains('~') {
        assert_eq!(parsed.ksuid_seconds(), id.ksuid_seconds());
    }

    if let Some(ksuid) = Ksuid::parse(text) {
        assert_eq!(ksuid.to_string(), text);
        assert_eq!(Ksuid::from_bytes(*ksuid.as_bytes()), ksuid);
    }
});
