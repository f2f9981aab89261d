//! Events to send.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use butlr_event::EventType;

/// Returns the documented example of a type from `tests/events`, with indentation and a final
/// newline.
pub fn sample(event_type: EventType) -> String {
    let name = event_type.name().to_lowercase();
    let path = format!("{}/tests/events/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Builds a small valid event.
pub fn minimal_event(event_type: EventType, id: &str, timestamp_ms: i64, space_id: &str) -> String {
    use EventType::*;
    let (space, data) = match event_type {
        Detections => (
            "room_id",
            r#","data":{"local":[[0.5,1]],"world":[[8.25,2]]}"#,
        ),
        Traffic => ("room_id", r#","data":{"in":1,"out":2}"#),
        FloorOccupancy | FloorOccupancy1Min => ("floor_id", r#","data":25"#),
        RoomOccupancy | RoomOccupancy1Min => ("room_id", r#","data":4"#),
        ZoneOccupancy | ZoneOccupancy1Min => ("zone_id", r#","data":1"#),
        PirMotion | PirNoMotion => ("room_id", ""),
    };
    format!(
        r#"{{"id":"{id}","type":"{event_type}","timestamp":{timestamp_ms},"version":"v1.0.0","metadata":{{"org_id":"org_1","{space}":"{space_id}"}}{data}}}"#
    )
}

/// Returns the current time in ms since 1970.
pub fn clock_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_millis() as i64
}

/// Returns a timestamp for an event: the current time, but never the same value twice. Two events
/// of one space with the same timestamp would be the same reading. After many calls the result runs
/// ahead of the clock, so no earlier event can have it.
pub fn unique_ms() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = clock_ms();
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(now.max(last + 1))
    });
    now.max(last.expect("always updated") + 1)
}

/// Lists every accepted spelling of a type.
pub fn spellings(event_type: EventType) -> Vec<String> {
    let upper = event_type.name().to_owned();
    let lower = upper.to_lowercase();
    let mut all = vec![upper.clone(), lower.clone()];
    if let (Some(upper), Some(lower)) = (upper.strip_suffix("IN"), lower.strip_suffix("in")) {
        all.extend([upper.to_owned(), lower.to_owned()]);
    }
    all
}
