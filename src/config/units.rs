//! Durations and sizes as users write them.

use std::time::Duration;

const DAY_SECONDS: u64 = 86_400;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Units and their bytes, the largest first: a size is written in the largest that fits.
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

/// Reads `"3s"`, `"500ms"` or `"1h 30m"`. A number without a unit is refused, because it could
/// mean seconds or milliseconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.parse::<f64>().is_ok() {
        return Err(format!(
            "{text} has no unit; add one, as in \"{text}s\" or \"{text}ms\""
        ));
    }
    humantime::parse_duration(text).map_err(|_| {
        format!(
            "{text:?} is not a duration; write it as in \"500ms\", \"3s\", \"1h 30m\" or \"7d\""
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
            "{text:?} is not a size; write it in bytes, or as in \"64KiB\", \"1MiB\" or \"64kB\""
        )
    })
}

/// Formats a size as a user would write it.
pub(super) fn format_size(bytes: u64) -> String {
    let unit = UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    unit.map_or_else(
        || format!("{bytes}B"),
        |(unit, factor)| format!("{}{unit}", bytes / factor),
    )
}

/// Formats a duration as a user would write it, with days as the largest unit.
pub(super) fn format_duration(duration: Duration) -> String {
    let days = duration.as_secs() / DAY_SECONDS;
    let rest = duration - Duration::from_secs(days * DAY_SECONDS);
    if days == 0 {
        humantime::format_duration(rest).to_string()
    } else if rest.is_zero() {
        format!("{days}d")
    } else {
        format!("{days}d {}", humantime::format_duration(rest))
    }
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
        for invalid in ["", "s", "3 parsecs", "-1s", "99999999999999999999s"] {
            assert!(
                parse_duration(invalid)
                    .unwrap_err()
                    .contains("not a duration"),
                "{invalid}"
            );
        }
        for invalid in ["3", "0", "2.5", "-1"] {
            assert!(
                parse_duration(invalid).unwrap_err().contains("has no unit"),
                "{invalid}"
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
        for invalid in [
            "",
            "KiB",
            "-1",
            "1.5MiB",
            "64kib",
            "64M",
            "99999999999999999999",
            "18446744073709551615GiB",
        ] {
            assert!(parse_size(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn values_are_formatted_as_users_write_them() {
        assert_eq!(format_size(1 << 20), "1MiB");
        assert_eq!(format_size(1_000_000), "1MB");
        assert_eq!(format_size(1_000_001), "1000001B");
        assert_eq!(format_size(0), "0B");
        assert_eq!(format_duration(Duration::from_secs(90)), "1m 30s");
        assert_eq!(
            format_duration(Duration::from_secs(36_500 * 86_400)),
            "36500d"
        );
        assert_eq!(
            format_duration(Duration::from_millis(86_400_250)),
            "1d 250ms"
        );
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }
}
