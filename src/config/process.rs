//! `[log]` and `[shutdown]`: how the process tells what it does, and how it ends.

use super::reader::SectionReader;
use super::units::format_duration;
use std::ops::RangeInclusive;
use std::time::Duration;
use tracing::Level;

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// For whom. Default text.
    pub format: LogFormat,
    /// From which level on. Default info.
    pub level: Level,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// How long `/readyz` says 503 before the listener closes, so that load balancers have time to notice. Default 0 s.
    pub drain_delay: Duration,
    /// Bound of the whole shutdown, `drain_delay` included. Default 10 s.
    pub timeout: Duration,
}

const HAS_DEFAULT: &str = "the table of keys has a default for it";
const DRAIN_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

pub(super) fn read_log(section: &SectionReader<'_>) -> LogConfig {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogConfig {
        format: section.choice("format", &formats).expect(HAS_DEFAULT),
        level: section.choice("level", &LEVELS).expect(HAS_DEFAULT),
    }
}

pub(super) fn read_shutdown(section: &SectionReader<'_>) -> ShutdownConfig {
    ShutdownConfig {
        drain_delay: section
            .duration("drain_delay", DRAIN_DELAY)
            .expect(HAS_DEFAULT),
        timeout: section.duration("timeout", TIMEOUT).expect(HAS_DEFAULT),
    }
}

/// The rules between the keys of these sections.
pub(super) fn check(shutdown: &ShutdownConfig, root: &SectionReader<'_>) {
    if root.is_valid(&["shutdown"]) && shutdown.drain_delay >= shutdown.timeout {
        let [delay, timeout] = [shutdown.drain_delay, shutdown.timeout].map(format_duration);
        root.section("shutdown").report_error(
            "drain_delay",
            format!(
                "{delay} leaves nothing of shutdown.timeout ({timeout}) for what is still in \
                 flight; allowed: less than that"
            ),
        );
    }
}
