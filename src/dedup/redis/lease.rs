//! What a claim holds in Redis, and the line to the thread that talks to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use redis::{Cmd, Value};
use tokio::sync::{mpsc, oneshot};

use super::circuit::Circuit;
use super::wire::{Change, Drained, Ending, Stored, Subject, Terms, Token};

/// What the thread is to do.
#[derive(Debug)]
pub enum Message {
    /// Ask, and hand on the answer; none is handed on when there is none.
    Ask(Cmd, oneshot::Sender<Value>),
    /// Say that something is stored, or may be.
    End(Box<Ending>),
    /// Say that what was on disk is in Kafka.
    Drained(Box<Drained>),
    /// Give back what a claim holds: it is not stored.
    Release(Subject),
    /// Keep what a claim holds; whether it is that of a conflict.
    Renew(Subject, bool),
    /// Keep the epoch.
    Keep,
}

/// What all claims of this process share.
#[derive(Debug)]
pub struct Line {
    /// What is agreed between replicas.
    pub terms: Terms,
    /// Whether Redis is asked.
    pub circuit: Circuit,
    /// What had to be done without Redis.
    pub errors: IntCounter,
    /// Tells this process from others.
    owner: u64,
    numbers: AtomicU64,
    open: Mutex<HashMap<Token, Open>>,
    /// Whether there is something stored that Redis will never know of.
    has_forgotten: AtomicBool,
}

#[derive(Debug)]
struct Open {
    subject: Subject,
    conflict: bool,
    renewed: Instant,
}

impl Line {
    /// Nothing is claimed yet. `owner`: a number that no other process has.
    pub fn new(terms: Terms, owner: u64, errors: IntCounter) -> Self {
        Self {
            terms,
            circuit: Circuit::new(),
            errors,
            owner,
            numbers: AtomicU64::new(0),
            open: Mutex::default(),
            has_forgotten: AtomicBool::new(false),
        }
    }

    /// 16 bytes that nobody had before.
    pub fn token(&self) -> Token {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.owner.to_le_bytes());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        token[8..].copy_from_slice(&number.to_le_bytes());
        token
    }

    /// Begins an epoch: no current value that is in Redis now is relied on any more.
    pub fn new_epoch(&self) -> Cmd {
        self.has_forgotten.store(false, Ordering::Relaxed);
        self.terms.new_epoch(&self.token())
    }

    /// Redis will not know of `ending`.
    pub fn forget(&self, ending: &Ending) {
        if ending.granted {
            self.errors.inc();
        }
        if ending.change.current.is_some() {
            self.set_forgotten();
        }
    }

    /// Redis will not know of `drained`: it may lie behind a current value.
    pub fn forget_drained(&self, drained: &Drained) {
        if drained.touches_current() {
            self.set_forgotten();
        }
    }

    /// Current values in Redis are not to be relied on: a new epoch has to begin.
    pub fn set_forgotten(&self) {
        self.has_forgotten.store(true, Ordering::Relaxed);
    }

    /// Whether something was forgotten since [`Line::new_epoch`].
    pub fn has_forgotten(&self) -> bool {
        self.has_forgotten.load(Ordering::Relaxed)
    }

    /// As if the process had died: nothing is renewed any more.
    #[cfg(test)]
    pub fn die(&self) {
        self.open().clear();
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Token, Open>> {
        // A panic while this short lock is held leaves nothing half-done behind.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps the claims that were not renewed for `age`. Commands are made of it later: delivery reports wait for this
    /// lock.
    pub fn renewals(&self, age: Duration, now: Instant) -> Vec<Message> {
        let mut open = self.open();
        let due = open
            .values_mut()
            .filter(|open| now.saturating_duration_since(open.renewed) >= age);
        due.map(|open| {
            open.renewed = now;
            Message::Renew(open.subject, open.conflict)
        })
        .collect()
    }
}

/// What a claim holds in Redis. Dropped, it says that the event is certainly not stored. Nothing here ever waits.
#[derive(Debug)]
#[must_use = "dropped, it is released"]
pub struct Lease {
    line: Arc<Line>,
    outbox: mpsc::Sender<Message>,
    subject: Subject,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Redis was not asked.
    Unasked,
    /// It was asked, and may have granted the claim.
    Asked,
    /// The event is on its way to Kafka.
    Open { granted: bool, change: Change },
    /// Nothing is held.
    Settled,
}

impl Lease {
    pub(super) fn new(line: Arc<Line>, outbox: mpsc::Sender<Message>, subject: Subject) -> Self {
        Self {
            line,
            outbox,
            subject,
            state: State::Unasked,
        }
    }

    /// From now on something may be held.
    pub(super) fn asked(&mut self) {
        self.state = State::Asked;
    }

    /// Nothing is held, as Redis itself says.
    pub(super) fn refused(&mut self) {
        self.state = State::Settled;
    }

    /// The event is published; `granted`: as Redis says.
    pub(super) fn open(mut self, granted: bool, change: Change) -> Self {
        let open = Open {
            subject: self.subject,
            conflict: change.conflict,
            renewed: Instant::now(),
        };
        self.line.open().insert(self.subject.token, open);
        self.state = State::Open { granted, change };
        self
    }

    /// What was claimed is stored; `spooled`: on disk.
    pub fn commit(self, spooled: bool) {
        let state = if spooled {
            Stored::Spooled
        } else {
            Stored::Published
        };
        self.end(state);
    }

    /// Whether what was claimed is stored is not known: others may claim it, and the value that it may have replaced is not
    /// relied on any more.
    pub fn unknown(self) {
        if matches!(&self.state, State::Open { change, .. } if change.current.is_some()) {
            self.end(Stored::Unknown);
        }
        // Else there is nothing that it may have replaced.
    }

    fn end(mut self, stored: Stored) {
        let State::Open { granted, change } = std::mem::replace(&mut self.state, State::Settled)
        else {
            return;
        };
        self.line.open().remove(&self.subject.token);
        let ending = Ending {
            subject: self.subject,
            change,
            stored,
            at: Instant::now(),
            granted,
            again: false,
        };
        let message = Message::End(Box::new(ending));
        if let Err(error) = self.outbox.try_send(message)
            && let Message::End(ending) = error.into_inner()
        {
            self.line.forget(&ending);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.state {
            State::Unasked | State::Settled => return,
            State::Asked => {}
            State::Open { .. } => {
                self.line.open().remove(&self.subject.token);
            }
        }
        // With a full queue it ends by itself, a lease's time from now.
        let _ = self.outbox.try_send(Message::Release(self.subject));
    }
}
