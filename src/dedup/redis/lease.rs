//! What a claim holds in Redis, and the line to the thread that talks to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use redis::{Cmd, Value};
use tokio::sync::{mpsc, oneshot};

use super::circuit::Circuit;
use super::wire::{Change, Stored, Subject, Terms, Token};

/// What the thread is to do.
#[derive(Debug)]
pub enum Message {
    /// Ask, and hand on the answer; none is handed on when there is none.
    Ask(Cmd, oneshot::Sender<Value>),
    /// Say that something is stored.
    Commit(Box<Stored>),
    /// Give back what a claim holds.
    Release(Cmd),
    /// Keep what a claim holds.
    Renew(Cmd),
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
    open: Mutex<HashMap<Token, Open>>,
}

#[derive(Debug)]
struct Open {
    subject: Subject,
    change: Change,
    renewed: Instant,
}

impl Line {
    /// Nothing is claimed yet.
    pub fn new(terms: Terms, errors: IntCounter) -> Self {
        Self {
            terms,
            circuit: Circuit::new(),
            errors,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Token, Open>> {
        // A panic while this short lock is held leaves nothing half-done behind.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps the claims that were not renewed for `age`.
    pub fn renewals(&self, age: Duration, now: Instant) -> Vec<Message> {
        let mut open = self.open();
        let due = open
            .values_mut()
            .filter(|open| now.saturating_duration_since(open.renewed) >= age);
        due.map(|open| {
            open.renewed = now;
            Message::Renew(self.terms.renew(&open.subject, &open.change))
        })
        .collect()
    }
}

/// What a claim holds in Redis. Dropped uncommitted, it is released. Neither ever waits.
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
            change: change.clone(),
            renewed: Instant::now(),
        };
        self.line.open().insert(self.subject.token, open);
        self.state = State::Open { granted, change };
        self
    }

    /// What was claimed is stored.
    pub fn commit(mut self) {
        let State::Open { granted, change } = std::mem::replace(&mut self.state, State::Settled)
        else {
            return;
        };
        self.line.open().remove(&self.subject.token);
        let stored = Stored {
            subject: self.subject,
            change,
            at: Instant::now(),
            granted,
            again: false,
        };
        let message = Message::Commit(Box::new(stored));
        if self.outbox.try_send(message).is_err() && granted {
            self.line.errors.inc();
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
        let release = self.line.terms.release(&self.subject);
        // With a full queue it ends by itself, a lease's time from now.
        let _ = self.outbox.try_send(Message::Release(release));
    }
}
