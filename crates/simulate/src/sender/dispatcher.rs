//! What all tasks of the sender share: the queue, the ledger, the journal. They run on one thread, so nothing is locked.

pub(super) mod admission;
mod late_answers;

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::Notify;

use super::client::SenderClient;
use super::deadline::TaskDeadline;
use super::generator::OutgoingEvent;
use super::queue::SendQueue;
use super::response::ServerResponse;
use super::target::SendTarget;
use super::tries::{SendJob, SendOutcome, SenderTimings, TryDecision, TryOutcome};
use crate::journal::{
    AttemptCause, DeliveryAttempt, JournalWriter, RecordedOutcome, ReportedPosition,
};
use crate::ledger::RunLedger;

pub(super) struct Dispatcher {
    /// At least one.
    pub targets: Vec<SendTarget>,
    pub timings: SenderTimings,
    pub ledger: RefCell<RunLedger>,
    pub deadlines: Vec<TaskDeadline>,
    journal: RefCell<Option<JournalWriter>>,
    /// Why the journal could not be written: then nothing goes on.
    journal_error: RefCell<Option<std::io::Error>>,
    queue: RefCell<SendQueue>,
    /// Slots without work, the last one to become so last: it is the next to get some.
    idle: RefCell<Vec<usize>>,
    /// Of each slot without work, and of no other.
    wakers: RefCell<Vec<Option<Waker>>>,
    /// Who waits for room in the queue.
    admission_waker: Cell<Option<Waker>>,
    /// Each event has its moment, whether or not there is a connection for it: an open loop.
    is_open_loop: Cell<bool>,
    /// Nothing more will be admitted.
    is_admission_closed: Cell<bool>,
    /// Nothing more will be tried.
    has_given_up: Cell<bool>,
    over_since: Cell<Option<Instant>>,
    last_accepted: Cell<Option<Instant>>,
    has_connected: Cell<bool>,
    listener_count: Cell<usize>,
    /// Since when all work waits for those who listen.
    blocked_since: Cell<Option<Instant>>,
    /// Ends those who listen for late answers.
    pub stop_listening: Notify,
}

impl Dispatcher {
    pub(super) fn new(
        targets: Vec<SendTarget>,
        timings: SenderTimings,
        connections: usize,
        ledger: RunLedger,
        journal: Option<JournalWriter>,
    ) -> Self {
        Self {
            targets,
            timings,
            is_open_loop: Cell::new(ledger.is_paced()),
            ledger: RefCell::new(ledger),
            deadlines: (0..connections).map(|_| TaskDeadline::default()).collect(),
            journal: RefCell::new(journal),
            journal_error: RefCell::default(),
            queue: RefCell::default(),
            idle: RefCell::default(),
            wakers: RefCell::new(vec![None; connections]),
            admission_waker: Cell::default(),
            is_admission_closed: Cell::new(false),
            has_given_up: Cell::new(false),
            over_since: Cell::default(),
            last_accepted: Cell::default(),
            has_connected: Cell::new(false),
            listener_count: Cell::new(0),
            blocked_since: Cell::default(),
            stop_listening: Notify::new(),
        }
    }

    /// The next job for a slot; `None` once there will be none. Idle connections are looked after meanwhile.
    pub(super) fn poll_next(
        &self,
        slot: usize,
        connections: &mut [Option<Box<SenderClient>>],
        cx: &mut Context<'_>,
    ) -> Poll<Option<SendJob>> {
        loop {
            let job = self.queue.borrow_mut().next();
            let Some(job) = job else { break };
            self.wake_admission();
            if job.is_too_late(Instant::now(), &self.timings) {
                self.finish_delivery(&job.outgoing, job.drop_outcome());
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
        self.is_admission_closed.get() && self.queue.borrow().outstanding() == 0
    }

    fn wake_slots(&self, slots: usize) {
        let mut idle = self.idle.borrow_mut();
        for _ in 0..slots.min(idle.len()) {
            let slot = idle.pop();
            if let Some(waker) = slot.and_then(|slot| self.wakers.borrow_mut()[slot].take()) {
                waker.wake();
            }
        }
    }

    pub(super) fn mark_connected(&self) {
        self.has_connected.set(true);
    }

    /// A try ended: the ledger and the journal hear of it, and the job is tried again, or ends.
    pub(super) fn conclude_try(&self, mut job: SendJob, tried: TryOutcome, now: Instant) {
        {
            let mut ledger = self.ledger.borrow_mut();
            match &tried {
                TryOutcome::Answered(answered) => {
                    ledger.record_response(answered, job.outgoing.kind)
                }
                // Counted where its reason is known.
                TryOutcome::Unconnected => {}
                TryOutcome::Broken => ledger.record_broken_connection(),
                TryOutcome::TimedOut => ledger.record_timeout(),
            }
        }
        match &tried {
            TryOutcome::Answered(answered) => {
                self.journal_attempt(&job.outgoing, job.cause, Some(answered), false)
            }
            TryOutcome::Broken => self.journal_attempt(&job.outgoing, job.cause, None, false),
            // Nothing was sent, and what was may still be answered.
            TryOutcome::Unconnected | TryOutcome::TimedOut => {}
        }
        match job.conclude_try(tried, now, &self.timings) {
            TryDecision::Finish(end) => {
                if end == SendOutcome::Accepted {
                    self.last_accepted.set(Some(now));
                    let latency = job.latency(now);
                    self.ledger.borrow_mut().record_acceptance(latency, now);
                }
                self.finish_delivery(&job.outgoing, end);
            }
            TryDecision::RetryAt(_) if self.has_given_up.get() => {
                self.finish_delivery(&job.outgoing, job.drop_outcome())
            }
            TryDecision::RetryAt(at) => self.queue.borrow_mut().pause(job, at),
        }
    }

    fn finish_delivery(&self, outgoing: &OutgoingEvent, end: SendOutcome) {
        self.count_outcome(outgoing, end);
        let ready = self.queue.borrow_mut().finish(outgoing.reading_key);
        // Whoever ended this one looks for the next one itself.
        self.wake_slots(ready.saturating_sub(1));
        self.wake_admission();
        if self.is_done() {
            self.wake_slots(usize::MAX);
        }
    }

    fn count_outcome(&self, outgoing: &OutgoingEvent, end: SendOutcome) {
        let mut ledger = self.ledger.borrow_mut();
        ledger.record_send_outcome(outgoing.event_type, outgoing.kind, end);
    }

    /// Notes a request that was given up in the journal, with its late answer. `None`: whether the server has it is not
    /// known.
    pub(super) fn journal_late_answer(
        &self,
        outgoing: &OutgoingEvent,
        cause: AttemptCause,
        answered: Option<&ServerResponse>,
    ) {
        self.journal_attempt(outgoing, cause, answered, true);
    }

    /// Notes what is known in the end of a request that reached a server.
    fn journal_attempt(
        &self,
        outgoing: &OutgoingEvent,
        cause: AttemptCause,
        answered: Option<&ServerResponse>,
        late: bool,
    ) {
        let answer = answered.map_or(RecordedOutcome::Unknown, ServerResponse::journal_answer);
        let (event_type, kind) = (outgoing.event_type, outgoing.kind);
        self.ledger
            .borrow_mut()
            .record_answer(event_type, kind, answer);
        let mut journal = self.journal.borrow_mut();
        let Some(journal) = journal.as_mut() else {
            return;
        };
        let attempt = DeliveryAttempt {
            reading_key: outgoing.reading_key,
            id: outgoing.id,
            value_hash: outgoing.body_hash,
            data_hash: outgoing.data_hash,
            event_type,
            cause,
            outcome: answer,
            late,
            contradictory: answered.is_some_and(ServerResponse::is_contradictory),
            reported_position: answered
                .and_then(|a| a.position)
                .map(|(partition, offset)| ReportedPosition { partition, offset }),
        };
        if let Err(error) = journal.record_attempt(&attempt) {
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
            deadline.expire_if_due(now);
        }
        let resumed = self.queue.borrow_mut().resume(now);
        self.wake_slots(resumed);
        self.wake_admission();
        if over && self.over_since.get().is_none() {
            self.over_since.set(Some(now));
        }
        if over {
            self.release_blocked_work(now);
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
        !self.has_connected.get()
            && now >= begun + self.timings.unreachable_timeout
            && self.ledger.borrow().last_connection_error().is_some()
    }

    fn give_up(&self) {
        if self.has_given_up.replace(true) {
            return;
        }
        let waiting = self.queue.borrow_mut().drain_waiting();
        for job in waiting {
            let end = match job.tries {
                0 => SendOutcome::Unsent,
                _ => job.drop_outcome(),
            };
            self.count_outcome(&job.outgoing, end);
        }
        self.admission_waker.take().inspect(Waker::wake_by_ref);
        self.wake_slots(usize::MAX);
    }

    pub(super) fn into_parts(self) -> DispatcherParts {
        debug_assert!(self.ledger.borrow().is_balanced());
        DispatcherParts {
            unreachable: !self.has_connected.get() && self.has_given_up.get(),
            given_up: self.has_given_up.get(),
            ledger: self.ledger.into_inner(),
            journal: self.journal.into_inner(),
            journal_error: self.journal_error.into_inner(),
        }
    }
}

/// What is left when all tasks have ended.
pub(super) struct DispatcherParts {
    pub ledger: RunLedger,
    pub journal: Option<JournalWriter>,
    pub journal_error: Option<std::io::Error>,
    pub given_up: bool,
    pub unreachable: bool,
}
