//! Leases: the part of a claim that is held in Redis, and the context that all claims share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use redis::{Cmd, Value};
use tokio::sync::{mpsc, oneshot};

use super::circuit::CircuitBreaker;
use super::protocol::{
    ClaimChange, ClaimEnd, ClaimEndState, ClaimGrant, ClaimSubject, ClaimToken, DrainedClaim,
    RedisProtocol,
};
use crate::dedup::StorageLocation;

/// Message to the worker thread.
#[derive(Debug)]
pub enum RedisMessage {
    /// Send a command and pass on the answer; the sender is dropped if there is none.
    Query(Cmd, oneshot::Sender<Value>),
    /// Report that an event is stored, or may be.
    End(Box<ClaimEnd>),
    /// Report that a spooled event is in Kafka.
    Drained(Box<DrainedClaim>),
    /// Release a claim whose event is not stored.
    Release(ClaimSubject),
    /// Renew the lease of an open claim.
    Renew(LeaseRenewal),
    /// Keep the epoch.
    KeepEpoch,
}

/// Renewal of an open claim's lease.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRenewal {
    /// The claim.
    pub subject: ClaimSubject,
    /// The claim is on the id of a conflict.
    pub is_conflict: bool,
}

/// State that all claims of this process share.
#[derive(Debug)]
pub struct RedisContext {
    /// Keys and commands.
    pub protocol: RedisProtocol,
    /// Decides whether Redis is asked.
    pub circuit_breaker: CircuitBreaker,
    /// Events decided without Redis, and lost commits.
    pub errors: IntCounter,
    /// Identifies this process.
    owner_id: u64,
    next_number: AtomicU64,
    open_leases: Mutex<HashMap<ClaimToken, OpenLease>>,
    /// A stored event could not be reported to Redis, so a new epoch must begin.
    is_epoch_outdated: AtomicBool,
}

#[derive(Debug)]
struct OpenLease {
    renewal: LeaseRenewal,
    renewed_at: Instant,
}

impl RedisContext {
    /// Creates a context without claims. `owner_id` must differ between processes.
    pub fn new(protocol: RedisProtocol, owner_id: u64, errors: IntCounter) -> Self {
        Self {
            protocol,
            circuit_breaker: CircuitBreaker::new(),
            errors,
            owner_id,
            next_number: AtomicU64::new(0),
            open_leases: Mutex::default(),
            is_epoch_outdated: AtomicBool::new(false),
        }
    }

    /// Returns a token that was never used before.
    pub fn next_token(&self) -> ClaimToken {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.owner_id.to_le_bytes());
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        token[8..].copy_from_slice(&number.to_le_bytes());
        token
    }

    /// Begins an epoch: no current value now in Redis is trusted any more.
    pub fn begin_epoch(&self) -> Cmd {
        self.is_epoch_outdated.store(false, Ordering::Relaxed);
        self.protocol.begin_epoch(&self.next_token())
    }

    /// Queues a message; if the queue is full, notes what Redis will not know.
    pub fn send_or_note_loss(&self, outbox: &mpsc::Sender<RedisMessage>, message: RedisMessage) {
        if let Err(error) = outbox.try_send(message) {
            match error.into_inner() {
                RedisMessage::End(end) => self.note_lost_end(&end),
                RedisMessage::Drained(drained) => self.note_lost_drain(&drained),
                _ => {}
            }
        }
    }

    /// Notes that Redis will not know of `end`.
    pub fn note_lost_end(&self, end: &ClaimEnd) {
        if end.grant == ClaimGrant::Granted {
            self.errors.inc();
        }
        if end.change.current.is_some() {
            self.set_epoch_outdated();
        }
    }

    /// Notes that Redis will not know of `drained`, which may lie behind a current value.
    pub fn note_lost_drain(&self, drained: &DrainedClaim) {
        if drained.can_affect_current() {
            self.set_epoch_outdated();
        }
    }

    /// Requests a new epoch, because current values in Redis are not to be trusted.
    pub fn set_epoch_outdated(&self) {
        self.is_epoch_outdated.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if a new epoch was requested since [`begin_epoch`](Self::begin_epoch).
    pub fn is_epoch_outdated(&self) -> bool {
        self.is_epoch_outdated.load(Ordering::Relaxed)
    }

    /// Stops all renewals, as if the process had died.
    #[cfg(test)]
    pub fn stop_renewals(&self) {
        self.lock_open_leases().clear();
    }

    fn lock_open_leases(&self) -> MutexGuard<'_, HashMap<ClaimToken, OpenLease>> {
        // A panic under this short lock leaves nothing half-done.
        self.open_leases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns renewals for the leases that were not renewed for `age`. The commands are built
    /// later, because delivery reports wait for this lock.
    pub fn take_due_renewals(&self, age: Duration, now: Instant) -> Vec<RedisMessage> {
        let mut leases = self.lock_open_leases();
        let due = leases
            .values_mut()
            .filter(|lease| now.saturating_duration_since(lease.renewed_at) >= age);
        due.map(|lease| {
            lease.renewed_at = now;
            RedisMessage::Renew(lease.renewal)
        })
        .collect()
    }
}

/// A claim's hold in Redis. Dropping it states that the event is certainly not stored. Nothing here
/// blocks.
#[derive(Debug)]
#[must_use = "dropping it releases the lease"]
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
    /// Redis was asked, and may have granted the claim.
    Requested,
    /// The event is being published.
    Open {
        grant: ClaimGrant,
        change: ClaimChange,
    },
    /// Nothing is held.
    Finished,
}

impl Lease {
    pub(super) fn new(
        context: Arc<RedisContext>,
        outbox: mpsc::Sender<RedisMessage>,
        subject: ClaimSubject,
    ) -> Self {
        Self {
            context,
            outbox,
            subject,
            state: LeaseState::Idle,
        }
    }

    /// Records that Redis was asked, so it may hold something from now on.
    pub(super) fn mark_requested(&mut self) {
        self.state = LeaseState::Requested;
    }

    /// Records Redis' answer that it holds nothing.
    pub(super) fn mark_refused(&mut self) {
        self.state = LeaseState::Finished;
    }

    /// Opens the lease for publishing the event.
    pub(super) fn open(mut self, grant: ClaimGrant, change: ClaimChange) -> Self {
        let lease = OpenLease {
            renewal: LeaseRenewal {
                subject: self.subject,
                is_conflict: change.is_conflict,
            },
            renewed_at: Instant::now(),
        };
        self.context
            .lock_open_leases()
            .insert(self.subject.token, lease);
        self.state = LeaseState::Open { grant, change };
        self
    }

    /// Reports that the event is stored.
    pub fn commit(self, storage: StorageLocation) {
        self.finish(match storage {
            StorageLocation::Published => ClaimEndState::Published,
            StorageLocation::Spooled => ClaimEndState::Spooled,
        });
    }

    /// Reports that the event may be stored: others may claim it, and the value that it may have
    /// replaced is no longer trusted.
    pub fn release_in_doubt(self) {
        if matches!(&self.state, LeaseState::Open { change, .. } if change.current.is_some()) {
            self.finish(ClaimEndState::Unknown);
        }
        // Otherwise it cannot have replaced a value; dropping the lease releases it.
    }

    fn finish(mut self, state: ClaimEndState) {
        let LeaseState::Open { grant, change } =
            std::mem::replace(&mut self.state, LeaseState::Finished)
        else {
            return;
        };
        self.context.lock_open_leases().remove(&self.subject.token);
        let end = ClaimEnd {
            subject: self.subject,
            change,
            state,
            ended_at: Instant::now(),
            grant,
            is_resent: false,
        };
        let message = RedisMessage::End(Box::new(end));
        self.context.send_or_note_loss(&self.outbox, message);
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
        // If the queue is full, the lease expires by itself.
        let _ = self.outbox.try_send(RedisMessage::Release(self.subject));
    }
}
