//! Wall-clock time since 1970, as records, spool entries and metrics hold it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds from 1970 to `time`; 0 if `time` is earlier.
pub fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Seconds from 1970 to `time`; 0 if `time` is earlier.
pub fn unix_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

/// Milliseconds from 1970 to now.
pub fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}
