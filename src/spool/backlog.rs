//! What requests, the writer and the drain share about one destination, and what decides the route of its events.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Which way an event is to go.
#[derive(Debug)]
pub enum Route {
    /// To librdkafka.
    Direct,
    /// To disk.
    Spool,
    /// Neither yet: what waits is just being handed over. When the passage is ready the route may be asked for again.
    Wait(BacklogCleared),
}

/// Ready when the route may be asked for again.
///
/// It ends when the destination's backlog was handed over, or when that comes to a halt; both can take as long as Kafka
/// likes, so whoever waits bounds the wait and keeps the event then.
#[derive(Debug)]
pub struct BacklogCleared(Pin<Box<OwnedNotified>>);

impl Future for BacklogCleared {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// One destination.
#[derive(Debug)]
pub(super) struct DestinationBacklog {
    /// Entries not handed to librdkafka, or to be handed to it again: in the writer's queue, on disk, and in doubt.
    backlog: AtomicU64,
    /// How many of these were ever on disk: found at the start, or published by the writer. Never decreases.
    committed: AtomicU64,
    /// How many entries would be handed over within some milliseconds; 0 while it is at a halt.
    wait_threshold: AtomicU64,
    /// An entry that Kafka refused is tried with nothing beside it.
    is_exclusive: AtomicBool,
    /// Those found at the start were not looked for yet.
    is_search_pending: AtomicBool,
    changed: Arc<Notify>,
}

impl DestinationBacklog {
    /// With so many entries of before.
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

    /// What comes after seeing 0 here comes after all that was handed over (a plain load on common processors).
    pub fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Acquire)
    }

    /// More wait: to be written, or to be handed over again.
    pub fn add(&self, entries: u64) {
        self.backlog.fetch_add(entries, Ordering::Release);
    }

    /// Fewer wait: handed over, or gone another way. The last one opens the way for those who wait.
    pub fn remove(&self, entries: u64) {
        if entries > 0 && self.backlog.fetch_sub(entries, Ordering::AcqRel) == entries {
            self.changed.notify_waiters();
        }
    }

    /// So many more are on disk, and may be handed over.
    pub fn add_committed(&self, entries: u64) {
        self.committed.fetch_add(entries, Ordering::Release);
    }

    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    pub fn wait_threshold(&self) -> u64 {
        self.wait_threshold.load(Ordering::Acquire)
    }

    /// The drain's word on how it goes; 0: nothing is handed over for now, and nobody is to wait for that.
    pub fn set_wait_threshold(&self, within_reach: u64) {
        if self.wait_threshold.swap(within_reach, Ordering::AcqRel) > 0 && within_reach == 0 {
            self.changed.notify_waiters();
        }
    }

    pub fn is_exclusive(&self) -> bool {
        self.is_exclusive.load(Ordering::Acquire)
    }

    pub fn set_exclusive(&self, alone: bool) {
        if self.is_exclusive.swap(alone, Ordering::AcqRel) && !alone {
            self.changed.notify_waiters();
        }
    }

    pub fn is_search_pending(&self) -> bool {
        self.is_search_pending.load(Ordering::Relaxed)
    }

    pub fn finish_search(&self) {
        self.is_search_pending.store(false, Ordering::Relaxed);
    }

    /// Nothing will be handed over any more.
    pub fn stop(&self) {
        self.set_wait_threshold(0);
        self.set_exclusive(false);
        self.changed.notify_waiters();
    }

    /// Hears of every change from now on, also before it is first polled.
    pub fn subscribe(&self) -> BacklogCleared {
        BacklogCleared(Box::pin(Arc::clone(&self.changed).notified_owned()))
    }
}
