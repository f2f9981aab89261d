//! The pipeline's entry point to duplicate detection.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout_at;

pub use super::claim::Decision;
use super::claim::{ClaimWaiter, ReservationOutcome};
use super::memory::MemoryStore;
use super::redis::RedisStore;
use super::stored_facts::StoredFacts;
use super::{DuplicateKind, EventFacts, Marks, StorageLocation};
use crate::config;
use crate::metrics::Metrics;
use butlr_event::EventType;

/// Decides whether events are new, by this process' memory or by Redis.
#[derive(Debug)]
pub struct Deduplicator {
    memory: Arc<MemoryStore>,
    redis: Option<Arc<RedisStore>>,
    /// Restored parts of the window: one bit for each type, by [`EventType::index`], then
    /// [`SPOOL_BIT`] and [`TOPICS_READ_BIT`]. An atomic, because every claim reads it.
    restored: AtomicU16,
    changed: watch::Sender<()>,
    incomplete_reason: OnceLock<String>,
}

const ALL_TYPES_BITS: u16 = (1 << EventType::ALL.len()) - 1;
/// Nothing is left to restore from a spool.
const SPOOL_BIT: u16 = 1 << EventType::ALL.len();
/// Nothing more is read from the topics.
const TOPICS_READ_BIT: u16 = SPOOL_BIT << 1;

impl Deduplicator {
    /// Opens an empty memory, to be rebuilt. Returns `None` if duplicate detection is disabled.
    ///
    /// # Errors
    /// The Redis address cannot be used.
    pub fn open(config: &config::Config, metrics: &Metrics) -> Result<Option<Self>, String> {
        let settings = &config.dedup;
        if !settings.is_enabled() {
            return Ok(None);
        }
        let redis = match &settings.store {
            config::DedupStore::Memory => None,
            config::DedupStore::Redis(redis) => {
                let errors = metrics.dedup.redis_errors.clone();
                let store = RedisStore::start(settings, redis, &config.topics.names(), errors);
                Some(store.map_err(|problem| format!("dedup.redis_url: {problem}"))?)
            }
        };
        Ok(Some(Self {
            memory: MemoryStore::new(settings, Instant::now()),
            redis,
            restored: AtomicU16::new(SPOOL_BIT),
            changed: watch::Sender::new(()),
            incomplete_reason: OnceLock::new(),
        }))
    }

    /// Waits until other replicas can know of every stored event, at most `timeout`.
    pub async fn flush(&self, timeout: Duration) {
        if let Some(redis) = &self.redis {
            redis.flush(timeout).await;
        }
    }

    /// The events that this process knows to be stored.
    pub fn memory(&self) -> &Arc<MemoryStore> {
        &self.memory
    }

    /// Returns `true` if rebuilding the window has ended, complete or not.
    pub fn is_rebuilt(&self) -> bool {
        self.is_restored(ALL_TYPES_BITS | SPOOL_BIT)
    }

    /// Announces a spool: until [`mark_spool_restored`](Self::mark_spool_restored), the window does
    /// not count as rebuilt and the topics are not read. Call it before the rebuild starts.
    pub fn expect_spool(&self) {
        self.restored.fetch_and(!SPOOL_BIT, Ordering::Release);
    }

    /// Restores one entry of the spool. Call it for the newest entry first.
    ///
    /// Redis is not updated: it recorded the entry when it was spooled. If Redis has lost that
    /// record, copies that reach other replicas are published, as for everything that Redis loses.
    pub fn restore_spooled(&self, facts: StoredFacts) {
        self.memory
            .restore(facts, StorageLocation::Spooled, Instant::now());
    }

    /// Marks all current values as uncertain: part of the spool cannot be read, and may contain
    /// newer ones. Call it after the known entries are restored.
    pub fn mark_all_uncertain(&self) {
        self.memory.mark_all_uncertain();
    }

    /// Records that restoring the spool has ended, complete or not.
    pub fn mark_spool_restored(&self) {
        self.mark_restored(SPOOL_BIT);
    }

    /// Returns `true` if restoring the spool has ended, or there is none.
    pub fn is_spool_restored(&self) -> bool {
        self.is_restored(SPOOL_BIT)
    }

    /// Forgets an event that was spooled with `marks` and became a dead letter. (Other replicas
    /// treat it as stored while Redis remembers it.)
    pub fn forget_dead_letter(&self, facts: &EventFacts<'_>, marks: &Marks) {
        self.memory.forget_dead_letter(facts, marks);
    }

    /// Records that an unknown part of the spool is lost: no spooled event counts as stored any
    /// more. (With Redis, no current value is relied on either; spooled ids still count as stored
    /// while Redis remembers them.)
    pub fn invalidate_spooled(&self) {
        self.memory.invalidate_spooled();
        if let Some(redis) = &self.redis {
            redis.invalidate_spooled();
        }
    }

    /// Records that an event that was spooled with `marks` is now in Kafka. Never blocks.
    pub fn mark_drained(&self, facts: &EventFacts<'_>, marks: &Marks) {
        let successor = self.memory.mark_drained(facts, marks);
        if let Some(redis) = &self.redis {
            redis.mark_drained(facts, marks, successor);
        }
    }

    /// Records that the topic of this type is read.
    pub fn mark_type_restored(&self, event_type: EventType) {
        self.mark_restored(type_bit(event_type));
    }

    /// Records that nothing more is read from the topics.
    pub fn mark_topics_read(&self) {
        self.mark_restored(ALL_TYPES_BITS | TOPICS_READ_BIT);
    }

    /// Records why the window will not be rebuilt completely.
    pub fn set_incomplete_reason(&self, reason: String) {
        let _ = self.incomplete_reason.set(reason);
    }

    /// The reason why the window was not rebuilt completely, if so.
    pub fn incomplete_reason(&self) -> Option<&str> {
        self.incomplete_reason.get().map(String::as_str)
    }

    fn mark_restored(&self, bits: u16) {
        self.restored.fetch_or(bits, Ordering::AcqRel);
        if self.is_restored(SPOOL_BIT | TOPICS_READ_BIT) {
            self.memory.finish_restoring();
        }
        self.changed.send_replace(());
    }

    fn is_restored(&self, bits: u16) -> bool {
        self.restored.load(Ordering::Acquire) & bits == bits
    }

    /// Waits, just after a start, until the spool and the topics of a request's events are read
    /// back, for at most half of the time left. After that the events are accepted unchecked. An
    /// unreadable topic does not delay events of other types.
    ///
    /// This applies with Redis, too, because it may have been started empty.
    pub async fn wait_until_restored(
        &self,
        types: impl Iterator<Item = EventType>,
        deadline: Instant,
    ) {
        let types = types.map(type_bit).fold(SPOOL_BIT, std::ops::BitOr::bitor);
        if self.is_restored(types) {
            return;
        }
        let now = Instant::now();
        let limit = now + deadline.saturating_duration_since(now) / 2;
        let mut changed = self.changed.subscribe();
        let is_restored = changed.wait_for(|()| self.is_restored(types));
        let _ = timeout_at(limit.into(), is_restored).await;
    }

    /// Decides about an event if that is possible at once.
    ///
    /// # Errors
    /// Another event must be decided first, or Redis must be asked: call [`claim`](Self::claim)
    /// with the returned waiter.
    pub fn try_claim(
        &self,
        facts: &EventFacts<'_>,
        now: Instant,
    ) -> Result<Decision, Option<ClaimWaiter>> {
        match self.redis {
            Some(_) => Err(None),
            None => self.claim_locally(facts, now).map_err(Some),
        }
    }

    /// Returns `true` if the stored events of the event's type are not fully known yet.
    fn is_unchecked(&self, facts: &EventFacts<'_>) -> bool {
        facts
            .event_type
            .is_some_and(|event_type| !self.is_restored(type_bit(event_type) | SPOOL_BIT))
    }

    /// Decides about an event by this process' memory.
    fn claim_locally(&self, facts: &EventFacts<'_>, now: Instant) -> Result<Decision, ClaimWaiter> {
        // Read before the claim, which does not see what is restored after it.
        let is_unchecked = self.is_unchecked(facts);
        let mut decision = self.memory.claim(facts, now)?;
        decision.set_unchecked(is_unchecked);
        Ok(decision)
    }

    /// Decides about an event before `deadline`. `waiter` comes from
    /// [`try_claim`](Self::try_claim). Returns `None` if another copy of the event was still
    /// undecided at the deadline.
    pub async fn claim(
        &self,
        facts: &EventFacts<'_>,
        waiter: Option<ClaimWaiter>,
        deadline: Instant,
    ) -> Option<Decision> {
        if let Some(waiter) = waiter {
            timeout_at(deadline.into(), waiter).await.ok()?;
        }
        loop {
            let waiter = match &self.redis {
                None => match self.claim_locally(facts, Instant::now()) {
                    Ok(decision) => return Some(decision),
                    Err(waiter) => waiter,
                },
                Some(redis) => {
                    let is_unchecked = self.is_unchecked(facts);
                    match self.memory.reserve(facts, Instant::now()) {
                        ReservationOutcome::Reserved(reservation) => {
                            let mut decision = redis.decide(facts, reservation, deadline).await?;
                            decision.set_unchecked(is_unchecked);
                            return Some(decision);
                        }
                        ReservationOutcome::Redelivery { storage } => {
                            let kind = DuplicateKind::Redelivery;
                            return Some(Decision::Duplicate { kind, storage });
                        }
                        ReservationOutcome::Wait(waiter) => waiter,
                    }
                }
            };
            timeout_at(deadline.into(), waiter).await.ok()?;
        }
    }

    /// Like [`claim`](Self::claim), for a rejected item: a copy of it is a redelivery and always
    /// dropped. Of the items stored before the start, only those in the spool are known.
    pub async fn claim_rejected_item(&self, bytes: &[u8], deadline: Instant) -> Option<Decision> {
        let facts = EventFacts::from_bytes(bytes);
        self.claim(&facts, None, deadline).await
    }
}

fn type_bit(event_type: EventType) -> u16 {
    1 << event_type.index()
}
