//! What all tasks of the sender share: the queue, the ledger, the journal. They run on one thread, so nothing is locked.

pub(super) mod admit;
mod late;

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::Notify;

use super::answer::Answered;
use super::client::Client;
use super::deadline::Deadline;
use super::generate::Outgoing;
use super::queue::Queue;
use super::target::Target;
use super::tries::{End, Job, Next, Timings, Tried};
use crate::journal::{Answer, Attempt, Cause, Journal};
use crate::ledger::Ledger;

pub(super) struct Dispatch {
    /// At least one.
    pub targets: Vec<Target>,
    pub timings: Timings,
    pub ledger: RefCell<Ledger>,
    pub deadlines: Vec<Deadline>,
    journal: RefCell<Option<Journal>>,
    /// Why the journal could not be written: then nothing goes on.
    journal_error: RefCell<Option<std::io::Error>>,
    queue: RefCell<Queue>,
    /// Slots without work, the last one to become so last: it is the next to get some.
    idle: RefCell<Vec<usize>>,
    /// Of each slot without work, and of no other.
    wakers: RefCell<Vec<Option<Waker>>>,
    /// Who waits for room in the queue.
    admitting: Cell<Option<Waker>>,
    /// Each event has its moment, whether or not there is a connection for it: an open loop.
    open: Cell<bool>,
    /// Nothing more will be admitted.
    closed: Cell<bool>,
    /// Nothing more will be tried.
    given_up: Cell<bool>,
    over_since: Cell<Option<Instant>>,
    last_accepted: Cell<Option<Instant>>,
    connected: Cell<bool>,
    listening: Cell<usize>,
    /// Since when all work waits for those who listen.
    held_up_since: Cell<Option<Instant>>,
    /// Ends those who listen for late answers.
    pub hang_up: Notify,
}

impl Dispatch {
    pub(super) fn new(
        targets: Vec<Target>,
        timings: Timings,
        connections: usize,
        ledger: Ledger,
        journal: Option<Journal>,
    ) -> Self {
        Self {
            targets,
            timings,
            open: Cell::new(ledger.is_paced()),
            ledger: RefCell::new(ledger),
            deadlines: (0..connections).map(|_| Deadline::default()).collect(),
            journal: RefCell::new(journal),
            journal_error: RefCell::default(),
            queue: RefCell::default(),
            idle: RefCell::default(),
            wakers: RefCell::new(vec![None; connections]),
            admitting: Cell::default(),
            closed: Cell::new(false),
            given_up: Cell::new(false),
            over_since: Cell::default(),
            last_accepted: Cell::default(),
            connected: Cell::new(false),
            listening: Cell::new(0),
            held_up_since: Cell::default(),
            hang_up: Notify::new(),
        }
    }

    /// The next job for a slot; `None` once there will be none. Idle connections are looked after meanwhile.
    pub(super) fn poll_next(
        &self,
        slot: usize,
        connections: &mut [Option<Box<Client>>],
        cx: &mut Context<'_>,
    ) -> Poll<Option<Job>> {
        loop {
            let job = self.queue.borrow_mut().next();
            let Some(job) = job else { break };
            self.admit_more();
            if job.is_too_late(Instant::now(), &self.timings) {
                self.end(&job.outgoing, job.drop_end());
                continue;
            }
            // Its connection may have woken it: nobody must take it for idle any more.
            if self.wakers.borrow_mut()[slot].take().is_some() {
                self.idle.borrow_mut().retain(|idle| *idle != slot);
            }
            return Poll::Ready(Some(job));
        }
        if self.is_done() {
            return Poll::Ready(None);
        }
        for connection in connections {
            if let Some(client) = connection
                && client.poll_closed(cx).is_ready()
            {
                *connection = None;
            }
        }
        if self.wakers.borrow_mut()[slot]
            .replace(cx.waker().clone())
            .is_none()
        {
            self.idle.borrow_mut().push(slot);
        }
        Poll::Pending
    }

    fn is_done(&self) -> bool {
        self.closed.get() && self.queue.borrow().outstanding() == 0
    }

    fn wake(&self, slots: usize) {
        let mut idle = self.idle.borrow_mut();
        for _ in 0..slots.min(idle.len()) {
            let slot = idle.pop();
            if let Some(waker) = slot.and_then(|slot| self.wakers.borrow_mut()[slot].take()) {
                waker.wake();
            }
        }
    }

    pub(super) fn connected(&self) {
        self.connected.set(true);
    }

    /// A try ended: the ledger and the journal hear of it, and the job is tried again, or ends.
    pub(super) fn conclude(&self, mut job: Job, tried: Tried, now: Instant) {
        {
            let mut ledger = self.ledger.borrow_mut();
            match &tried {
                Tried::Answered(answered) => ledger.answered(answered, job.outgoing.kind),
                // Counted where its reason is known.
                Tried::Unconnected => {}
                Tried::Broken => ledger.broken(),
                Tried::TimedOut => ledger.timed_out(),
            }
        }
        match &tried {
            Tried::Answered(answered) => {
                self.journal(&job.outgoing, job.cause, Some(answered), false)
            }
            Tried::Broken => self.journal(&job.outgoing, job.cause, None, false),
            // Nothing was sent, and what was may still be answered.
            Tried::Unconnected | Tried::TimedOut => {}
        }
        match job.conclude(tried, now, &self.timings) {
            Next::End(end) => {
                if end == End::Accepted {
                    self.last_accepted.set(Some(now));
                    let latency = job.latency(now);
                    self.ledger.borrow_mut().accepted(latency, now);
                }
                self.end(&job.outgoing, end);
            }
            Next::TryAt(_) if self.given_up.get() => self.end(&job.outgoing, job.drop_end()),
            Next::TryAt(at) => self.queue.borrow_mut().pause(job, at),
        }
    }

    fn end(&self, outgoing: &Outgoing, end: End) {
        self.count_end(outgoing, end);
        let ready = self.queue.borrow_mut().ended(outgoing.key);
        // Whoever ended this one looks for the next one itself.
        self.wake(ready.saturating_sub(1));
        self.admit_more();
        if self.is_done() {
            self.wake(usize::MAX);
        }
    }

    fn count_end(&self, outgoing: &Outgoing, end: End) {
        let mut ledger = self.ledger.borrow_mut();
        ledger.delivered(outgoing.event_type, outgoing.kind, end);
    }

    /// Notes a request that was given up in the journal, with its late answer. `None`: whether the server has it is not
    /// known.
    pub(super) fn note(&self, outgoing: &Outgoing, cause: Cause, answered: Option<&Answered>) {
        self.journal(outgoing, cause, answered, true);
    }

    /// Notes what is known in the end of a request that reached a server.
    fn journal(&self, outgoing: &Outgoing, cause: Cause, answered: Option<&Answered>, late: bool) {
        let answer = answered.map_or(Answer::Unknown, Answered::meaning);
        let (event_type, kind) = (outgoing.event_type, outgoing.kind);
        self.ledger.borrow_mut().told(event_type, kind, answer);
        let mut journal = self.journal.borrow_mut();
        let Some(journal) = journal.as_mut() else {
            return;
        };
        let attempt = Attempt {
            key: outgoing.key,
            id: outgoing.id,
            value: outgoing.value,
            data: outgoing.data,
            event_type,
            cause,
            answer,
            late,
            contradictory: answered.is_some_and(Answered::is_contradictory),
            at: answered.and_then(|a| a.at),
        };
        if let Err(error) = journal.note(&attempt) {
            self.journal_error.borrow_mut().get_or_insert(error);
        }
    }

    /// Whether answers' partitions and offsets are wanted.
    pub(super) fn is_journaled(&self) -> bool {
        self.journal.borrow().is_some()
    }

    /// What has to be done every few milliseconds. `over`: the run has come to its end but for what is on its way.
    pub(super) fn tick(&self, now: Instant, begun: Instant, over: bool) {
        for deadline in &self.deadlines {
            deadline.look(now);
        }
        let resumed = self.queue.borrow_mut().resume(now);
        self.wake(resumed);
        self.admit_more();
        if over && self.over_since.get().is_none() {
            self.over_since.set(Some(now));
        }
        if over {
            self.hold_up_no_longer(now);
        }
        // Without any success for as long as a delivery may take, none is to be expected.
        let patience = self.timings.window + self.timings.http_timeout;
        let hopeless = self.over_since.get().is_some_and(|since| {
            now >= self.last_accepted.get().map_or(since, |at| at.max(since)) + patience
        });
        let broken = self.journal_error.borrow().is_some();
        if hopeless || broken || self.is_unreachable(now, begun) {
            self.give_up();
        }
    }

    fn is_unreachable(&self, now: Instant, begun: Instant) -> bool {
        !self.connected.get()
            && now >= begun + self.timings.give_up
            && self.ledger.borrow().last_connection_error().is_some()
    }

    fn give_up(&self) {
        if self.given_up.replace(true) {
            return;
        }
        let waiting = self.queue.borrow_mut().give_up();
        for job in waiting {
            let end = match job.tries {
                0 => End::Unsent,
                _ => job.drop_end(),
            };
            self.count_end(&job.outgoing, end);
        }
        self.admitting.take().inspect(Waker::wake_by_ref);
        self.wake(usize::MAX);
    }

    pub(super) fn into_parts(self) -> Parts {
        debug_assert!(self.ledger.borrow().is_balanced());
        Parts {
            unreachable: !self.connected.get() && self.given_up.get(),
            given_up: self.given_up.get(),
            ledger: self.ledger.into_inner(),
            journal: self.journal.into_inner(),
            journal_error: self.journal_error.into_inner(),
        }
    }
}

/// What is left when all tasks have ended.
pub(super) struct Parts {
    pub ledger: Ledger,
    pub journal: Option<Journal>,
    pub journal_error: Option<std::io::Error>,
    pub given_up: bool,
    pub unreachable: bool,
}
