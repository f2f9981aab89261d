//! What a claim holds in Redis, and the line to the thread that talks to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use redis::{Cmd, Value};
use tokio::sync::{mpsc, oneshot};

use super::circuit::CircuitBreaker;
use super::protocol::{
    ClaimChange, ClaimEnd, ClaimEndState, ClaimSubject, ClaimToken, DrainedClaim, RedisProtocol,
};

/// What the thread is to do.
#[derive(Debug)]
pub enum RedisMessage {
    /// Ask, and hand on the answer; none is handed on when there is none.
    Query(Cmd, oneshot::Sender<Value>),
    /// Say that something is stored, or may be.
    End(Box<ClaimEnd>),
    /// Say that what was on disk is in Kafka.
    Drained(Box<DrainedClaim>),
    /// Give back what a claim holds: it is not stored.
    Release(ClaimSubject),
    /// Keep what a claim holds; whether it is that of a conflict.
    Renew(ClaimSubject, bool),
    /// Keep the epoch.
    KeepEpoch,
}

/// What all claims of this process share.
#[derive(Debug)]
pub struct RedisContext {
    /// What is agreed between replicas.
    pub protocol: RedisProtocol,
    /// Whether Redis is asked.
    pub circuit_breaker: CircuitBreaker,
    /// What had to be done without Redis.
    pub errors: IntCounter,
    /// Tells this process from others.
    owner_id: u64,
    next_number: AtomicU64,
    open_leases: Mutex<HashMap<ClaimToken, OpenLease>>,
    /// Whether there is something stored that Redis will never know of.
    is_epoch_outdated: AtomicBool,
}

#[derive(Debug)]
struct OpenLease {
    subject: ClaimSubject,
    conflict: bool,
    renewed_at: Instant,
}

impl RedisContext {
    /// Nothing is claimed yet. `owner`: a number that no other process has.
    pub fn new(terms: RedisProtocol, owner: u64, errors: IntCounter) -> Self {
        Self {
            protocol: terms,
            circuit_breaker: CircuitBreaker::new(),
            errors,
            owner_id: owner,
            next_number: AtomicU64::new(0),
            open_leases: Mutex::default(),
            is_epoch_outdated: AtomicBool::new(false),
        }
    }

    /// 16 bytes that nobody had before.
    pub fn next_token(&self) -> ClaimToken {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.owner_id.to_le_bytes());
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        token[8..].copy_from_slice(&number.to_le_bytes());
        token
    }

    /// Begins an epoch: no current value that is in Redis now is relied on any more.
    pub fn begin_epoch(&self) -> Cmd {
        self.is_epoch_outdated.store(false, Ordering::Relaxed);
        self.protocol.begin_epoch(&self.next_token())
    }

    /// Redis will not know of `ending`.
    pub fn note_lost_end(&self, ending: &ClaimEnd) {
        if ending.is_granted {
            self.errors.inc();
        }
        if ending.change.current.is_some() {
            self.set_epoch_outdated();
        }
    }

    /// Redis will not know of `drained`: it may lie behind a current value.
    pub fn note_lost_drain(&self, drained: &DrainedClaim) {
        if drained.can_affect_current() {
            self.set_epoch_outdated();
        }
    }

    /// Current values in Redis are not to be relied on: a new epoch has to begin.
    pub fn set_epoch_outdated(&self) {
        self.is_epoch_outdated.store(true, Ordering::Relaxed);
    }

    /// Whether something was forgotten since [`Line::new_epoch`].
    pub fn is_epoch_outdated(&self) -> bool {
        self.is_epoch_outdated.load(Ordering::Relaxed)
    }

    /// As if the process had died: nothing is renewed any more.
    #[cfg(test)]
    pub fn stop_renewals(&self) {
        self.lock_open_leases().clear();
    }

    fn lock_open_leases(&self) -> MutexGuard<'_, HashMap<ClaimToken, OpenLease>> {
        // A panic while this short lock is held leaves nothing half-done behind.
        self.open_leases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps the claims that were not renewed for `age`. Commands are made of it later: delivery reports wait for this
    /// lock.
    pub fn take_due_renewals(&self, age: Duration, now: Instant) -> Vec<RedisMessage> {
        let mut open = self.lock_open_leases();
        let due = open
            .values_mut()
            .filter(|open| now.saturating_duration_since(open.renewed_at) >= age);
        due.map(|open| {
            open.renewed_at = now;
            RedisMessage::Renew(open.subject, open.conflict)
        })
        .collect()
    }
}

/// What a claim holds in Redis. Dropped, it says that the event is certainly not stored. Nothing here ever waits.
#[derive(Debug)]
#[must_use = "dropped, it is released"]
pub struct Lease {
    context: Arc<RedisContext>,
    outbox: mpsc::Sender<RedisMessage>,
    subject: ClaimSubject,
    state: LeaseState,
}

#[derive(Debug)]
enum LeaseState {
    /// Redis was not asked.
    Idle,
    /// It was asked, and may have granted the claim.
    Requested,
    /// The event is on its way to Kafka.
    Open { granted: bool, change: ClaimChange },
    /// Nothing is held.
    Finished,
}

impl Lease {
    pub(super) fn new(
        line: Arc<RedisContext>,
        outbox: mpsc::Sender<RedisMessage>,
        subject: ClaimSubject,
    ) -> Self {
        Self {
            context: line,
            outbox,
            subject,
            state: LeaseState::Idle,
        }
    }

    /// From now on something may be held.
    pub(super) fn mark_requested(&mut self) {
        self.state = LeaseState::Requested;
    }

    /// Nothing is held, as Redis itself says.
    pub(super) fn mark_refused(&mut self) {
        self.state = LeaseState::Finished;
    }

    /// The event is published; `granted`: as Redis says.
    pub(super) fn open(mut self, granted: bool, change: ClaimChange) -> Self {
        let open = OpenLease {
            subject: self.subject,
            conflict: change.is_conflict,
            renewed_at: Instant::now(),
        };
        self.context
            .lock_open_leases()
            .insert(self.subject.token, open);
        self.state = LeaseState::Open { granted, change };
        self
    }

    /// What was claimed is stored; `spooled`: on disk.
    pub fn commit(self, spooled: bool) {
        let state = if spooled {
            ClaimEndState::Spooled
        } else {
            ClaimEndState::Published
        };
        self.finish(state);
    }

    /// Whether what was claimed is stored is not known: others may claim it, and the value that it may have replaced is not
    /// relied on any more.
    pub fn release_in_doubt(self) {
        if matches!(&self.state, LeaseState::Open { change, .. } if change.current.is_some()) {
            self.finish(ClaimEndState::Unknown);
        }
        // Else there is nothing that it may have replaced.
    }

    fn finish(mut self, stored: ClaimEndState) {
        let LeaseState::Open { granted, change } =
            std::mem::replace(&mut self.state, LeaseState::Finished)
        else {
            return;
        };
        self.context.lock_open_leases().remove(&self.subject.token);
        let ending = ClaimEnd {
            subject: self.subject,
            change,
            state: stored,
            ended_at: Instant::now(),
            is_granted: granted,
            is_resent: false,
        };
        let message = RedisMessage::End(Box::new(ending));
        if let Err(error) = self.outbox.try_send(message)
            && let RedisMessage::End(ending) = error.into_inner()
        {
            self.context.note_lost_end(&ending);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.state {
            LeaseState::Idle | LeaseState::Finished => return,
            LeaseState::Requested => {}
            LeaseState::Open { .. } => {
                self.context.lock_open_leases().remove(&self.subject.token);
            }
        }
        // With a full queue it ends by itself, a lease's time from now.
        let _ = self.outbox.try_send(RedisMessage::Release(self.subject));
    }
}
