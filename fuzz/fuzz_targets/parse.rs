//! The event parser against a second reading of the rules: any bytes are a request's body.

#![no_main]

use butlr_event::{Event, ParseLimits, ParsedBody, RejectedItem, parse};
use butlr_fuzz::json::JsonTree;
use butlr_fuzz::rules::{self, Ruling};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde::de::IgnoredAny;
use serde_json::error::Category;

const LIMITS: ParseLimits = ParseLimits {
    max_events: 8,
    max_event_bytes: 2048,
};

/// The deepest nesting that the documentation allows.
const DEEPEST: usize = 64;

fuzz_target!(|body: &[u8]| -> Corpus {
    let parsed = parse(body, None, LIMITS);
    let is_json = serde_json::from_slice::<IgnoredAny>(body).is_ok();
    let tree = match serde_json::from_slice::<JsonTree>(body) {
        Ok(tree) => tree,
        Err(error) => {
            // A number in a field that the bridge does not know may be larger than a double.
            let is_number = is_json && error.to_string().contains("number out of range");
            assert!(is_number || parsed.is_err(), "not JSON, but taken: {error}");
            let is_cut = error.classify() == Category::Eof;
            return if is_cut { Corpus::Reject } else { Corpus::Keep };
        }
    };
    let Ok(parsed) = parsed else {
        let count = match &tree {
            JsonTree::Array(events) => events.len(),
            _ => 1,
        };
        let is_countable = (1..=LIMITS.max_events).contains(&count);
        let is_flat = tree.depth() <= DEEPEST;
        assert!(
            !(is_countable && is_flat),
            "a readable body, but refused as a whole"
        );
        return Corpus::Keep;
    };
    assert!(tree.depth() <= DEEPEST);
    match (&tree, parsed) {
        (JsonTree::Array(trees), ParsedBody::Array(events)) => {
            assert_eq!(trees.len(), events.len());
            for (tree, event) in trees.iter().zip(&events) {
                compare(tree, event);
            }
        }
        (tree, ParsedBody::Single(event)) => compare(tree, &event),
        (_, ParsedBody::Array(_)) => panic!("several events in one"),
    }
    Corpus::Keep
});

fn compare(tree: &JsonTree, event: &Result<Event<'_>, RejectedItem<'_>>) {
    match event {
        Err(RejectedItem::TooLarge { bytes, .. }) => assert!(*bytes > LIMITS.max_event_bytes),
        Err(RejectedItem::Invalid { errors, .. }) => {
            assert!(!errors.is_empty());
            // The code of a disagreement between the parser's own two passes.
            assert!(
                errors.iter().all(|error| error.code.as_str() != "invalid"),
                "{errors:?}"
            );
            assert_ne!(
                rules::event(tree),
                Ruling::Valid,
                "valid, but refused: {errors:?}"
            );
        }
        Ok(event) => {
            assert_ne!(rules::event(tree), Ruling::Invalid, "not valid, but taken");
            assert_matches_text(tree, "id", event.id());
            let again = parse(event.raw(), Some(event.event_type()), LIMITS);
            let Ok(ParsedBody::Single(Ok(again))) = again else {
                panic!("an event's own text is not the event");
            };
            assert_eq!(again.id(), event.id());
            assert_eq!(again.space_id(), event.space_id());
            assert_eq!(again.timestamp_ms(), event.timestamp_ms());
            assert_eq!(again.data_hash(), event.data_hash());
        }
    }
}

fn assert_matches_text(tree: &JsonTree, key: &str, expected: &str) {
    let found = tree.values(key).next();
    assert!(
        matches!(found, Some(JsonTree::Text(text)) if text == expected),
        "{key}: {found:?}"
    );
}
