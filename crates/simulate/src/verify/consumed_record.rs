//! A record as read from Kafka.

use super::headers;
use super::record_digest::RecordPosition;

/// A record's headers in their order.
pub type HeaderList<'r> = [(&'r str, Option<&'r [u8]>)];

/// A record as read from Kafka.
#[derive(Clone, Copy, Debug)]
pub struct ConsumedRecord<'r> {
    /// Topic, partition and offset.
    pub position: RecordPosition,
    /// CreateTime, ms since 1970; `None` for any other kind of timestamp.
    pub timestamp_ms: Option<i64>,
    /// Latest time at which it can have been published, ms since 1970.
    pub latest_publish_ms: i64,
    /// The key.
    pub key: Option<&'r [u8]>,
    /// The value; a tombstone has none.
    pub value: Option<&'r [u8]>,
    /// The headers; `None` if one of their names is not UTF-8.
    pub headers: Option<&'r HeaderList<'r>>,
}

impl ConsumedRecord<'_> {
    /// Returns the time of receipt according to the headers, ms since 1970.
    pub fn received_ms(&self) -> Option<i64> {
        headers::received_ms(self.headers?)
    }
}
