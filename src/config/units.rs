//! Durations and sizes as users write them.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Unit and bytes, largest first, so that writing a size takes the largest that fits.
const UNITS: [(&str, u64); 8] = [
    ("GiB", GIB),
    ("GB", 1_000_000_000),
    ("MiB", MIB),
    ("MB", 1_000_000),
    ("KiB", KIB),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads `"3s"`, `"500ms"` or `"1h 30m"`. A number without a unit is none: it has meant seconds here and milliseconds
/// there once too often.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.parse::<f64>().is_ok() {
        return Err(format!(
            "{text} has no unit; write it with one, such as \"{text}s\" or \"{text}ms\""
        ));
    }
    humantime::parse_duration(text).map_err(|_| {
        format!(
            "{text:?} is not a duration; allowed are texts such as \"500ms\", \"3s\", \
             \"1h 30m\", \"7d\""
        )
    })
}

/// Reads `"64MiB"`, `"64 KiB"`, `"64kB"` or a plain number of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let factor = if unit.is_empty() {
        Some(1)
    } else {
        UNITS
            .iter()
            .find(|known| known.0 == unit)
            .map(|known| known.1)
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    bytes.ok_or_else(|| {
        format!(
            "{text:?} is not a size; allowed are bytes such as 65536, and texts such as \
             \"64KiB\", \"1MiB\", \"64kB\""
        )
    })
}

/// A size as a user would write it.
pub(super) fn format_size(bytes: u64) -> String {
    let unit = UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    unit.map_or_else(
        || format!("{bytes}B"),
        |(unit, factor)| format!("{}{unit}", bytes / factor),
    )
}

/// A duration as a user would write it.
pub(super) fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration(" 1h 30m "), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("3d"), Ok(Duration::from_secs(3 * 86_400)));
        for none in ["", "s", "3 parsecs", "-1s", "99999999999999999999s"] {
            assert!(
                parse_duration(none).unwrap_err().contains("not a duration"),
                "{none}"
            );
        }
        for none in ["3", "0", "2.5", "-1"] {
            assert!(
                parse_duration(none).unwrap_err().contains("has no unit"),
                "{none}"
            );
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("64 KiB"), Ok(65_536));
        assert_eq!(parse_size("64kB"), Ok(64_000));
        assert_eq!(parse_size("64MB"), Ok(64_000_000));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("7B"), Ok(7));
        for none in [
            "",
            "KiB",
            "-1",
            "1.5MiB",
            "64kib",
            "64M",
            "99999999999999999999",
            "18446744073709551615GiB",
        ] {
            assert!(parse_size(none).is_err(), "{none}");
        }
    }

    #[test]
    fn written_back() {
        assert_eq!(format_size(1 << 20), "1MiB");
        assert_eq!(format_size(1_000_000), "1MB");
        assert_eq!(format_size(1_000_001), "1000001B");
        assert_eq!(format_size(0), "0B");
        assert_eq!(format_duration(Duration::from_secs(90)), "1m 30s");
    }
}
