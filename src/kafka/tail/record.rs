//! A record of the bridge's topics, as it is read back.

use std::time::UNIX_EPOCH;

/// A record, as far as it is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct TailRecord<'r> {
    /// Its key.
    pub key: Option<&'r [u8]>,
    /// Its value; empty where there is none.
    pub value: &'r [u8],
    /// The id under which its event was published.
    pub id: Option<&'r str>,
    /// When the bridge had its event, ms since 1970; `None`: it is no event of a bridge's.
    pub received_ms: Option<i64>,
    /// The same of what is quarantined.
    pub quarantined_ms: Option<i64>,
    /// Which revision it is.
    pub revision: u32,
    /// It waited, on disk or in quarantine: what was stored around it may have been received much later.
    pub waited: bool,
    /// It is marked stale.
    pub stale: bool,
    /// It is marked a duplicate.
    pub duplicate: bool,
    /// Another event was stored under its id.
    pub conflict: bool,
    /// It is not stamped with its event's time.
    pub time_replaced: bool,
}

impl<'r> TailRecord<'r> {
    /// One without headers.
    pub fn new(key: Option<&'r [u8]>, value: &'r [u8]) -> Self {
        Self {
            key,
            value,
            ..Self::default()
        }
    }

    /// Takes note of a header; those of others do not matter.
    pub fn apply_header(&mut self, name: &str, value: &'r [u8]) {
        let text = || std::str::from_utf8(value).ok();
        match name {
            "ce_id" => self.id = text(),
            "ce_receivedat" => self.received_ms = text().and_then(parse_millis),
            "ce_revision" => self.revision = text().and_then(|t| t.parse().ok()).unwrap_or(0),
            "ce_spooled" | "ce_replayedfrom" | "butlr-spooled" => self.waited = true,
            "ce_stale" => self.stale = true,
            "ce_duplicate" => self.duplicate = true,
            "ce_idconflict" => self.conflict = true,
            "ce_timereplaced" => self.time_replaced = true,
            "butlr-received-at" => self.quarantined_ms = text().and_then(parse_millis),
            _ => {}
        }
    }
}

/// ms since 1970 of a time in RFC 3339.
fn parse_millis(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
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
    fn times_are_those_of_rfc_3339() {
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
    fn what_was_spooled_or_replayed_waited() {
        for name in ["ce_spooled", "ce_replayedfrom", "butlr-spooled"] {
            assert!(record_with_header(name, "true").waited, "{name}");
        }
        for name in ["spooled", "ce_stale", "butlr-received-at"] {
            assert!(!record_with_header(name, "true").waited, "{name}");
        }
    }
}
