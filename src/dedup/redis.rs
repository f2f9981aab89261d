//! Claims shared by replicas through Redis (or Valkey): exact also for copies that reach two replicas at the same moment.
//!
//! An event that this replica would publish is held in its own memory first, then claimed in Redis by one script, which
//! decides as [`memory`](super::memory) does and holds what the commit will change:
//!
//! ```text
//! <prefix>:<topics>:i<id>      undecided (whose: token), for a lease of 3 s, renewed every second | spooled (reading) |
//!                              published (reading)
//! <prefix>:<topics>:c<cell>    the current value of a (type, space, timestamp): reading, revision, id, epoch
//! <prefix>:<topics>:h<cell>    who is about to change it (token), for the same lease; remembered for 2 min
//! <prefix>:<topics>:n<source>  time of the newest event of a source, for a day
//! <prefix>:<topics>:e          the epoch, kept while anybody is there
//! <prefix>:<topics>:s          in which run of Redis it began
//! ```
//!
//! `<prefix>` is `dedup.redis_prefix`, `<topics>` a hash of the topics' names: bridges with other topics never meet. Which
//! Kafka cluster the topics are in Redis does not know: bridges of different clusters that share a Redis need different
//! prefixes, or what one cluster has is missing in the other.
//!
//! Values begin with the version of their layout; another version counts as absent. No key is without an expiry: ids and
//! current values have their windows. A holder that died is followed when its lease ends; should it have lived on, then
//! neither its commit nor its release changes what its successor holds.
//!
//! An event on a replica's disk is *spooled*: stored for all, until that replica has got it into Kafka and says so. Nobody else
//! is told: another replica that knows of it answers copies as spooled ones while it remembers them. Whether a current value
//! is in Kafka yet, which a repeat's answer says, each replica knows of those values only that it stored itself. A replica
//! of a release that knows no such state takes it for another reading under the id, and publishes a copy as a conflict: so
//! it is while replicas of both run side by side, and something is spooled.
//!
//! **Redis is never in the way.** When it is away, slower than `dedup.redis_timeout`, or its queue full, an event is decided
//! by what this replica knows, and counted; then Redis is left alone until it answers in time. Commits and releases are only
//! queued; what was stored meanwhile Redis is told afterwards, the latest of it if that is more than the queue holds.
//!
//! # What is dropped
//! A **redelivery**, wherever its id is known with its reading: somebody stored it, and that stays true whatever happens.
//!
//! A **repeat** only if it equals a current value that can be relied on, which is one written by a commit that held the cell
//! from its claim on, without interference, in the present epoch. Otherwise an event is published, as a revision or, by its
//! id, as stale: a copy at worst. So nothing is a repeat of
//! - a value that is held: who holds it may store another and die. A release for certain makes it what it was; an end that is
//!   [unknown](Lease::unknown) does not, and for two minutes the commits of successors don't either, for the lost event may
//!   yet be stored after them;
//! - a value that was stored without Redis, or one next to which such was stored: in which order nobody knows;
//! - a value of an earlier epoch. A replica begins a new one whenever it connects again, when it had to forget what was
//!   stored, when something of its disk was lost, and when it finds another run of Redis than the epoch began in; one that has just started and finds the same run
//!   keeps it. So a Redis that comes back empty, older (from a snapshot, as a replica that lagged) or without what was told it
//!   last is not believed;
//! - a value that got out of another replica's disk, or next to which, or after which, one did: which of the two Kafka has
//!   last nobody knows;
//! - anything in the first seconds after an outage: other replicas still have to tell what they stored meanwhile;
//! - what one replica alone knows.
//!
//! **What remains:** while one replica is cut off from Redis and others are not, they cannot know of the values that it
//! stores, until it tells them; if it ends before that, until a replica begins an epoch. A value that goes back to what it was
//! before is dropped in that time. The same goes for two Redis primaries at once (split brain), and for a replica that stands
//! still for longer than its lease, then stores and dies. Copies are published where both replicas that get them are without
//! Redis, or where Redis has lost ids.
//!
//! Room in Redis 7.0, measured at 100,000 events next to 640,000 keys: 176 bytes an id, 208 more with the current value of an
//! occupancy.
//!
//! Redis 5 or later. One primary is expected, no cluster: the keys of one event are anywhere. Under `maxmemory` use
//! `noeviction`: when memory is full, Redis counts as away. With `volatile-ttl` the claims under way go first, so that copies
//! arriving at two replicas at the same moment may both be published; other policies also forget what was published.

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

use super::claim::{Claim, CurrentReading, Reservation, published_id};
use super::memory::{can_become_current, resulting_revision};
use super::{DedupVerdict, DuplicateKind, EventFacts, Marks};
use crate::config;
use butlr_event::event_id::EventId;

use answer::ClaimAnswer;
pub use lease::Lease;
use lease::{RedisContext, RedisMessage};
use protocol::{ClaimChange, ClaimSubject, DrainedClaim, RedisProtocol};
use worker::{QUEUE_CAPACITY, RedisWorker};

/// Between two looks at a claim of another replica that is undecided; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What Redis, or without it this replica, says of an event.
#[derive(Debug)]
pub enum RedisDecision {
    /// It is to be published, as the claim says.
    Publish(Claim),
    /// It is not new.
    Duplicate {
        /// In which way.
        kind: DuplicateKind,
        /// What it is a duplicate of is on disk and not in Kafka yet.
        spooled: bool,
    },
    /// Another copy was undecided until the deadline.
    TimedOut,
}

/// The store that replicas share.
pub struct RedisStore {
    context: Arc<RedisContext>,
    outbox: mpsc::Sender<RedisMessage>,
    timeout: Duration,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Starts the thread that talks to Redis. It ends with the last claim. A Redis that is away is tried again and again.
    ///
    /// `errors` counts the events that had to be decided without Redis, and the claims whose commit was lost.
    ///
    /// # Errors
    /// An address that cannot be used; it is not repeated.
    pub fn start(
        settings: &config::DedupConfig,
        redis: &config::RedisConfig,
        topics: &[String; 10],
        errors: IntCounter,
    ) -> Result<Arc<Self>, &'static str> {
        let client = connection_info(redis)
            .and_then(|info| Client::open(info).ok())
            .ok_or("is no address of a Redis")?;
        let owner = random_owner_id().ok_or("the system gives no random numbers")?;
        let terms = RedisProtocol::new(settings, &redis.prefix, topics);
        let line = Arc::new(RedisContext::new(terms, owner, errors));
        let (outbox, inbox) = mpsc::channel(QUEUE_CAPACITY);
        let worker = RedisWorker::new(client, Arc::clone(&line), inbox, redis.timeout);
        thread::Builder::new()
            .name("redis".into())
            .spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime needs no more than what the others have")
                    .block_on(worker.run());
            })
            .map_err(|_| "its thread cannot be started")?;
        Ok(Arc::new(Self {
            context: line,
            outbox,
            timeout: redis.timeout,
        }))
    }

    /// Decides what is to become of an event that this replica holds, before `deadline`.
    pub async fn decide(
        &self,
        facts: &EventFacts<'_>,
        hold: Reservation,
        deadline: Instant,
    ) -> RedisDecision {
        if is_redelivery(hold.local_verdict()) {
            return decide_locally(hold, None);
        }
        let id = EventId::new(facts.id);
        let subject = ClaimSubject::new(self.context.next_token(), facts);
        let mut lease = Lease::new(Arc::clone(&self.context), self.outbox.clone(), subject);
        let mut pause = FIRST_PAUSE;
        let mut waited = false;
        loop {
            let known = (has_conflict(hold.local_verdict()), hold.current());
            let is_recovering = self.context.circuit_breaker.is_recovering();
            let redelivery = hold.redelivery_handling();
            let terms = &self.context.protocol;
            let command = terms.claim(&subject, &id, redelivery, known, is_recovering);
            let value = self.query(command, &mut lease, deadline).await;
            match value.and_then(|value| answer::parse_answer(&value, facts, &id)) {
                Some(ClaimAnswer::Wait) => {
                    lease.mark_refused();
                    waited = true;
                    let next = Instant::now() + pause;
                    if next >= deadline {
                        return RedisDecision::TimedOut;
                    }
                    sleep_until(next.into()).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Some(ClaimAnswer::Redelivery { spooled }) => {
                    lease.mark_refused();
                    return decide_duplicate(hold, DuplicateKind::Redelivery, spooled);
                }
                Some(ClaimAnswer::Repeat) => {
                    lease.mark_refused();
                    let spooled = hold.is_repeat_of_spooled();
                    return decide_duplicate(hold, DuplicateKind::Repeat, spooled);
                }
                Some(ClaimAnswer::Publish(marks, current)) => {
                    let change = ClaimChange {
                        is_conflict: marks.conflict.is_some(),
                        current,
                    };
                    let lease = lease.open(true, change);
                    return RedisDecision::Publish(hold.into_claim(marks, Some(lease)));
                }
                Some(ClaimAnswer::Republish(marks)) => {
                    lease.mark_refused();
                    return RedisDecision::Publish(hold.into_claim(marks, None));
                }
                // Redis has answered in time so far: it is the other copy that takes so long.
                None if waited && Instant::now() >= deadline => return RedisDecision::TimedOut,
                None => {
                    self.context.errors.inc();
                    return decide_locally(hold, Some((lease, facts)));
                }
            }
        }
    }

    /// Redis' answer, or none when there is none in time.
    async fn query(&self, command: Cmd, lease: &mut Lease, deadline: Instant) -> Option<Value> {
        if !self.context.circuit_breaker.is_closed() {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        if self
            .outbox
            .try_send(RedisMessage::Query(command, reply))
            .is_err()
        {
            return None;
        }
        lease.mark_requested();
        let patience = Instant::now() + self.timeout;
        match timeout_at(patience.min(deadline).into(), answer).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                if patience <= deadline {
                    self.context.circuit_breaker.trip();
                }
                None
            }
        }
    }

    /// An event of this replica's spool, which was published with `marks`, is in Kafka now; `follows`: the id of a current
    /// value that this replica gets there after it.
    pub fn mark_drained(&self, facts: &EventFacts<'_>, marks: &Marks, successor: Option<EventId>) {
        let drained = DrainedClaim {
            subject: ClaimSubject::new(self.context.next_token(), facts),
            is_conflict: marks.conflict.is_some(),
            id: published_id(marks, EventId::new(facts.id)),
            became_current: can_become_current(marks),
            successor,
        };
        let message = RedisMessage::Drained(Box::new(drained));
        if let Err(error) = self.outbox.try_send(message)
            && let RedisMessage::Drained(drained) = error.into_inner()
        {
            self.context.note_lost_drain(&drained);
        }
    }

    /// Something of this replica's spool is lost, and nobody knows what: it may be a current value.
    pub fn invalidate_spooled(&self) {
        self.context.set_epoch_outdated();
    }

    /// Waits until what was said so far has reached Redis, `patience` at most; afterwards it may be lost.
    pub async fn flush(&self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        let (reply, answer) = oneshot::channel();
        let last = RedisMessage::Query(self.context.protocol.probe(), reply);
        if let Ok(Ok(())) = timeout_at(deadline, self.outbox.send(last)).await {
            let _ = timeout_at(deadline, answer).await;
        }
    }
}

fn decide_duplicate(hold: Reservation, kind: DuplicateKind, spooled: bool) -> RedisDecision {
    hold.commit_duplicate(spooled, Instant::now());
    RedisDecision::Duplicate { kind, spooled }
}

/// A number that no other process has.
fn random_owner_id() -> Option<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// Small questions, each waited for: no Nagle.
fn connection_info(redis: &config::RedisConfig) -> Option<ConnectionInfo> {
    let info = redis.url.expose_secret().into_connection_info().ok()?;
    Some(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

fn is_redelivery(opinion: &DedupVerdict) -> bool {
    matches!(opinion, DedupVerdict::Publish(marks) if marks.duplicate == Some(DuplicateKind::Redelivery))
}

fn has_conflict(opinion: &DedupVerdict) -> bool {
    matches!(opinion, DedupVerdict::Publish(marks) if marks.conflict.is_some())
}

/// What this replica says without Redis. `told`: what Redis is told of it, should it be there by then.
///
/// Nothing is a repeat then: another replica may have stored a later value, and this one goes back to what was before.
fn decide_locally(
    hold: Reservation,
    pending_lease: Option<(Lease, &EventFacts<'_>)>,
) -> RedisDecision {
    let marks = match hold.local_verdict().clone() {
        DedupVerdict::Publish(mut marks) => {
            marks
                .duplicate
                .take_if(|kind| *kind == DuplicateKind::Repeat);
            marks
        }
        DedupVerdict::Duplicate(DuplicateKind::Repeat) => Marks::default(),
        // Such are not even held.
        DedupVerdict::Duplicate(kind) => return decide_duplicate(hold, kind, false),
    };
    let lease = pending_lease.map(|(lease, facts)| {
        let change = planned_change(&hold, &marks, facts);
        lease.open(false, change)
    });
    RedisDecision::Publish(hold.into_claim(marks, lease))
}

/// What an event published with `marks` changes, by what this replica knows. Where that is nothing, Redis may know better:
/// only what is marked as stale certainly leaves the current value as it is.
fn planned_change(hold: &Reservation, marks: &Marks, facts: &EventFacts<'_>) -> ClaimChange {
    let id = published_id(marks, EventId::new(facts.id));
    let revision = facts.occupancy_key.filter(|_| !marks.stale).map(|_| {
        let known = hold.current();
        let resulting_revision = resulting_revision(marks, known, facts.reading, &id);
        resulting_revision.unwrap_or_else(|| known.map_or(0, |current| current.revision))
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
