//! Record of a bridge topic, with the headers that matter when it is read back.

use crate::kafka::headers::parse_unix_ms;

/// Key, value and marks of a record.
#[derive(Clone, Copy, Debug, Default)]
pub struct TailRecord<'r> {
    /// Key of the record.
    pub key: Option<&'r [u8]>,
    /// Value of the record; empty if it has none.
    pub value: &'r [u8],
    /// Id under which the event was published.
    pub id: Option<&'r str>,
    /// Receipt of the event, ms since 1970; `None` if the record is not a bridge's event.
    pub received_ms: Option<i64>,
    /// Receipt of a quarantined item, ms since 1970.
    pub quarantined_ms: Option<i64>,
    /// Number of the revision.
    pub revision: u32,
    /// The record waited on disk or in quarantine; its neighbours may have been received much
    /// later.
    pub waited: bool,
    /// The event is marked stale.
    pub stale: bool,
    /// The event is marked a duplicate.
    pub duplicate: bool,
    /// Another event was stored under the same id.
    pub conflict: bool,
    /// The record's timestamp is not the event's.
    pub time_replaced: bool,
}

impl<'r> TailRecord<'r> {
    /// Creates a record without headers.
    pub fn new(key: Option<&'r [u8]>, value: &'r [u8]) -> Self {
        Self {
            key,
            value,
            ..Self::default()
        }
    }

    /// Applies one header; unknown ones are ignored.
    pub fn apply_header(&mut self, name: &str, value: &'r [u8]) {
        let text = || std::str::from_utf8(value).ok();
        match name {
            "ce_id" => self.id = text(),
            "ce_receivedat" => self.received_ms = text().and_then(parse_unix_ms),
            "ce_revision" => self.revision = text().and_then(|t| t.parse().ok()).unwrap_or(0),
            "ce_spooled" | "ce_replayedfrom" | "butlr-spooled" => self.waited = true,
            "ce_stale" => self.stale = true,
            "ce_duplicate" => self.duplicate = true,
            "ce_idconflict" => self.conflict = true,
            "ce_timereplaced" => self.time_replaced = true,
            "butlr-received-at" => self.quarantined_ms = text().and_then(parse_unix_ms),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_with_header(name: &str, value: &'static str) -> TailRecord<'static> {
        let mut record = TailRecord::new(None, b"");
        record.apply_header(name, value.as_bytes());
        record
    }

    #[test]
    fn times_are_parsed_as_rfc_3339() {
        let time = "2027-01-15T07:59:59.995Z";
        let ms = Some(1_799_999_999_995);
        assert_eq!(record_with_header("ce_receivedat", time).received_ms, ms);
        assert_eq!(
            record_with_header("butlr-received-at", time).quarantined_ms,
            ms
        );
        assert_eq!(
            record_with_header("ce_receivedat", "yesterday").received_ms,
            None
        );
        assert_eq!(
            record_with_header("ce_receivedat", time).quarantined_ms,
            None
        );
    }

    #[test]
    fn spooled_and_replayed_records_waited() {
        for name in ["ce_spooled", "ce_replayedfrom", "butlr-spooled"] {
            assert!(record_with_header(name, "true").waited, "{name}");
        }
        for name in ["spooled", "ce_stale", "butlr-received-at"] {
            assert!(!record_with_header(name, "true").waited, "{name}");
        }
    }
}
