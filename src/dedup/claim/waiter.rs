//! Undecided keys, and the requests that wait for them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use hashbrown::HashTable;

use crate::dedup::window::WindowKey;

/// Wait for an undecided key. It is ready once the key is decided, either way; then claim again.
/// May be dropped at any time.
///
/// It is registered while the table of undecided keys is locked, so no later decision is missed.
#[derive(Debug)]
#[must_use = "await it, then claim again"]
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
        // It may have been opened between the check and the registration.
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

/// Waiters for one key, in order of arrival.
#[derive(Debug, Default)]
#[must_use = "the waiters sleep until they are woken"]
pub(in crate::dedup) struct WaiterList(Vec<Arc<WaiterGate>>);

impl WaiterList {
    /// Wakes all waiters. Hold no lock when calling it: they may run at once.
    pub fn wake_all(self) {
        for gate in self.0 {
            gate.is_open.store(true, Ordering::Release);
            gate.waker.wake();
        }
    }
}

/// Undecided keys, each with its waiters.
#[derive(Debug)]
pub(in crate::dedup) struct UndecidedKeys<K>(HashTable<(K, WaiterList)>);

impl<K> Default for UndecidedKeys<K> {
    fn default() -> Self {
        Self(HashTable::new())
    }
}

impl<K: WindowKey> UndecidedKeys<K> {
    /// Queues a waiter for `key`; `None` if the key is not undecided.
    pub fn enqueue_waiter(&mut self, key: K) -> Option<ClaimWaiter> {
        let (_, waiting) = self.0.find_mut(key.into(), |(k, _)| *k == key)?;
        let gates = &mut waiting.0;
        if gates.len() == gates.capacity() {
            // Drop abandoned waiters before the queue grows.
            gates.retain(|gate| Arc::strong_count(gate) > 1);
        }
        let gate = Arc::new(WaiterGate::default());
        gates.push(Arc::clone(&gate));
        Some(ClaimWaiter(gate))
    }

    /// Marks `key` as undecided. It must not be so already.
    pub fn insert(&mut self, key: K) {
        let entry = (key, WaiterList::default());
        self.0
            .insert_unique(key.into(), entry, |(k, _)| (*k).into());
    }

    /// Marks `key` as decided and returns its waiters.
    pub fn remove(&mut self, key: K) -> WaiterList {
        let found = self.0.find_entry(key.into(), |(k, _)| *k == key);
        debug_assert!(found.is_ok(), "the key was decided twice");
        found.map_or_else(|_| WaiterList::default(), |slot| slot.remove().0.1)
    }

    /// The number of undecided keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
