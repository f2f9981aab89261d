//! The drain of one destination.
//!
//! ```text
//!  search for entries that   ┌─► send, in order ─► all reported as stored: go on
//!  Kafka may hold already  ──┤                 └─► some failed: wait until none is in flight,
//!                            └───── pause ◄─────── then rewind to the first that failed
//! ```
//!
//! Invariants: entries in flight and failed ones lie before `cursor`; entries from `cursor` on were
//! not sent since the last rewind. `read_ahead` holds entries from `cursor` on, in order, without
//! gaps.
//!
//! - `tracked_entries`: what is known of entries that were sent;
//! - `sending`: from the backlog to librdkafka, or to the dead letters.

mod sending;
mod tracked_entries;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

use super::mailbox::InDoubtSearchResult;
use super::search::{self, InDoubtSearch};
use super::window::{DrainBackoff, DrainWindow};
use super::{DrainContext, MAX_SLEEP, publish};
use crate::kafka::lane::TopicLane;
use crate::kafka::report::{DeliveryOutcome, Receipt};
use crate::spool::SpoolShared;
use crate::spool::backlog::DestinationBacklog;
use butlr_event::destination::Destination;
use sending::{is_permanent, refusal_reason};
use tracked_entries::{InFlightEntry, SendMode, TrackedEntries};

/// Poll interval for conditions that send no notification.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// librdkafka gives up a record after one minute, and a stuck producer is replaced within another.
const REPORT_TIMEOUT: Duration = Duration::from_secs(300);

pub(super) struct DestinationDrain {
    to: Destination,
    stage: DrainStage,
    /// Sequence number from which on nothing was sent since the last rewind.
    cursor: u64,
    read_ahead: VecDeque<(u64, Vec<u8>)>,
    /// Entries up to this one are recorded on disk as handed to Kafka.
    marked_upto: Option<u64>,
    entries: TrackedEntries,
    /// Stored, and to be removed from the spool.
    confirmed: Vec<u64>,
    /// A failed entry points to trouble with Kafka rather than with its record.
    has_kafka_trouble: bool,
    /// Committed entries that are no longer in the backlog.
    handled: u64,
    /// Handled entries that were lost to damage.
    missing: u64,
    window: DrainWindow,
    backoff: DrainBackoff,
    /// Lower bound of the offset that the next record of each partition gets.
    tails: BTreeMap<i32, i64>,
    is_mark_failure_logged: bool,
    is_trouble_logged: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DrainStage {
    AwaitingSearch,
    Searching,
    Draining,
}

/// Result of one step, with the time until the next one unless a message comes earlier.
enum DrainStep {
    /// Entries are being sent, so a short backlog is worth waiting for.
    Flowing(Duration),
    Halted(Duration),
}

impl DestinationDrain {
    pub fn new(to: Destination, shared: &SpoolShared) -> Self {
        let backlog = &shared.backlogs[to.index()];
        let mut stage = DrainStage::AwaitingSearch;
        if !backlog.is_search_pending() || shared.settings.recover_within.is_zero() {
            backlog.finish_search();
            stage = DrainStage::Draining;
        }
        Self {
            to,
            stage,
            cursor: 0,
            read_ahead: VecDeque::new(),
            marked_upto: None,
            entries: TrackedEntries::default(),
            confirmed: Vec::new(),
            has_kafka_trouble: false,
            handled: 0,
            missing: 0,
            window: DrainWindow::new(Instant::now()),
            backoff: DrainBackoff::default(),
            tails: BTreeMap::new(),
            is_mark_failure_logged: false,
            is_trouble_logged: false,
        }
    }

    pub fn is_awaiting_search(&self) -> bool {
        self.stage == DrainStage::AwaitingSearch
    }

    pub fn is_searching(&self) -> bool {
        self.stage == DrainStage::Searching
    }

    pub fn start_search(
        &mut self,
        context: &DrainContext,
        search: &Arc<InDoubtSearch>,
        stop: &Arc<AtomicBool>,
    ) {
        self.stage = DrainStage::Searching;
        search::start_search(&context.shared, self.to, search, stop);
    }

    /// Removes the recovered entries that Kafka holds already, and begins to drain the others.
    pub fn finish_search(&mut self, context: &DrainContext, result: InDoubtSearchResult) {
        let InDoubtSearchResult { in_doubt, outcome } = result;
        let destination = self.to.name();
        if in_doubt > 0 {
            tracing::info!(
                destination,
                in_doubt,
                stored = outcome.stored.len(),
                records = outcome.records,
                took = ?outcome.took,
                "searched the topic for entries of the previous run"
            );
        }
        if let Some(why) = &outcome.incomplete_reason {
            tracing::warn!(
                destination,
                why,
                "could not search the topic for all entries of the previous run: some may be stored twice"
            );
        }
        self.notify_stored(context, &outcome.stored);
        self.remove(context, &outcome.stored);
        let stored = outcome.stored.len() as u64;
        context.shared.counts.already_stored.inc_by(stored);
        self.count_handled(context, stored);
        self.backlog(context).finish_search();
        self.stage = DrainStage::Draining;
    }

    /// Handles librdkafka's final report on the earlier record of an entry in doubt.
    pub fn resolve_in_doubt(&mut self, context: &DrainContext, seq: u64, stored: bool) {
        if context.shared.in_doubt().remove(&seq).is_none() {
            // Too late: the entry was sent again meanwhile.
            return;
        }
        if !stored {
            self.entries.mark_ambiguous(seq);
            return;
        }
        self.read_ahead.retain(|(ahead, _)| *ahead != seq);
        let read = context.shared.store.read_one(self.to, seq);
        if read.is_ok_and(|read| read.is_none()) {
            // Lost to damage meanwhile, and counted as missing.
            return;
        }
        self.notify_stored(context, &[seq]);
        self.remove(context, &[seq]);
        context.shared.counts.confirmed_late.inc();
        self.count_handled(context, 1);
    }

    /// Gives up waiting for a report: a duplicate in Kafka is better than a loss. The producer is
    /// replaced, because it may be stuck for some partitions while it confirms others.
    fn replace_silent_producer(&self, context: &DrainContext, seq: u64) {
        let destination = self.to.name();
        tracing::error!(
            destination,
            seq,
            "librdkafka sent no delivery report for a record; its event is published again, possibly as a duplicate"
        );
        context.producer.replace_producer(REPORT_TIMEOUT);
    }

    fn expire_in_flight(&mut self, context: &DrainContext, now: Instant) {
        while let Some((seq, sent)) = self.entries.oldest_in_flight() {
            let took = now.saturating_duration_since(sent.sent_at);
            if took < REPORT_TIMEOUT {
                return;
            }
            self.replace_silent_producer(context, seq);
            self.on_report(context, seq, DeliveryOutcome::Unknown(None), took);
        }
    }

    /// Handles the delivery report of an entry in flight; `Unknown(None)` if no report will
    /// arrive.
    pub fn on_report(
        &mut self,
        context: &DrainContext,
        seq: u64,
        outcome: DeliveryOutcome,
        took: Duration,
    ) {
        let Some(InFlightEntry { bytes, mode, .. }) = self.entries.end_flight(seq) else {
            return;
        };
        let was_alone = mode == SendMode::Exclusive;
        match outcome {
            DeliveryOutcome::Stored(receipt) => {
                if was_alone {
                    self.count_handled(context, 1);
                }
                self.on_stored(context, seq, &bytes, receipt, took);
            }
            DeliveryOutcome::Rejected(code) if is_permanent(code) => {
                self.entries.mark_refused(seq, code);
                if !was_alone {
                    self.mark_failed(context, seq, mode);
                } else if !self.move_to_dead_letters(context, seq, &refusal_reason(code)) {
                    self.mark_failed(context, seq, mode);
                    self.has_kafka_trouble = true;
                }
            }
            DeliveryOutcome::Rejected(_) | DeliveryOutcome::Unknown(_) => {
                self.on_unconfirmed(context, seq, outcome.error_code());
                self.mark_failed(context, seq, mode);
            }
        }
        if was_alone {
            self.backlog(context).end_exclusive();
        }
    }

    fn on_stored(
        &mut self,
        context: &DrainContext,
        seq: u64,
        bytes: &[u8],
        receipt: Receipt,
        took: Duration,
    ) {
        self.confirmed.push(seq);
        self.entries.forget(seq);
        self.window.record_confirmation(took, Instant::now());
        self.backoff.reset();
        self.is_trouble_logged = false;
        // An ambiguous entry may be stored before this offset, and would not be found after a
        // crash.
        if !self.entries.has_ambiguous() {
            let next = receipt.offset() + 1;
            let tail = self.tails.entry(receipt.partition()).or_insert(next);
            *tail = next.max(*tail);
        }
        if let Some(deduplicator) = &context.shared.deduplicator {
            publish::notify_stored(deduplicator, bytes, context.timestamp_policy);
        }
    }

    /// Notes that an entry may be stored or not; it is sent again.
    fn on_unconfirmed(&mut self, context: &DrainContext, seq: u64, code: Option<RDKafkaErrorCode>) {
        self.has_kafka_trouble = true;
        self.entries.mark_ambiguous(seq);
        self.lane(context).open_circuit();
        if code == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
            self.lane(context).mark_forbidden();
        }
        self.log_trouble(code);
    }

    fn mark_failed(&mut self, context: &DrainContext, seq: u64, mode: SendMode) {
        self.entries.mark_failed(seq);
        // One that was sent alone is still in the backlog.
        if mode == SendMode::Shared {
            self.handled -= 1;
            self.backlog(context).add(1);
        }
    }

    fn log_trouble(&mut self, code: Option<RDKafkaErrorCode>) {
        if !std::mem::replace(&mut self.is_trouble_logged, true) {
            let destination = self.to.name();
            let code = code.map(|code| format!("{code:?}"));
            tracing::warn!(
                destination,
                code,
                "Kafka does not accept spooled entries; retrying until it does"
            );
        }
    }

    /// Removes confirmed entries. Called once for all messages that came together, as one step.
    pub fn remove_confirmed(&mut self, context: &DrainContext) {
        if !self.confirmed.is_empty() {
            let confirmed = std::mem::take(&mut self.confirmed);
            self.remove(context, &confirmed);
            context.shared.counts.drained.inc_by(confirmed.len() as u64);
        }
    }

    /// Sends nothing more; returns the time to sleep.
    pub fn halt(&self, context: &DrainContext) -> Duration {
        self.backlog(context).stop();
        MAX_SLEEP
    }

    /// Sends the entries that can be sent; returns the time to sleep unless a message comes.
    pub fn advance(&mut self, context: &DrainContext, now: Instant) -> Duration {
        self.expire_in_flight(context, now);
        let step = match self.stage {
            DrainStage::Draining => self.drain_backlog(context, now),
            DrainStage::AwaitingSearch | DrainStage::Searching => DrainStep::Halted(MAX_SLEEP),
        };
        let has_trouble = self.lane(context).is_circuit_open() || self.is_stuck(now);
        let (threshold, sleep) = match step {
            DrainStep::Flowing(sleep) if !has_trouble => (self.window.size() as u64, sleep),
            DrainStep::Flowing(sleep) | DrainStep::Halted(sleep) => (0, sleep),
        };
        self.backlog(context).set_wait_threshold(threshold);
        sleep
    }

    /// Returns `true` if delivery reports are overdue.
    fn is_stuck(&self, now: Instant) -> bool {
        let oldest = self.entries.oldest_in_flight();
        oldest.is_some_and(|(_, sent)| {
            now.saturating_duration_since(sent.sent_at) > self.window.prompt_limit()
        })
    }

    fn drain_backlog(&mut self, context: &DrainContext, now: Instant) -> DrainStep {
        if !context.can_hand_over(now) {
            return DrainStep::Halted(POLL_INTERVAL);
        }
        if self.entries.has_failed() {
            if self.entries.in_flight > 0 {
                return DrainStep::Halted(MAX_SLEEP);
            }
            self.rewind(now);
        }
        match self.backoff.remaining(now) {
            Some(remaining) => DrainStep::Halted(remaining),
            None => self.send_backlog(context, now),
        }
    }

    /// Goes back to the first entry that failed.
    fn rewind(&mut self, now: Instant) {
        self.cursor = self.entries.rewind().unwrap_or(self.cursor);
        self.read_ahead.clear();
        if std::mem::take(&mut self.has_kafka_trouble) {
            self.window = DrainWindow::new(now);
            self.backoff.start(now);
        }
    }

    fn remove(&self, context: &DrainContext, seqs: &[u64]) {
        if !seqs.is_empty()
            && let Err(error) = context.shared.remove(self.to, seqs)
        {
            // The entries are removed; only an empty file is left.
            tracing::warn!(%error, "could not remove a file of the spool yet");
        }
    }

    /// Tells duplicate detection that these entries are stored.
    fn notify_stored(&self, context: &DrainContext, seqs: &[u64]) {
        let Some(deduplicator) = &context.shared.deduplicator else {
            return;
        };
        for seq in seqs {
            if let Ok(Some(bytes)) = context.shared.store.read_one(self.to, *seq) {
                publish::notify_stored(deduplicator, &bytes, context.timestamp_policy);
            }
        }
    }

    fn count_handled(&mut self, context: &DrainContext, entries: u64) {
        self.handled += entries;
        self.backlog(context).remove(entries);
    }

    fn backlog<'c>(&self, context: &'c DrainContext) -> &'c DestinationBacklog {
        &context.shared.backlogs[self.to.index()]
    }

    fn lane<'c>(&self, context: &'c DrainContext) -> &'c Arc<TopicLane> {
        &context.shared.lanes[self.to.index()]
    }
}
