//! State shared by all tasks of the sender: queue, ledger and journal. They run on one thread, so
//! there are no locks.

pub(super) mod admission;
mod late_responses;

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::Notify;

use super::client::SenderClient;
use super::deadline::TaskDeadline;
use super::generator::OutgoingEvent;
use super::queue::SendQueue;
use super::response::ResponseDetail;
use super::target::SendTarget;
use super::tries::{SendJob, SenderTimings, TryDecision, TryOutcome};
use crate::journal::{
    AttemptCause, DeliveryAttempt, JournalWriter, RecordedOutcome, ReportedPosition,
};
use crate::ledger::{LoopKind, RunLedger};
use crate::outcome::{SendOutcome, ServerResponse};

pub(super) struct Dispatcher {
    /// Servers to send to, at least one.
    pub targets: Vec<SendTarget>,
    pub timings: SenderTimings,
    pub ledger: RefCell<RunLedger>,
    pub deadlines: Vec<TaskDeadline>,
    journal: RefCell<Option<JournalWriter>>,
    /// First error of the journal; it ends the run.
    journal_error: RefCell<Option<std::io::Error>>,
    queue: RefCell<SendQueue>,
    /// Idle slots; the one that became idle last is the next to get work.
    idle: RefCell<Vec<usize>>,
    /// Wakers of the idle slots, and of no others.
    wakers: RefCell<Vec<Option<Waker>>>,
    /// Waker of the task that waits for room in the queue.
    admission_waker: Cell<Option<Waker>>,
    /// Set while events have a send time that does not depend on free connections.
    is_open_loop: Cell<bool>,
    /// Set once no more events will be admitted.
    is_admission_closed: Cell<bool>,
    phase: Cell<RunPhase>,
    last_accepted: Cell<Option<Instant>>,
    has_connected: Cell<bool>,
    listener_count: Cell<usize>,
    /// Time since when all work has been waiting for late responses.
    blocked_since: Cell<Option<Instant>>,
    /// Ends the tasks that wait for late responses.
    pub stop_listening: Notify,
}

/// Phase of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RunPhase {
    Sending,
    /// The run has ended; what remains is still sent.
    Draining {
        since: Instant,
    },
    /// Nothing is tried any more.
    GivenUp,
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
            is_open_loop: Cell::new(ledger.loop_kind() == LoopKind::Open),
            ledger: RefCell::new(ledger),
            deadlines: (0..connections).map(|_| TaskDeadline::default()).collect(),
            journal: RefCell::new(journal),
            journal_error: RefCell::default(),
            queue: RefCell::default(),
            idle: RefCell::default(),
            wakers: RefCell::new(vec![None; connections]),
            admission_waker: Cell::default(),
            is_admission_closed: Cell::new(false),
            phase: Cell::new(RunPhase::Sending),
            last_accepted: Cell::default(),
            has_connected: Cell::new(false),
            listener_count: Cell::new(0),
            blocked_since: Cell::default(),
            stop_listening: Notify::new(),
        }
    }

    /// The next job for a slot; `None` once there are no more. Meanwhile it drops idle connections
    /// that the server has closed.
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
            // A connection may have woken the slot, so it may still be listed as idle.
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

    /// Records a finished try in the ledger and the journal, then schedules the next try or ends
    /// the job.
    pub(super) fn conclude_try(&self, mut job: SendJob, try_outcome: TryOutcome, now: Instant) {
        {
            let mut ledger = self.ledger.borrow_mut();
            match &try_outcome {
                TryOutcome::Responded(response) => {
                    ledger.record_response(response, job.outgoing.kind)
                }
                // Counted where the reason is known.
                TryOutcome::Unconnected => {}
                TryOutcome::Broken => ledger.record_broken_connection(),
                TryOutcome::TimedOut => ledger.record_timeout(),
            }
        }
        match &try_outcome {
            TryOutcome::Responded(response) => {
                self.journal_attempt(&job.outgoing, job.cause, Some(response), false)
            }
            TryOutcome::Broken => self.journal_attempt(&job.outgoing, job.cause, None, false),
            // Either nothing was sent, or a response may still arrive.
            TryOutcome::Unconnected | TryOutcome::TimedOut => {}
        }
        match job.conclude_try(try_outcome, now, &self.timings) {
            TryDecision::Finish(outcome) => {
                if outcome == SendOutcome::Accepted {
                    self.last_accepted.set(Some(now));
                    let latency = job.latency(now);
                    self.ledger.borrow_mut().record_acceptance(latency, now);
                }
                self.finish_delivery(&job.outgoing, outcome);
            }
            TryDecision::RetryAt(_) if self.has_given_up() => {
                self.finish_delivery(&job.outgoing, job.drop_outcome())
            }
            TryDecision::RetryAt(at) => self.queue.borrow_mut().pause(job, at),
        }
    }

    fn finish_delivery(&self, outgoing: &OutgoingEvent, outcome: SendOutcome) {
        self.count_outcome(outgoing, outcome);
        let ready = self.queue.borrow_mut().finish(outgoing.reading_key);
        // The slot that ended this job takes the next one itself.
        self.wake_slots(ready.saturating_sub(1));
        self.wake_admission();
        if self.is_done() {
            self.wake_slots(usize::MAX);
        }
    }

    fn count_outcome(&self, outgoing: &OutgoingEvent, outcome: SendOutcome) {
        let mut ledger = self.ledger.borrow_mut();
        ledger.record_send_outcome(outgoing.event_type, outgoing.kind, outcome);
    }

    /// Records a timed-out request in the journal, with its late response if there was one.
    pub(super) fn journal_late_response(
        &self,
        outgoing: &OutgoingEvent,
        cause: AttemptCause,
        response: Option<&ServerResponse>,
    ) {
        self.journal_attempt(outgoing, cause, response, true);
    }

    /// Records the final outcome of a request that reached a server.
    fn journal_attempt(
        &self,
        outgoing: &OutgoingEvent,
        cause: AttemptCause,
        response: Option<&ServerResponse>,
        late: bool,
    ) {
        let outcome = response.map_or(RecordedOutcome::Unknown, ServerResponse::recorded_outcome);
        let (event_type, kind) = (outgoing.event_type, outgoing.kind);
        self.ledger
            .borrow_mut()
            .record_response_outcome(event_type, kind, outcome);
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
            outcome,
            late,
            contradictory: response.is_some_and(ServerResponse::is_contradictory),
            reported_position: response
                .and_then(|response| response.position)
                .map(|(partition, offset)| ReportedPosition { partition, offset }),
        };
        if let Err(error) = journal.record_attempt(&attempt) {
            self.journal_error.borrow_mut().get_or_insert(error);
        }
    }

    /// Detail to read from responses: the journal needs partitions and offsets.
    pub(super) fn response_detail(&self) -> ResponseDetail {
        if self.journal.borrow().is_some() {
            ResponseDetail::Position
        } else {
            ResponseDetail::Outcome
        }
    }

    fn has_given_up(&self) -> bool {
        self.phase.get() == RunPhase::GivenUp
    }

    /// Records that the run has ended except for the remaining deliveries.
    pub(super) fn begin_draining(&self, now: Instant) {
        if self.phase.get() == RunPhase::Sending {
            self.phase.set(RunPhase::Draining { since: now });
        }
    }

    /// Periodic work: expires deadlines, resumes paused jobs, and gives up a run without prospects.
    pub(super) fn tick(&self, now: Instant, started_at: Instant) {
        for deadline in &self.deadlines {
            deadline.expire_if_due(now);
        }
        let resumed = self.queue.borrow_mut().resume(now);
        self.wake_slots(resumed);
        self.wake_admission();
        let mut is_hopeless = false;
        if let RunPhase::Draining { since } = self.phase.get() {
            self.release_blocked_work(now);
            // Without a success for as long as a delivery may take, none is to be expected.
            let patience = self.timings.window + self.timings.http_timeout;
            let last_progress = self.last_accepted.get().map_or(since, |at| at.max(since));
            is_hopeless = now >= last_progress + patience;
        }
        let is_journal_broken = self.journal_error.borrow().is_some();
        if is_hopeless || is_journal_broken || self.is_unreachable(now, started_at) {
            self.give_up();
        }
    }

    fn is_unreachable(&self, now: Instant, started_at: Instant) -> bool {
        !self.has_connected.get()
            && now >= started_at + self.timings.unreachable_timeout
            && self.ledger.borrow().last_connection_error().is_some()
    }

    fn give_up(&self) {
        if self.phase.replace(RunPhase::GivenUp) == RunPhase::GivenUp {
            return;
        }
        let waiting = self.queue.borrow_mut().drain_waiting();
        for job in waiting {
            let outcome = match job.tries {
                0 => SendOutcome::Unsent,
                _ => job.drop_outcome(),
            };
            self.count_outcome(&job.outgoing, outcome);
        }
        self.admission_waker.take().inspect(Waker::wake_by_ref);
        self.wake_slots(usize::MAX);
    }

    pub(super) fn into_parts(self) -> DispatcherParts {
        debug_assert!(self.ledger.borrow().is_balanced());
        DispatcherParts {
            unreachable: !self.has_connected.get() && self.has_given_up(),
            given_up: self.has_given_up(),
            ledger: self.ledger.into_inner(),
            journal: self.journal.into_inner(),
            journal_error: self.journal_error.into_inner(),
        }
    }
}

/// Result of a run once all tasks have ended.
pub(super) struct DispatcherParts {
    pub ledger: RunLedger,
    pub journal: Option<JournalWriter>,
    pub journal_error: Option<std::io::Error>,
    pub given_up: bool,
    pub unreachable: bool,
}
