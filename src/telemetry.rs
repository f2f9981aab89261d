//! Logging: structured, to standard error, throttled where bad input could flood it.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};
use crate::sync::lock;

/// Starts logging to standard error. Later calls in the same process have no effect.
pub fn init(log: &LogConfig) {
    let level = log.level;
    // Below warnings, the HTTP server's own lines are of no use to an operator.
    let filter = Targets::new()
        .with_default(level)
        .with_target("actix_server", level.min(Level::WARN))
        .with_target("rustls", level.min(Level::WARN));
    let registry = tracing_subscriber::registry().with(filter);
    let result = match log.format {
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    drop(result);
}

/// Allows one log line a second for each of a few fixed keys and counts the suppressed ones.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<HashMap<&'static str, (Option<Instant>, u64)>>);

impl LogThrottle {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// Returns the number of lines suppressed since the last one if a line may be written now.
    pub fn allow(&self, key: &'static str) -> Option<u64> {
        let mut keys = lock(&self.0);
        let (last, suppressed) = keys.entry(key).or_default();
        if last.is_some_and(|at| at.elapsed() < Self::INTERVAL) {
            *suppressed += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_reduced_to_one_line_a_second_with_a_count() {
        let throttle = LogThrottle::default();
        assert_eq!(throttle.allow("a"), Some(0));
        assert_eq!(throttle.allow("a"), None);
        assert_eq!(throttle.allow("a"), None);
        assert_eq!(throttle.allow("b"), Some(0));
        let mut keys = throttle.0.lock().unwrap();
        keys.get_mut("a").unwrap().0 = Some(Instant::now() - LogThrottle::INTERVAL);
        drop(keys);
        assert_eq!(throttle.allow("a"), Some(2));
    }
}
