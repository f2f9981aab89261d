//! What is undecided, and those who wait for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use hashbrown::HashTable;

/// The wait for what is undecided: ready when that is decided, one way or the other; then claim again. Dropping it is fine
/// at any time.
///
/// It was registered while the table of what is undecided was locked, so what is decided from then on wakes it.
#[derive(Debug)]
#[must_use = "it is to be awaited, then to claim again"]
pub struct ClaimWaiter(Arc<WaiterGate>);

#[derive(Debug, Default)]
struct WaiterGate {
    is_open: AtomicBool,
    waker: AtomicWaker,
}

impl Future for ClaimWaiter {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let is_open = || self.0.is_open.load(Ordering::Acquire);
        if is_open() {
            return Poll::Ready(());
        }
        self.0.waker.register(cx.waker());
        // It may have been opened between the look and the registration.
        if is_open() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for ClaimWaiter {
    fn drop(&mut self) {
        // The gate may stay in its queue for a while; the task need not stay with it.
        self.0.waker.take();
    }
}

/// Those whose turn it is, in the order in which they came.
#[derive(Debug, Default)]
#[must_use = "they wait until they are woken"]
pub(in crate::dedup) struct WaiterList(Vec<Arc<WaiterGate>>);

impl WaiterList {
    /// To be called when nothing is locked: the woken may run at once.
    pub fn wake_all(self) {
        for gate in self.0 {
            gate.is_open.store(true, Ordering::Release);
            gate.waker.wake();
        }
    }
}

/// The keys that are undecided.
#[derive(Debug, Default)]
pub(in crate::dedup) struct UndecidedKeys(HashTable<(u64, WaiterList)>);

impl UndecidedKeys {
    /// A place in the queue for `key`, if it is undecided.
    pub fn enqueue_waiter(&mut self, key: u64) -> Option<ClaimWaiter> {
        let (_, waiting) = self.0.find_mut(key, |(k, _)| *k == key)?;
        let gates = &mut waiting.0;
        if gates.len() == gates.capacity() {
            // Those that were given up go before the queue grows.
            gates.retain(|gate| Arc::strong_count(gate) > 1);
        }
        let gate = Arc::new(WaiterGate::default());
        gates.push(Arc::clone(&gate));
        Some(ClaimWaiter(gate))
    }

    /// `key` is undecided from here on. It must not have been.
    pub fn insert(&mut self, key: u64) {
        let entry = (key, WaiterList::default());
        self.0.insert_unique(key, entry, |(k, _)| *k);
    }

    /// `key` is decided.
    pub fn remove(&mut self, key: u64) -> WaiterList {
        let found = self.0.find_entry(key, |(k, _)| *k == key);
        debug_assert!(found.is_ok(), "decided twice");
        found.map_or_else(|_| WaiterList::default(), |slot| slot.remove().0.1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
