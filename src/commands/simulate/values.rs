//! Values of arguments: what is allowed is said where it is not kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::TypedValueParser;

use butlr_event::EventType;
use butlr_simulate::stream::OutageSettings;

/// Outages now and then, or never.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutageFrequency {
    Never,
    Every(OutageSettings),
}

/// A share of all, 0 to 1: `0.5%` or `0.005`.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let (number, of) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let share = number.parse::<f64>().ok().map(|number| number / of);
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "write a share of all as 0.5% or 0.005; allowed are 0% to 100%".to_owned())
}

/// A number above 0.
pub fn parse_positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    number
        .filter(|number| number.is_finite() && (0.001..=1e9).contains(number))
        .ok_or_else(|| "allowed are numbers from 0.001 to 1000000000".to_owned())
}

/// A count from 1 to `most`.
pub fn count_parser(most: u64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64)
        .range(1..=most)
        .map(|count| count as usize)
}

/// A duration of at least a millisecond.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    match duration >= Duration::from_millis(1) && duration <= Duration::from_secs(3600) {
        true => Ok(duration),
        false => Err("allowed are 1ms to 1h".to_owned()),
    }
}

/// How long a run may take.
pub fn parse_run_time(text: &str) -> Result<Duration, String> {
    const YEAR: Duration = Duration::from_secs(366 * 86_400);
    let duration = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    match duration >= Duration::from_millis(1) && duration <= YEAR {
        true => Ok(duration),
        false => Err("allowed are 1ms to 1 year".to_owned()),
    }
}

/// The first second that a KSUID can have: ids tell when they were made.
pub const KSUID_EPOCH: Duration = Duration::from_secs(1_400_000_000);

/// How often and, if told, how long: `1h`, `1h/20m`, or `never`.
pub fn parse_outages(text: &str) -> Result<OutageFrequency, String> {
    if text == "never" {
        return Ok(OutageFrequency::Never);
    }
    let parse = |text: &str| {
        humantime::parse_duration(text.trim())
            .map_err(|e| format!("{e}; write it as 1h or 1h/20m, or never"))
    };
    let usual = OutageSettings::default().length;
    let (every, length) = match text.split_once('/') {
        Some((every, length)) => (parse(every)?, parse(length)?),
        None => (parse(text)?, usual),
    };
    if every < Duration::from_secs(60) {
        return Err("allowed are 1min and more, or never".to_owned());
    }
    // While they last, what piles up is kept in memory.
    if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&length) {
        return Err("they may last from 1s to 1day".to_owned());
    }
    Ok(OutageFrequency::Every(OutageSettings { every, length }))
}

/// A moment that is over, in RFC 3339.
pub fn parse_past_time(text: &str) -> Result<SystemTime, String> {
    let moment = humantime::parse_rfc3339(text)
        .map_err(|e| format!("{e}; write it in UTC as 2026-05-04T08:00:00Z"))?;
    if moment > SystemTime::now() {
        return Err("it lies in the future, and no event may".to_owned());
    }
    // Clocks that are off may be so by hours.
    if moment < UNIX_EPOCH + KSUID_EPOCH + Duration::from_secs(86_400) {
        return Err("allowed are moments after 2014-05-14, when ids begin".to_owned());
    }
    Ok(moment)
}

/// One of the ten types.
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
    fn outages_and_moments() {
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
            let problem = parse_outages(text).unwrap_err();
            assert!(problem.contains("never"), "{text}: {problem}");
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
    fn types_in_any_spelling() {
        for text in [
            "TRAFFIC",
            "traffic",
            "room-occupancy-1min",
            "ROOM_OCCUPANCY_1M",
        ] {
            assert!(parse_event_type(text).is_ok(), "{text}");
        }
        let problem = parse_event_type("weather").unwrap_err();
        assert!(problem.contains("PIR_NO_MOTION"), "{problem}");
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_positive("2.5"), Ok(2.5));
        for text in ["0", "-1", "NaN", "inf", "fast"] {
            assert!(parse_positive(text).is_err(), "{text}");
        }
    }
}
