//! What the log tells of draining: now and then, not of each entry.

use std::time::{Duration, Instant};

use crate::spool::SpoolShared;
use butlr_event::destination::Destination;

const LOG_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct DrainProgress {
    /// When it was last told, and how many were drained until then.
    last_logged: Option<(Instant, u64)>,
    /// Since when there is something, and how many were drained before.
    started: Option<(Instant, u64)>,
}

impl DrainProgress {
    pub fn log(&mut self, shared: &SpoolShared, now: Instant) {
        let present = shared.present();
        let drained = shared.counts.drained.get();
        let Some((began, before)) = self.started else {
            if present > 0 {
                self.started = Some((now, drained));
                self.last_logged = Some((now, drained));
            }
            return;
        };
        if present == 0 {
            tracing::info!(
                drained = drained - before,
                after = ?now.duration_since(began),
                "the spool is empty"
            );
            *self = Self::default();
            return;
        }
        let (at, until) = self.last_logged.unwrap_or((now, drained));
        let since = now.duration_since(at);
        if since < LOG_INTERVAL {
            return;
        }
        let left: Vec<_> = Destination::all()
            .into_iter()
            .map(|to| (to.name(), shared.store.present(to)))
            .filter(|(_, present)| *present > 0)
            .collect();
        let per_second = (drained - until) as f64 / since.as_secs_f64();
        tracing::info!(
            present,
            ?left,
            per_second = per_second.round(),
            "draining the spool"
        );
        self.last_logged = Some((now, drained));
    }
}
