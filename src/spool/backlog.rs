//! The backlog of a destination: its entries that still have to be sent, counted for requests, the
//! writer and the drain. The count decides the route of a new event.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Route of a new event.
#[derive(Debug)]
pub enum Route {
    /// To librdkafka.
    Direct,
    /// To disk.
    Spool,
    /// Undecided: the backlog is about to be sent. Ask for the route again when the future is
    /// ready.
    Wait(BacklogCleared),
}

/// Ready when the route can be asked for again: the backlog was sent, or the drain has stopped.
///
/// Neither is certain while Kafka is unavailable, so limit the wait and spool the event when it is
/// over.
#[derive(Debug)]
pub struct BacklogCleared(Pin<Box<OwnedNotified>>);

impl Future for BacklogCleared {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

#[derive(Debug)]
pub(super) struct DestinationBacklog {
    /// Entries to be sent, or to be sent again: in the writer's queue, on disk, and in doubt.
    backlog: AtomicU64,
    /// Entries ever on disk: recovered, or committed by the writer. Never decreases.
    committed: AtomicU64,
    /// Largest backlog that is sent within milliseconds; 0 while nothing is sent.
    wait_threshold: AtomicU64,
    /// An entry that Kafka refused is being sent again, with no other record in flight.
    is_exclusive: AtomicBool,
    /// The topic still has to be searched for recovered entries.
    is_search_pending: AtomicBool,
    changed: Arc<Notify>,
}

impl DestinationBacklog {
    pub fn new(recovered: u64) -> Self {
        Self {
            backlog: AtomicU64::new(recovered),
            committed: AtomicU64::new(recovered),
            wait_threshold: AtomicU64::new(0),
            is_exclusive: AtomicBool::new(false),
            is_search_pending: AtomicBool::new(recovered > 0),
            changed: Arc::default(),
        }
    }

    /// Number of entries to be sent. A record sent after reading 0 here follows all sent entries
    /// (a plain load on common processors).
    pub fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Acquire)
    }

    /// Adds entries that have to be written and sent, or sent again.
    pub fn add(&self, entries: u64) {
        self.backlog.fetch_add(entries, Ordering::Release);
    }

    /// Removes entries that were sent or need not be. The last one wakes all who wait.
    pub fn remove(&self, entries: u64) {
        if entries > 0 && self.backlog.fetch_sub(entries, Ordering::AcqRel) == entries {
            self.changed.notify_waiters();
        }
    }

    /// Counts entries that are on disk and may be sent.
    pub fn add_committed(&self, entries: u64) {
        self.committed.fetch_add(entries, Ordering::Release);
    }

    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    pub fn wait_threshold(&self) -> u64 {
        self.wait_threshold.load(Ordering::Acquire)
    }

    /// Sets the largest backlog that is worth waiting for. 0 wakes all who wait.
    pub fn set_wait_threshold(&self, threshold: u64) {
        if self.wait_threshold.swap(threshold, Ordering::AcqRel) > 0 && threshold == 0 {
            self.changed.notify_waiters();
        }
    }

    pub fn is_exclusive(&self) -> bool {
        self.is_exclusive.load(Ordering::Acquire)
    }

    /// A swap, because the caller then reads the records in flight: a plain store could be
    /// reordered after that.
    pub fn begin_exclusive(&self) {
        self.is_exclusive.swap(true, Ordering::AcqRel);
    }

    pub fn end_exclusive(&self) {
        if self.is_exclusive.swap(false, Ordering::AcqRel) {
            self.changed.notify_waiters();
        }
    }

    pub fn is_search_pending(&self) -> bool {
        self.is_search_pending.load(Ordering::Relaxed)
    }

    pub fn finish_search(&self) {
        self.is_search_pending.store(false, Ordering::Relaxed);
    }

    /// Records that nothing will be sent any more.
    pub fn stop(&self) {
        self.set_wait_threshold(0);
        self.end_exclusive();
        self.changed.notify_waiters();
    }

    /// Sees every change from now on, also before it is first polled.
    pub fn subscribe(&self) -> BacklogCleared {
        BacklogCleared(Box::pin(Arc::clone(&self.changed).notified_owned()))
    }
}
