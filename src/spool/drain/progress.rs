//! Log lines about the drain's progress, at intervals instead of for each entry.

use std::time::{Duration, Instant};

use crate::spool::SpoolShared;
use butlr_event::destination::Destination;

const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Drained entries at a point in time.
#[derive(Clone, Copy)]
struct DrainSample {
    at: Instant,
    drained: u64,
}

/// `None` while the spool is empty.
#[derive(Default)]
pub(super) struct DrainProgress(Option<DrainPeriod>);

struct DrainPeriod {
    started: DrainSample,
    last_logged: DrainSample,
}

impl DrainProgress {
    pub fn log(&mut self, shared: &SpoolShared, now: Instant) {
        let present = shared.present();
        let sample = DrainSample {
            at: now,
            drained: shared.counts.drained.get(),
        };
        let Some(period) = &mut self.0 else {
            self.0 = (present > 0).then_some(DrainPeriod {
                started: sample,
                last_logged: sample,
            });
            return;
        };
        if present == 0 {
            tracing::info!(
                drained = sample.drained - period.started.drained,
                after = ?now.duration_since(period.started.at),
                "the spool is empty"
            );
            self.0 = None;
            return;
        }
        let since = now.duration_since(period.last_logged.at);
        if since < LOG_INTERVAL {
            return;
        }
        let left: Vec<_> = Destination::all()
            .into_iter()
            .map(|to| (to.name(), shared.store.present(to)))
            .filter(|(_, present)| *present > 0)
            .collect();
        let drained = sample.drained - period.last_logged.drained;
        let per_second = drained as f64 / since.as_secs_f64();
        tracing::info!(
            present,
            ?left,
            per_second = per_second.round(),
            "draining the spool"
        );
        period.last_logged = sample;
    }
}
