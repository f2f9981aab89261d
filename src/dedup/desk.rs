//! Where the pipeline asks: is this event new?

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout_at;

use super::claim::{Claim, Held, Next, Turn};
use super::memory::Memory;
use super::redis::{Decided, Shared};
use super::{Duplicate, Facts};
use crate::config;
use crate::event::EventType;
use crate::metrics::Metrics;

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
    Duplicate(Duplicate),
}

/// Knows what is stored, or asks who does.
#[derive(Debug)]
pub struct Desk {
    memory: Arc<Memory>,
    shared: Option<Arc<Shared>>,
    /// Types of which is known what was stored before the start: bits by [`EventType::index`].
    known: AtomicU16,
    changed: watch::Sender<()>,
    incomplete: OnceLock<String>,
}

const ALL: u16 = (1 << EventType::ALL.len()) - 1;

impl Desk {
    /// An empty memory, to be rebuilt; `None` where duplicates are not looked for at all.
    ///
    /// # Errors
    /// A Redis address that cannot be used.
    pub fn open(config: &config::Config, metrics: &Metrics) -> Result<Option<Self>, String> {
        let settings = &config.dedup;
        if !settings.is_on() {
            return Ok(None);
        }
        let shared = match &settings.store {
            config::Store::Memory => None,
            config::Store::Redis(redis) => {
                let errors = metrics.dedup.redis_errors.clone();
                let shared = Shared::start(settings, redis, &config.topics.names(), errors);
                Some(shared.map_err(|problem| format!("dedup.redis_url: {problem}"))?)
            }
        };
        Ok(Some(Self {
            memory: Memory::new(settings, Instant::now()),
            shared,
            known: AtomicU16::new(0),
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
        self.knows(ALL)
    }

    /// From now on it is, of this type.
    pub fn set_known(&self, event_type: EventType) {
        self.set(bit(event_type));
    }

    /// From now on it is, of all types: nothing more is restored.
    pub fn set_rebuilt(&self) {
        self.memory.restored();
        self.set(ALL);
    }

    /// Not all of it is, and will be: `why`.
    pub fn set_incomplete(&self, why: String) {
        let _ = self.incomplete.set(why);
    }

    /// Why what was stored before the start is not known whole, if so.
    pub fn incomplete(&self) -> Option<&str> {
        self.incomplete.get().map(String::as_str)
    }

    fn set(&self, types: u16) {
        self.known.fetch_or(types, Ordering::Release);
        self.changed.send_replace(());
    }

    fn knows(&self, types: u16) -> bool {
        self.known.load(Ordering::Acquire) & types == types
    }

    /// Just after a start a request waits until the topics of its events are read back, for half of the time that it has;
    /// then its events are taken unchecked. A topic that cannot be read does not keep the events of others waiting.
    ///
    /// Also with Redis, which may have been started empty.
    pub async fn wait_until_known(
        &self,
        types: impl Iterator<Item = EventType>,
        deadline: Instant,
    ) {
        let types = types.map(bit).fold(0, std::ops::BitOr::bitor);
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
            None => self.claim_here(event_type, facts, now).map_err(Some),
        }
    }

    /// The verdict of this process' own memory, or whose turn is before.
    fn claim_here(
        &self,
        event_type: EventType,
        facts: &Facts<'_>,
        now: Instant,
    ) -> Result<Claimed, Turn> {
        // Asked first: what is restored meanwhile was not looked at.
        let unchecked = !self.knows(bit(event_type));
        match self.memory.claim(facts, now) {
            Next::Publish(claim) => Ok(Claimed::Publish { claim, unchecked }),
            Next::Duplicate(kind) => Ok(Claimed::Duplicate(kind)),
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
        if let Some(turn) = turn {
            timeout_at(deadline.into(), turn).await.ok()?;
        }
        loop {
            let turn = match &self.shared {
                None => match self.claim_here(event_type, facts, Instant::now()) {
                    Ok(claimed) => return Some(claimed),
                    Err(turn) => turn,
                },
                Some(shared) => {
                    let unchecked = !self.knows(bit(event_type));
                    match self.memory.hold(facts, Instant::now()) {
                        Held::Hold(hold) => {
                            return match shared.decide(facts, hold, deadline).await {
                                Decided::Publish(claim) => {
                                    Some(Claimed::Publish { claim, unchecked })
                                }
                                Decided::Duplicate(kind) => Some(Claimed::Duplicate(kind)),
                                Decided::TimedOut => None,
                            };
                        }
                        Held::Redelivery => {
                            return Some(Claimed::Duplicate(Duplicate::Redelivery));
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
