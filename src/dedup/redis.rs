//! Claims shared by replicas through Redis (or Valkey). Exact also for copies that reach two
//! replicas at the same moment.
//!
//! An event to be published is first reserved in this replica's own memory, then claimed in Redis
//! by one script. The script decides as [`memory`](super::memory) does, and holds the keys that the
//! commit will change:
//!
//! ```text
//! <prefix>:<topics>:i<id>        undecided (the holder's token), for a lease of 3 s, renewed every
//!                                second | spooled (reading) | published (reading)
//! <prefix>:<topics>:c<occupancy> the current value of a (type, space, timestamp): reading,
//!                                revision, id, epoch
//! <prefix>:<topics>:h<occupancy> the hold on that value (token), for the same lease; remembered
//!                                for 2 min
//! <prefix>:<topics>:n<source>    time of the newest event of a source, for a day
//! <prefix>:<topics>:e            the epoch, kept while any replica is connected
//! <prefix>:<topics>:s            the run id of the Redis server in which the epoch began
//! ```
//!
//! `<prefix>` is `dedup.redis_prefix`, `<topics>` a hash of the topics' names, so bridges with
//! other topics use other keys. Redis does not know to which Kafka cluster the topics belong.
//! Bridges of different clusters that share a Redis need different prefixes; otherwise events of
//! one cluster are missing in the other.
//!
//! A value begins with the version of its layout; another version counts as absent. Every key
//! expires: ids and current values with their windows. When a holder dies, its successor takes over
//! at the end of the lease. If the holder is still alive, neither its commit nor its release
//! changes the successor's keys.
//!
//! An event on a replica's disk is *spooled*. All replicas count it as stored until its own replica
//! reports that it is in Kafka. Other replicas are not notified: one that knows of it answers
//! copies as spooled for as long as it remembers. For a current value, a replica knows whether it
//! is in Kafka yet only if it stored the value itself; the response to a repeat reports that. A
//! replica of a release without this state takes it for another reading under the id and publishes
//! a copy as a conflict, as long as both releases run side by side and something is spooled.
//!
//! **Redis is never in the way.** If it is unavailable, slower than `dedup.redis_timeout`, or its
//! queue is full, an event is decided by this replica's memory, and counted. Events are then
//! decided without Redis until it answers in time again. Commits and releases are only queued.
//! Afterwards, events stored during the outage are reported to Redis (only the newest, if the queue
//! overflowed).
//!
//! # Dropped events
//! A **redelivery** is dropped wherever its id is known with its reading: some replica stored it,
//! and that stays true.
//!
//! A **repeat** is dropped only if it equals a trusted current value: one written by a commit that
//! held the key from its claim on, without interference, in the present epoch. Otherwise the event
//! is published as a revision or, by its id, as stale: at worst a copy. So nothing is a repeat of
//! - a value under a hold: the holder may store another one and die. A release without storing
//!   restores the value. A release [in doubt](Lease::release_in_doubt) does not, and for two
//!   minutes neither do the commits of successors, because the lost event may still be stored after
//!   them;
//! - a value stored without Redis, or one at the same time as such a value: their order is unknown;
//! - a value of an earlier epoch. A replica begins a new epoch when it reconnects, when it could
//!   not report a stored event, when part of its spool is lost, and when it finds another run of
//!   Redis than the one in which the epoch began. A replica that has just started and finds the
//!   same run keeps the epoch. So a Redis that comes back empty, older (from a snapshot, or as a
//!   lagging replica), or without the latest reports is not trusted;
//! - a value drained from another replica's spool, or one at the same time as, or before, such a
//!   value: it is unknown which of the two Kafka has last;
//! - any value in the first seconds after an outage: other replicas still have to report what they
//!   stored meanwhile;
//! - a value that only one replica knows.
//!
//! **Remaining gaps:** while one replica is cut off from Redis and others are not, the others do
//! not know the values that it stores until it reports them or, if it ends before that, until a
//! replica begins an epoch. A value that reverts to the previous one is dropped in that time. The
//! same holds for two Redis primaries at once (split brain), and for a replica that stands still
//! for longer than its lease, then stores an event and dies. Copies are published if both replicas
//! that receive them are without Redis, or if Redis has lost ids.
//!
//! Memory in Redis 7.0, measured at 100,000 events next to 640,000 keys: 176 bytes for an id, 208
//! more for an occupancy's current value.
//!
//! Redis 5 or later. Use one primary, not a cluster: the keys of one event are in any slot. Under
//! `maxmemory` use `noeviction`: when memory is full, Redis counts as unavailable. With
//! `volatile-ttl`, open claims are evicted first, so copies that arrive at two replicas at the same
//! moment may both be published. Other policies also evict published ids.

mod answer;
mod circuit;
mod connection;
mod lease;
mod protocol;
mod worker;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use redis::io::tcp::TcpSettings;
use redis::{Client, Cmd, ConnectionInfo, IntoConnectionInfo, Value};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::ExposeSecret;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout_at};

use super::claim::{CurrentReading, Decision, Reservation, published_id};
use super::rules::{can_become_current, resulting_revision};
use super::{DedupVerdict, DuplicateKind, EventFacts, Marks, StorageLocation};
use crate::config;
use butlr_event::event_id::EventId;

use answer::ClaimAnswer;
pub use lease::Lease;
use lease::{RedisContext, RedisMessage};
use protocol::{
    ClaimChange, ClaimGrant, ClaimSubject, DrainedClaim, LocalKnowledge, RedisProtocol,
};
use worker::{QUEUE_CAPACITY, RedisWorker};

/// First interval between polls of another replica's undecided claim. It doubles up to
/// [`CLAIM_POLL_MAX`].
const CLAIM_POLL_MIN: Duration = Duration::from_millis(5);
const CLAIM_POLL_MAX: Duration = Duration::from_millis(100);

/// Store shared by replicas.
pub struct RedisStore {
    context: Arc<RedisContext>,
    outbox: mpsc::Sender<RedisMessage>,
    timeout: Duration,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Starts the thread that talks to Redis; it ends with the last claim. While Redis is
    /// unavailable, the thread keeps trying to connect.
    ///
    /// `errors` counts the events decided without Redis, and the claims whose commit was lost.
    ///
    /// # Errors
    /// The address cannot be used. The message does not contain it.
    pub fn start(
        settings: &config::DedupConfig,
        redis: &config::RedisConfig,
        topics: &[String; 10],
        errors: IntCounter,
    ) -> Result<Arc<Self>, &'static str> {
        let client = connection_info(redis)
            .and_then(|info| Client::open(info).ok())
            .ok_or("is not a Redis address")?;
        let owner_id =
            random_owner_id().ok_or("cannot be used: the system provides no random numbers")?;
        let protocol = RedisProtocol::new(settings, &redis.prefix, topics);
        let context = Arc::new(RedisContext::new(protocol, owner_id, errors));
        let (outbox, inbox) = mpsc::channel(QUEUE_CAPACITY);
        let worker = RedisWorker::new(client, Arc::clone(&context), inbox, redis.timeout);
        thread::Builder::new()
            .name("redis".into())
            .spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("the system can start a runtime")
                    .block_on(worker.run());
            })
            .map_err(|_| "cannot be used: the thread for Redis does not start")?;
        Ok(Arc::new(Self {
            context,
            outbox,
            timeout: redis.timeout,
        }))
    }

    /// Decides about a reserved event before `deadline`: by Redis, or by this replica if Redis does
    /// not answer. Returns `None` if another copy was undecided until the deadline.
    pub async fn decide(
        &self,
        facts: &EventFacts<'_>,
        reservation: Reservation,
        deadline: Instant,
    ) -> Option<Decision> {
        if is_redelivery(reservation.local_verdict()) {
            return Some(decide_locally(reservation, None));
        }
        let id = EventId::new(facts.id);
        let subject = ClaimSubject::new(self.context.next_token(), facts);
        let mut lease = Lease::new(Arc::clone(&self.context), self.outbox.clone(), subject);
        let mut poll_interval = CLAIM_POLL_MIN;
        let mut has_waited = false;
        loop {
            let knowledge = LocalKnowledge {
                is_conflict: has_conflict(reservation.local_verdict()),
                current: reservation.current(),
                is_recovering: self.context.circuit_breaker.is_recovering(),
            };
            let redelivery = reservation.redelivery_handling();
            let protocol = &self.context.protocol;
            let command = protocol.claim(&subject, &id, redelivery, &knowledge);
            let value = self.query(command, &mut lease, deadline).await;
            match value.and_then(|value| answer::parse_answer(&value, facts, &id)) {
                Some(ClaimAnswer::Wait) => {
                    lease.mark_refused();
                    has_waited = true;
                    let next = Instant::now() + poll_interval;
                    if next >= deadline {
                        return None;
                    }
                    sleep_until(next.into()).await;
                    poll_interval = (poll_interval * 2).min(CLAIM_POLL_MAX);
                }
                Some(ClaimAnswer::Redelivery(storage)) => {
                    lease.mark_refused();
                    let kind = DuplicateKind::Redelivery;
                    return Some(decide_duplicate(reservation, kind, storage));
                }
                Some(ClaimAnswer::Repeat) => {
                    lease.mark_refused();
                    let storage = reservation.repeat_storage();
                    return Some(decide_duplicate(
                        reservation,
                        DuplicateKind::Repeat,
                        storage,
                    ));
                }
                Some(ClaimAnswer::Publish(marks, current)) => {
                    let change = ClaimChange {
                        is_conflict: marks.conflict.is_some(),
                        current,
                    };
                    let lease = lease.open(ClaimGrant::Granted, change);
                    return Some(Decision::Publish(
                        reservation.into_claim(marks, Some(lease)),
                    ));
                }
                Some(ClaimAnswer::Republish(marks)) => {
                    lease.mark_refused();
                    return Some(Decision::Publish(reservation.into_claim(marks, None)));
                }
                // Redis has answered in time so far: the delay is the other copy's.
                None if has_waited && Instant::now() >= deadline => return None,
                None => {
                    self.context.errors.inc();
                    return Some(decide_locally(reservation, Some((lease, facts))));
                }
            }
        }
    }

    /// Sends a command and returns the answer, or `None` if there is none in time.
    async fn query(&self, command: Cmd, lease: &mut Lease, deadline: Instant) -> Option<Value> {
        if !self.context.circuit_breaker.is_closed() {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        let message = RedisMessage::Query(command, reply);
        self.outbox.try_send(message).ok()?;
        lease.mark_requested();
        let limit = Instant::now() + self.timeout;
        match timeout_at(limit.min(deadline).into(), answer).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                if limit <= deadline {
                    self.context.circuit_breaker.trip();
                }
                None
            }
        }
    }

    /// Records that an event of this replica's spool, published with `marks`, is now in Kafka.
    /// `successor` is the id of a current value that this replica drains after it.
    pub fn mark_drained(&self, facts: &EventFacts<'_>, marks: &Marks, successor: Option<EventId>) {
        let drained = DrainedClaim {
            subject: ClaimSubject::new(self.context.next_token(), facts),
            is_conflict: marks.conflict.is_some(),
            id: published_id(marks, EventId::new(facts.id)),
            became_current: can_become_current(marks),
            successor,
        };
        let message = RedisMessage::Drained(Box::new(drained));
        self.context.send_or_note_loss(&self.outbox, message);
    }

    /// Records that an unknown part of this replica's spool is lost, perhaps a current value.
    pub fn invalidate_spooled(&self) {
        self.context.set_epoch_outdated();
    }

    /// Waits until all earlier messages have reached Redis, at most `timeout`. After that they may
    /// be lost.
    pub async fn flush(&self, timeout: Duration) {
        let deadline = tokio::time::Instant::now() + timeout;
        let (reply, answer) = oneshot::channel();
        let last = RedisMessage::Query(self.context.protocol.probe(), reply);
        if let Ok(Ok(())) = timeout_at(deadline, self.outbox.send(last)).await {
            let _ = timeout_at(deadline, answer).await;
        }
    }
}

fn decide_duplicate(
    reservation: Reservation,
    kind: DuplicateKind,
    storage: StorageLocation,
) -> Decision {
    reservation.commit_duplicate(storage, Instant::now());
    Decision::Duplicate { kind, storage }
}

/// Returns a random number that identifies this process.
fn random_owner_id() -> Option<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// Parses the address. Nagle's algorithm is off, because commands are small and awaited.
fn connection_info(redis: &config::RedisConfig) -> Option<ConnectionInfo> {
    let info = redis.url.expose_secret().into_connection_info().ok()?;
    Some(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

fn is_redelivery(verdict: &DedupVerdict) -> bool {
    matches!(verdict, DedupVerdict::Publish(marks) if marks.duplicate == Some(DuplicateKind::Redelivery))
}

fn has_conflict(verdict: &DedupVerdict) -> bool {
    matches!(verdict, DedupVerdict::Publish(marks) if marks.conflict.is_some())
}

/// Decides without Redis. Through `pending_lease`, Redis is told the outcome once it is back.
///
/// Nothing is a repeat then: another replica may have stored a later value, and this event may
/// revert it.
fn decide_locally(
    reservation: Reservation,
    pending_lease: Option<(Lease, &EventFacts<'_>)>,
) -> Decision {
    let marks = match reservation.local_verdict().clone() {
        DedupVerdict::Publish(mut marks) => {
            marks
                .duplicate
                .take_if(|kind| *kind == DuplicateKind::Repeat);
            marks
        }
        DedupVerdict::Duplicate(DuplicateKind::Repeat) => Marks::default(),
        // Dropped as a duplicate, so nothing is reserved for it.
        DedupVerdict::Duplicate(kind) => {
            return decide_duplicate(reservation, kind, StorageLocation::Published);
        }
    };
    let lease = pending_lease.map(|(lease, facts)| {
        let change = planned_change(&reservation, &marks, facts);
        lease.open(ClaimGrant::Ungranted, change)
    });
    Decision::Publish(reservation.into_claim(marks, lease))
}

/// Returns the change that an event published with `marks` makes, by what this replica knows. If
/// that is none, Redis may know better: only a stale event certainly leaves the current value as it
/// is.
fn planned_change(reservation: &Reservation, marks: &Marks, facts: &EventFacts<'_>) -> ClaimChange {
    let id = published_id(marks, EventId::new(facts.id));
    let revision = facts.occupancy_key.filter(|_| !marks.stale).map(|_| {
        let current = reservation.current();
        resulting_revision(marks, current, facts.reading, &id)
            .unwrap_or_else(|| current.map_or(0, |current| current.revision))
    });
    ClaimChange {
        is_conflict: marks.conflict.is_some(),
        current: revision.map(|revision| CurrentReading {
            reading: facts.reading,
            id,
            revision,
        }),
    }
}

#[cfg(test)]
mod tests;
