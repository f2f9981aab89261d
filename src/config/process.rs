//! `[log]` and `[shutdown]`: log output, and timing of the shutdown.

use super::reader::SectionReader;
use super::units::format_duration;
use std::time::Duration;
use tracing::Level;

/// The log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Format of a line.
    pub format: LogFormat,
    /// Lowest level that is logged.
    pub level: Level,
}

/// Format of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Timing of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// Time for which `/readyz` returns 503 before the listener closes, so that load balancers
    /// notice.
    pub drain_delay: Duration,
    /// Maximum time for the whole shutdown, `drain_delay` included.
    pub timeout: Duration,
}

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
        format: section.choice("format", &formats),
        level: section.choice("level", &LEVELS),
    }
}

pub(super) fn read_shutdown(section: &SectionReader<'_>) -> ShutdownConfig {
    ShutdownConfig {
        drain_delay: section.duration("drain_delay"),
        timeout: section.duration("timeout"),
    }
}

/// Checks the rule between the keys of `[shutdown]`.
pub(super) fn check(shutdown: &ShutdownConfig, root: &SectionReader<'_>) {
    root.check_rule(&["shutdown.drain_delay", "shutdown.timeout"], || {
        let ShutdownConfig {
            drain_delay,
            timeout,
        } = *shutdown;
        let [delay, limit] = [drain_delay, timeout].map(format_duration);
        (drain_delay >= timeout).then(|| {
            format!(
                "{delay} leaves no time of shutdown.timeout ({limit}) for events in flight; \
                 make it shorter than that"
            )
        })
    });
}
