//! Parsers of argument values. Their errors say what is allowed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::TypedValueParser;

use butlr_event::EventType;
use butlr_simulate::stream::OutageSettings;

/// Frequency and length of outages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutageFrequency {
    Never,
    Every(OutageSettings),
}

/// Parses a share from 0 to 1, such as `0.5%` or `0.005`.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let (number, whole) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let share = number.parse::<f64>().ok().map(|number| number / whole);
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "write a share as 0.5% or 0.005; allowed are 0% to 100%".to_owned())
}

/// Parses a number above 0.
pub fn parse_positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    number
        .filter(|number| number.is_finite() && (0.001..=1e9).contains(number))
        .ok_or_else(|| "allowed are numbers from 0.001 to 1000000000".to_owned())
}

/// Returns a parser for a count from 1 to `max`.
pub fn count_parser(max: u64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64)
        .range(1..=max)
        .map(|count| count as usize)
}

/// Parses a timeout from 1 ms to 1 hour.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if (Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&duration) {
        Ok(duration)
    } else {
        Err("allowed are 1ms to 1h".to_owned())
    }
}

/// Parses the duration of a run.
pub fn parse_run_time(text: &str) -> Result<Duration, String> {
    const YEAR: Duration = Duration::from_secs(366 * 86_400);
    let duration = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if (Duration::from_millis(1)..=YEAR).contains(&duration) {
        Ok(duration)
    } else {
        Err("allowed are 1ms to 1 year".to_owned())
    }
}

/// First second that a KSUID can contain; event ids contain their time of creation.
pub const KSUID_EPOCH: Duration = Duration::from_secs(1_400_000_000);

/// Parses interval and optional length of outages: `1h`, `1h/20m` or `never`.
pub fn parse_outages(text: &str) -> Result<OutageFrequency, String> {
    if text == "never" {
        return Ok(OutageFrequency::Never);
    }
    let parse = |text: &str| {
        humantime::parse_duration(text.trim())
            .map_err(|e| format!("{e}; write it as 1h or 1h/20m, or never"))
    };
    let default_length = OutageSettings::default().length;
    let (every, length) = match text.split_once('/') {
        Some((every, length)) => (parse(every)?, parse(length)?),
        None => (parse(text)?, default_length),
    };
    if every < Duration::from_secs(60) {
        return Err("allowed are intervals of 1min and more, or never".to_owned());
    }
    // The events of an outage are held in memory.
    if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&length) {
        return Err("allowed are lengths from 1s to 1day".to_owned());
    }
    Ok(OutageFrequency::Every(OutageSettings { every, length }))
}

/// Parses an RFC 3339 time in the past.
pub fn parse_past_time(text: &str) -> Result<SystemTime, String> {
    let moment = humantime::parse_rfc3339(text)
        .map_err(|e| format!("{e}; write it in UTC as 2026-05-04T08:00:00Z"))?;
    if moment > SystemTime::now() {
        return Err("the time is in the future; events must be in the past".to_owned());
    }
    // Simulated clocks can be wrong by hours.
    if moment < UNIX_EPOCH + KSUID_EPOCH + Duration::from_secs(86_400) {
        return Err(
            "allowed are times after 2014-05-14, the earliest time that an event id can contain"
                .to_owned(),
        );
    }
    Ok(moment)
}

/// Parses an event type.
pub fn parse_event_type(text: &str) -> Result<EventType, String> {
    EventType::parse(&text.replace('-', "_")).ok_or_else(|| {
        let names = EventType::ALL.map(EventType::name);
        format!("allowed are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (text, value) in [
            ("0.1%", 0.001),
            ("0.001", 0.001),
            ("100 %", 1.0),
            ("0", 0.0),
        ] {
            assert_eq!(parse_share(text), Ok(value), "{text}");
        }
        for text in ["", "%", "-1%", "101%", "1.1", "NaN", "inf", "five"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn outages_and_times() {
        assert_eq!(parse_outages("never"), Ok(OutageFrequency::Never));
        assert_eq!(
            parse_outages("1h"),
            Ok(OutageFrequency::Every(OutageSettings::default()))
        );
        let long = OutageSettings {
            every: Duration::from_secs(7200),
            length: Duration::from_secs(1200),
        };
        assert_eq!(parse_outages("2h/20m"), Ok(OutageFrequency::Every(long)));
        assert!(parse_outages("1s").unwrap_err().contains("1min"));
        assert!(parse_outages("1h/0s").unwrap_err().contains("1s to 1day"));
        for text in ["often", "1h/", "/20m", "1h/20m/1m"] {
            let error = parse_outages(text).unwrap_err();
            assert!(error.contains("never"), "{text}: {error}");
        }
        assert!(parse_past_time("2026-05-04T08:00:00Z").is_ok());
        assert!(
            parse_past_time("2999-01-01T00:00:00Z")
                .unwrap_err()
                .contains("future")
        );
        assert!(
            parse_past_time("1970-01-01T00:00:00Z")
                .unwrap_err()
                .contains("2014")
        );
        assert!(parse_run_time("400000000000y").is_err() && parse_run_time("5m").is_ok());
        assert!(
            parse_past_time("today")
                .unwrap_err()
                .contains("2026-05-04T08:00:00Z")
        );
        assert!(parse_timeout("0s").is_err() && parse_timeout("2h").is_err());
    }

    #[test]
    fn types_are_accepted_in_any_spelling() {
        for text in [
            "TRAFFIC",
            "traffic",
            "room-occupancy-1min",
            "ROOM_OCCUPANCY_1M",
        ] {
            assert!(parse_event_type(text).is_ok(), "{text}");
        }
        let error = parse_event_type("weather").unwrap_err();
        assert!(error.contains("PIR_NO_MOTION"), "{error}");
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_positive("2.5"), Ok(2.5));
        for text in ["0", "-1", "NaN", "inf", "fast"] {
            assert!(parse_positive(text).is_err(), "{text}");
        }
    }
}
