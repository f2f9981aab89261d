//! The time of day in milliseconds since 1970, as records and entries have it.

use std::time::{SystemTime, UNIX_EPOCH};

/// `time` in ms since 1970; 0 before that.
pub fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Now, likewise.
pub fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}
