//! What the log tells of draining: now and then, not of each entry.

use std::time::{Duration, Instant};

use crate::spool::Shared;
use butlr_event::destination::Destination;

const TELL: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Progress {
    /// When it was last told, and how many were drained until then.
    told: Option<(Instant, u64)>,
    /// Since when there is something, and how many were drained before.
    began: Option<(Instant, u64)>,
}

impl Progress {
    pub fn tell(&mut self, shared: &Shared, now: Instant) {
        let present = shared.present();
        let drained = shared.counts.drained.get();
        let Some((began, before)) = self.began else {
            if present > 0 {
                self.began = Some((now, drained));
                self.told = Some((now, drained));
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
        let (at, until) = self.told.unwrap_or((now, drained));
        let since = now.duration_since(at);
        if since < TELL {
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
        self.told = Some((now, drained));
    }
}
