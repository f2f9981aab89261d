//! Where the pipeline asks: is this event new?

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout_at;

use super::claim::{Claim, ClaimWaiter, MemoryDecision, ReservationOutcome};
use super::memory::MemoryStore;
use super::redis::{RedisDecision, RedisStore};
use super::spooled_facts::SpooledFacts;
use super::{DuplicateKind, EventFacts, Marks};
use crate::config;
use crate::metrics::Metrics;
use butlr_event::EventType;

/// What is to become of an event.
#[derive(Debug)]
pub enum Decision {
    /// It is to be published, as the claim's marks say.
    Publish {
        /// The right to do so.
        claim: Claim,
        /// Whether what is stored was not known yet.
        unchecked: bool,
    },
    /// It is not new.
    Duplicate {
        /// In which way.
        kind: DuplicateKind,
        /// What it is a duplicate of is on disk and not in Kafka yet.
        spooled: bool,
    },
}

/// What is claimed.
#[derive(Clone, Copy)]
enum ItemKind {
    Event(EventType),
    /// Bytes that are no valid event.
    RejectedItem,
}

/// Knows what is stored, or asks who does.
#[derive(Debug)]
pub struct Deduplicator {
    memory: Arc<MemoryStore>,
    redis: Option<Arc<RedisStore>>,
    /// Of what is known what was stored before the start: types, by [`EventType::index`], and [`SPOOL`]; and [`OVER`].
    restored: AtomicU16,
    changed: watch::Sender<()>,
    incomplete_reason: OnceLock<String>,
}

const ALL_TYPES_BITS: u16 = (1 << EventType::ALL.len()) - 1;
/// What is in the spool.
const SPOOL_BIT: u16 = 1 << EventType::ALL.len();
/// No more is read from the topics.
const TOPICS_READ_BIT: u16 = SPOOL_BIT << 1;

impl Deduplicator {
    /// An empty memory, to be rebuilt; `None` where duplicates are not looked for at all.
    ///
    /// # Errors
    /// A Redis address that cannot be used.
    pub fn open(config: &config::Config, metrics: &Metrics) -> Result<Option<Self>, String> {
        let settings = &config.dedup;
        if !settings.is_enabled() {
            return Ok(None);
        }
        let shared = match &settings.store {
            config::DedupStore::Memory => None,
            config::DedupStore::Redis(redis) => {
                let errors = metrics.dedup.redis_errors.clone();
                let shared = RedisStore::start(settings, redis, &config.topics.names(), errors);
                Some(shared.map_err(|problem| format!("dedup.redis_url: {problem}"))?)
            }
        };
        Ok(Some(Self {
            memory: MemoryStore::new(settings, Instant::now()),
            redis: shared,
            restored: AtomicU16::new(SPOOL_BIT),
            changed: watch::Sender::new(()),
            incomplete_reason: OnceLock::new(),
        }))
    }

    /// Waits until what was stored is told to other replicas, at most `patience`.
    pub async fn flush(&self, patience: Duration) {
        if let Some(shared) = &self.redis {
            shared.flush(patience).await;
        }
    }

    /// What this process knows to be stored.
    pub fn memory(&self) -> &Arc<MemoryStore> {
        &self.memory
    }

    /// Whether what was stored before the start is known, as far as it ever will be.
    pub fn is_rebuilt(&self) -> bool {
        self.is_restored(ALL_TYPES_BITS | SPOOL_BIT)
    }

    /// There is a spool: until [`Desk::spool_restored`], what was stored before the start is not known, and the topics are
    /// not read. To be called before the rebuilding starts.
    pub fn expect_spool(&self) {
        self.restored.fetch_and(!SPOOL_BIT, Ordering::Release);
    }

    /// What one entry of the spool tells; the newest are to come first.
    ///
    /// With Redis, too, only this process learns of it: Redis was told when it was spooled, and where it has lost that, copies
    /// that reach other replicas are published, as with all that it loses.
    pub fn restore_spooled(&self, facts: SpooledFacts) {
        self.memory.restore_spooled(facts, Instant::now());
    }

    /// Not all that is in the spool will be known: the rest may replace what the topics tell as a current value. To be called
    /// after what is known of it was told.
    pub fn mark_all_uncertain(&self) {
        self.memory.mark_all_uncertain();
    }

    /// What is in the spool is known, as far as it ever will be.
    pub fn mark_spool_restored(&self) {
        self.mark_restored(SPOOL_BIT);
    }

    /// Whether what is in the spool is known, or there is none.
    pub fn is_spool_restored(&self) -> bool {
        self.is_restored(SPOOL_BIT)
    }

    /// An event that was spooled, with these marks, is refused by Kafka for good. (Other replicas take it for stored while
    /// Redis remembers it.)
    pub fn forget_dead_letter(&self, facts: &EventFacts<'_>, marks: &Marks) {
        self.memory.forget_dead_letter(facts, marks);
    }

    /// Something of the spool is lost, and nobody knows what: nothing of it is known any more. (With Redis no current value is
    /// relied on, either; but ids of what was spooled are those of something stored while Redis remembers them.)
    pub fn invalidate_spooled(&self) {
        self.memory.invalidate_spooled();
        if let Some(shared) = &self.redis {
            shared.invalidate_spooled();
        }
    }

    /// An event that was spooled, with these marks, is in Kafka now. Nothing is waited for.
    pub fn mark_drained(&self, facts: &EventFacts<'_>, marks: &Marks) {
        let successor = self.memory.mark_drained(facts, marks);
        if let Some(shared) = &self.redis {
            shared.mark_drained(facts, marks, successor);
        }
    }

    /// From now on it is, of this type.
    pub fn mark_type_restored(&self, event_type: EventType) {
        self.mark_restored(type_bit(event_type));
    }

    /// From now on it is, of all types: nothing more is read from the topics.
    pub fn mark_rebuilt(&self) {
        self.mark_restored(ALL_TYPES_BITS | TOPICS_READ_BIT);
    }

    /// Not all of it is, and will be: `why`.
    pub fn set_incomplete_reason(&self, why: String) {
        let _ = self.incomplete_reason.set(why);
    }

    /// Why what was stored before the start is not known whole, if so.
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

    /// Just after a start a request waits until the spool and the topics of its events are read back, for half of the time
    /// that it has; then its events are taken unchecked. A topic that cannot be read does not keep the events of others waiting.
    ///
    /// Also with Redis, which may have been started empty.
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
        let patience = now + deadline.saturating_duration_since(now) / 2;
        let mut changed = self.changed.subscribe();
        let is_known = changed.wait_for(|()| self.is_restored(types));
        let _ = timeout_at(patience.into(), is_known).await;
    }

    /// The verdict, where it can be had at once. Otherwise [`Desk::claim`] is to be waited for, with what comes back.
    ///
    /// # Errors
    /// It takes a while: another event has to be decided first, or Redis asked.
    pub fn try_claim(
        &self,
        event_type: EventType,
        facts: &EventFacts<'_>,
        now: Instant,
    ) -> Result<Decision, Option<ClaimWaiter>> {
        match self.redis {
            Some(_) => Err(None),
            None => {
                let item = ItemKind::Event(event_type);
                self.claim_locally(item, facts, now).map_err(Some)
            }
        }
    }

    fn is_unchecked(&self, item: ItemKind) -> bool {
        match item {
            ItemKind::Event(event_type) => !self.is_restored(type_bit(event_type) | SPOOL_BIT),
            ItemKind::RejectedItem => false,
        }
    }

    /// The verdict of this process' own memory, or whose turn is before.
    fn claim_locally(
        &self,
        item: ItemKind,
        facts: &EventFacts<'_>,
        now: Instant,
    ) -> Result<Decision, ClaimWaiter> {
        // Asked first: what is restored meanwhile was not looked at.
        let unchecked = self.is_unchecked(item);
        let next = match item {
            ItemKind::Event(_) => self.memory.claim(facts, now),
            ItemKind::RejectedItem => self.memory.claim_rejected_item(facts, now),
        };
        match next {
            MemoryDecision::Publish(claim) => Ok(Decision::Publish { claim, unchecked }),
            MemoryDecision::Duplicate { kind, spooled } => {
                Ok(Decision::Duplicate { kind, spooled })
            }
            MemoryDecision::Wait(turn) => Err(turn),
        }
    }

    /// The verdict, before `deadline`; `turn` is what [`Desk::try_claim`] gave back. `None`: the time is up and another copy
    /// of the event is still undecided.
    pub async fn claim(
        &self,
        event_type: EventType,
        facts: &EventFacts<'_>,
        waiter: Option<ClaimWaiter>,
        deadline: Instant,
    ) -> Option<Decision> {
        self.claim_item(ItemKind::Event(event_type), facts, waiter, deadline)
            .await
    }

    /// The same for bytes that are no valid event: a copy of them is a redelivery, whatever the settings say of such. Of what
    /// was stored before the start only what is in the spool is known.
    pub async fn claim_rejected_item(&self, bytes: &[u8], deadline: Instant) -> Option<Decision> {
        let facts = EventFacts::from_bytes(bytes);
        self.claim_item(ItemKind::RejectedItem, &facts, None, deadline)
            .await
    }

    async fn claim_item(
        &self,
        item: ItemKind,
        facts: &EventFacts<'_>,
        waiter: Option<ClaimWaiter>,
        deadline: Instant,
    ) -> Option<Decision> {
        if let Some(turn) = waiter {
            timeout_at(deadline.into(), turn).await.ok()?;
        }
        loop {
            let waiter = match &self.redis {
                None => match self.claim_locally(item, facts, Instant::now()) {
                    Ok(claimed) => return Some(claimed),
                    Err(turn) => turn,
                },
                Some(shared) => {
                    let unchecked = self.is_unchecked(item);
                    let reservation = match item {
                        ItemKind::Event(_) => self.memory.reserve(facts, Instant::now()),
                        ItemKind::RejectedItem => {
                            self.memory.reserve_rejected_item(facts, Instant::now())
                        }
                    };
                    match reservation {
                        ReservationOutcome::Reserved(hold) => {
                            return match shared.decide(facts, hold, deadline).await {
                                RedisDecision::Publish(claim) => {
                                    Some(Decision::Publish { claim, unchecked })
                                }
                                RedisDecision::Duplicate { kind, spooled } => {
                                    Some(Decision::Duplicate { kind, spooled })
                                }
                                RedisDecision::TimedOut => None,
                            };
                        }
                        ReservationOutcome::Redelivery { spooled } => {
                            let kind = DuplicateKind::Redelivery;
                            return Some(Decision::Duplicate { kind, spooled });
                        }
                        ReservationOutcome::Wait(turn) => turn,
                    }
                }
            };
            timeout_at(deadline.into(), waiter).await.ok()?;
        }
    }
}

fn type_bit(event_type: EventType) -> u16 {
    1 << event_type.index()
}
