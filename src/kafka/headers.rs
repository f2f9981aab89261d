//! Headers of records that are read back from Kafka.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::UNIX_EPOCH;

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

/// Runs `read`, which iterates over a message's headers. Returns `None` if the name of a header is
/// not UTF-8, because rdkafka panics on it. The bridge writes no such header.
pub fn catch_invalid_name<T>(read: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok()
}

/// Returns the text of a message's header. Call it inside [`catch_invalid_name`].
pub fn header_text<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m str> {
    let mut all = message.headers()?.iter();
    let value = all.find(|header| header.key == name)?.value?;
    std::str::from_utf8(value).ok()
}

/// Parses an RFC 3339 time into milliseconds since 1970.
pub fn parse_unix_ms(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}
