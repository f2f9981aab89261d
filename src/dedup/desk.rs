//! Where the pipeline asks: is this event new?

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout_at;

use super::claim::{Claim, Held, Next, Turn};
use super::memory::Memory;
use super::redis::{Decided, Shared};
use super::spooled::SpooledTold;
use super::{Duplicate, Facts, Marks};
use crate::config;
use crate::metrics::Metrics;
use butlr_event::EventType;

/// What is to become of an event.
#[derive(Debug)]
pub enum Claimed {
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
        kind: Duplicate,
        /// What it is a duplicate of is on disk and not in Kafka yet.
        spooled: bool,
    },
}

/// What is claimed.
#[derive(Clone, Copy)]
enum What {
    Event(EventType),
    /// Bytes that are no valid event.
    Bytes,
}

/// Knows what is stored, or asks who does.
#[derive(Debug)]
pub struct Desk {
    memory: Arc<Memory>,
    shared: Option<Arc<Shared>>,
    /// Of what is known what was stored before the start: types, by [`EventType::index`], and [`SPOOL`]; and [`OVER`].
    known: AtomicU16,
    changed: watch::Sender<()>,
    incomplete: OnceLock<String>,
}

const TYPES: u16 = (1 << EventType::ALL.len()) - 1;
/// What is in the spool.
const SPOOL: u16 = 1 << EventType::ALL.len();
/// No more is read from the topics.
const OVER: u16 = SPOOL << 1;

impl Desk {
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
                let shared = Shared::start(settings, redis, &config.topics.names(), errors);
                Some(shared.map_err(|problem| format!("dedup.redis_url: {problem}"))?)
            }
        };
        Ok(Some(Self {
            memory: Memory::new(settings, Instant::now()),
            shared,
            known: AtomicU16::new(SPOOL),
            changed: watch::Sender::new(()),
            incomplete: OnceLock::new(),
        }))
    }

    /// Waits until what was stored is told to other replicas, at most `patience`.
    pub async fn flush(&self, patience: Duration) {
        if let Some(shared) = &self.shared {
            shared.flush(patience).await;
        }
    }

    /// What this process knows to be stored.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Whether what was stored before the start is known, as far as it ever will be.
    pub fn is_rebuilt(&self) -> bool {
        self.knows(TYPES | SPOOL)
    }

    /// There is a spool: until [`Desk::spool_restored`], what was stored before the start is not known, and the topics are
    /// not read. To be called before the rebuilding starts.
    pub fn expect_spool(&self) {
        self.known.fetch_and(!SPOOL, Ordering::Release);
    }

    /// What one entry of the spool tells; the newest are to come first.
    ///
    /// With Redis, too, only this process learns of it: Redis was told when it was spooled, and where it has lost that, copies
    /// that reach other replicas are published, as with all that it loses.
    pub fn restore_spooled(&self, told: SpooledTold) {
        self.memory.restore_spooled(told, Instant::now());
    }

    /// Not all that is in the spool will be known: the rest may replace what the topics tell as a current value. To be called
    /// after what is known of it was told.
    pub fn doubt_restored(&self) {
        self.memory.doubt_restored();
    }

    /// What is in the spool is known, as far as it ever will be.
    pub fn spool_restored(&self) {
        self.set(SPOOL);
    }

    /// Whether what is in the spool is known, or there is none.
    pub fn knows_spool(&self) -> bool {
        self.knows(SPOOL)
    }

    /// An event that was spooled, with these marks, is refused by Kafka for good. (Other replicas take it for stored while
    /// Redis remembers it.)
    pub fn set_aside(&self, facts: &Facts<'_>, marks: &Marks) {
        self.memory.forget(facts, marks);
    }

    /// Something of the spool is lost, and nobody knows what: nothing of it is known any more. (With Redis no current value is
    /// relied on, either; but ids of what was spooled are those of something stored while Redis remembers them.)
    pub fn distrust_spooled(&self) {
        self.memory.distrust_spooled();
        if let Some(shared) = &self.shared {
            shared.distrust_spooled();
        }
    }

    /// An event that was spooled, with these marks, is in Kafka now. Nothing is waited for.
    pub fn drained(&self, facts: &Facts<'_>, marks: &Marks) {
        let follows = self.memory.drained(facts, marks);
        if let Some(shared) = &self.shared {
            shared.drained(facts, marks, follows);
        }
    }

    /// From now on it is, of this type.
    pub fn set_known(&self, event_type: EventType) {
        self.set(bit(event_type));
    }

    /// From now on it is, of all types: nothing more is read from the topics.
    pub fn set_rebuilt(&self) {
        self.set(TYPES | OVER);
    }

    /// Not all of it is, and will be: `why`.
    pub fn set_incomplete(&self, why: String) {
        let _ = self.incomplete.set(why);
    }

    /// Why what was stored before the start is not known whole, if so.
    pub fn incomplete(&self) -> Option<&str> {
        self.incomplete.get().map(String::as_str)
    }

    fn set(&self, known: u16) {
        self.known.fetch_or(known, Ordering::AcqRel);
        if self.knows(SPOOL | OVER) {
            self.memory.restored();
        }
        self.changed.send_replace(());
    }

    fn knows(&self, all: u16) -> bool {
        self.known.load(Ordering::Acquire) & all == all
    }

    /// Just after a start a request waits until the spool and the topics of its events are read back, for half of the time
    /// that it has; then its events are taken unchecked. A topic that cannot be read does not keep the events of others waiting.
    ///
    /// Also with Redis, which may have been started empty.
    pub async fn wait_until_known(
        &self,
        types: impl Iterator<Item = EventType>,
        deadline: Instant,
    ) {
        let types = types.map(bit).fold(SPOOL, std::ops::BitOr::bitor);
        if self.knows(types) {
            return;
        }
        let now = Instant::now();
        let patience = now + deadline.saturating_duration_since(now) / 2;
        let mut changed = self.changed.subscribe();
        let is_known = changed.wait_for(|()| self.knows(types));
        let _ = timeout_at(patience.into(), is_known).await;
    }

    /// The verdict, where it can be had at once. Otherwise [`Desk::claim`] is to be waited for, with what comes back.
    ///
    /// # Errors
    /// It takes a while: another event has to be decided first, or Redis asked.
    pub fn try_claim(
        &self,
        event_type: EventType,
        facts: &Facts<'_>,
        now: Instant,
    ) -> Result<Claimed, Option<Turn>> {
        match self.shared {
            Some(_) => Err(None),
            None => {
                let what = What::Event(event_type);
                self.claim_here(what, facts, now).map_err(Some)
            }
        }
    }

    fn is_unchecked(&self, what: What) -> bool {
        match what {
            What::Event(event_type) => !self.knows(bit(event_type) | SPOOL),
            What::Bytes => false,
        }
    }

    /// The verdict of this process' own memory, or whose turn is before.
    fn claim_here(&self, what: What, facts: &Facts<'_>, now: Instant) -> Result<Claimed, Turn> {
        // Asked first: what is restored meanwhile was not looked at.
        let unchecked = self.is_unchecked(what);
        let next = match what {
            What::Event(_) => self.memory.claim(facts, now),
            What::Bytes => self.memory.claim_bytes(facts, now),
        };
        match next {
            Next::Publish(claim) => Ok(Claimed::Publish { claim, unchecked }),
            Next::Duplicate { kind, spooled } => Ok(Claimed::Duplicate { kind, spooled }),
            Next::Wait(turn) => Err(turn),
        }
    }

    /// The verdict, before `deadline`; `turn` is what [`Desk::try_claim`] gave back. `None`: the time is up and another copy
    /// of the event is still undecided.
    pub async fn claim(
        &self,
        event_type: EventType,
        facts: &Facts<'_>,
        turn: Option<Turn>,
        deadline: Instant,
    ) -> Option<Claimed> {
        self.claim_what(What::Event(event_type), facts, turn, deadline)
            .await
    }

    /// The same for bytes that are no valid event: a copy of them is a redelivery, whatever the settings say of such. Of what
    /// was stored before the start only what is in the spool is known.
    pub async fn claim_bytes(&self, bytes: &[u8], deadline: Instant) -> Option<Claimed> {
        let facts = Facts::of_bytes(bytes);
        self.claim_what(What::Bytes, &facts, None, deadline).await
    }

    async fn claim_what(
        &self,
        what: What,
        facts: &Facts<'_>,
        turn: Option<Turn>,
        deadline: Instant,
    ) -> Option<Claimed> {
        if let Some(turn) = turn {
            timeout_at(deadline.into(), turn).await.ok()?;
        }
        loop {
            let turn = match &self.shared {
                None => match self.claim_here(what, facts, Instant::now()) {
                    Ok(claimed) => return Some(claimed),
                    Err(turn) => turn,
                },
                Some(shared) => {
                    let unchecked = self.is_unchecked(what);
                    let held = match what {
                        What::Event(_) => self.memory.hold(facts, Instant::now()),
                        What::Bytes => self.memory.hold_bytes(facts, Instant::now()),
                    };
                    match held {
                        Held::Hold(hold) => {
                            return match shared.decide(facts, hold, deadline).await {
                                Decided::Publish(claim) => {
                                    Some(Claimed::Publish { claim, unchecked })
                                }
                                Decided::Duplicate { kind, spooled } => {
                                    Some(Claimed::Duplicate { kind, spooled })
                                }
                                Decided::TimedOut => None,
                            };
                        }
                        Held::Redelivery { spooled } => {
                            let kind = Duplicate::Redelivery;
                            return Some(Claimed::Duplicate { kind, spooled });
                        }
                        Held::Wait(turn) => turn,
                    }
                }
            };
            timeout_at(deadline.into(), turn).await.ok()?;
        }
    }
}

fn bit(event_type: EventType) -> u16 {
    1 << event_type.index()
}
