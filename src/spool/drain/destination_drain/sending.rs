//! Sending entries to librdkafka, in order, and moving those that can never be published to the
//! dead letters.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

use super::tracked_entries::{InFlightEntry, SendMode};
use super::{DestinationDrain, DrainStep, POLL_INTERVAL, REPORT_TIMEOUT};
use crate::metrics::TimestampReplacement;
use crate::spool::drain::mailbox::DrainedEntryObserver;
use crate::spool::drain::{DrainContext, MAX_SLEEP, publish};
use crate::spool::store::{ReadLimit, StoreError};
use butlr_event::EventType;

/// Limits of one read: a few windows.
const MAX_BATCH_ENTRIES: usize = 2_000;
const MAX_BATCH_BYTES: usize = 2 << 20;
/// Approximate number of entries covered by one hand-over mark; each mark costs an fsync.
const ENTRIES_PER_MARK: u64 = 5_000;
/// Poll interval while the lane has to become empty.
const EXCLUSIVE_POLL_INTERVAL: Duration = Duration::from_millis(5);

enum SendAttempt {
    Sent(Option<(EventType, TimestampReplacement)>),
    /// To be tried again later; the error, unless the lane is full.
    Deferred(Option<RDKafkaErrorCode>),
    /// Can never be published, for this reason.
    Unpublishable(String),
}

impl DestinationDrain {
    /// Sends entries until the window is full, nothing is left, or something is in the way.
    pub(super) fn send_backlog(&mut self, context: &DrainContext, now: Instant) -> DrainStep {
        let mut has_read = !self.read_ahead.is_empty();
        while self.has_room(context, now) {
            if self.read_ahead.is_empty() && std::mem::replace(&mut has_read, true) {
                // Reports first: if an entry has failed, nothing may be sent after it.
                return DrainStep::Flowing(Duration::ZERO);
            }
            let next = match self.next_seq(context) {
                Ok(Some(next)) => next,
                Ok(None) if self.entries.in_flight == 0 => return DrainStep::Flowing(MAX_SLEEP),
                Ok(None) => return DrainStep::Flowing(POLL_INTERVAL),
                Err(error) => {
                    let destination = self.to.name();
                    tracing::error!(destination, %error, "cannot read the spool");
                    self.backoff.start(now);
                    return DrainStep::Halted(POLL_INTERVAL);
                }
            };
            let in_doubt_since = context.shared.in_doubt().get(&next).copied();
            if let Some(since) = in_doubt_since {
                if now.saturating_duration_since(since) < REPORT_TIMEOUT {
                    return DrainStep::Halted(MAX_SLEEP);
                }
                self.replace_silent_producer(context, next);
                self.resolve_in_doubt(context, next, false);
            }
            let mut mode = SendMode::Shared;
            if self.entries.refusal(next).is_some() {
                self.backlog(context).begin_exclusive();
                if self.entries.in_flight > 0 || self.lane(context).in_flight() > 0 {
                    return DrainStep::Halted(EXCLUSIVE_POLL_INTERVAL);
                }
                mode = SendMode::Exclusive;
            }
            if self.record_handover(context, next) {
                return DrainStep::Flowing(Duration::ZERO);
            }
            if !self.hand_over(context, next, mode, now) {
                return DrainStep::Halted(POLL_INTERVAL);
            }
        }
        if self.entries.is_exclusive_in_flight() {
            DrainStep::Halted(POLL_INTERVAL)
        } else {
            DrainStep::Flowing(POLL_INTERVAL)
        }
    }

    /// Half of the lane is left to live traffic. While Kafka does not confirm, one record probes
    /// it: of several, the first could fail and the others be stored, out of order.
    fn has_room(&self, context: &DrainContext, now: Instant) -> bool {
        let records = if self.lane(context).is_circuit_open() || self.is_stuck(now) {
            1
        } else {
            self.window
                .size()
                .min((context.shared.lane_events / 2).max(1))
        };
        let in_flight = self.entries.in_flight;
        let has_bytes = self.entries.in_flight_bytes < context.shared.lane_bytes / 2;
        !self.entries.is_exclusive_in_flight()
            && in_flight < records
            && (has_bytes || in_flight == 0)
    }

    fn next_seq(&mut self, context: &DrainContext) -> Result<Option<u64>, StoreError> {
        if self.read_ahead.is_empty() {
            self.fill_read_ahead(context)?;
        }
        Ok(self.read_ahead.front().map(|(seq, _)| *seq))
    }

    fn fill_read_ahead(&mut self, context: &DrainContext) -> Result<(), StoreError> {
        let shared = &context.shared;
        // In this order: entries counted as committed are then visible and in the store.
        let committed = self.backlog(context).committed();
        if committed == self.handled {
            return Ok(());
        }
        let visible = shared.visible_end.load(Ordering::Acquire);
        let limit = ReadLimit {
            entries: (2 * self.window.size()).clamp(16, MAX_BATCH_ENTRIES),
            bytes: MAX_BATCH_BYTES,
        };
        let read = shared.store.read(self.to, self.cursor, limit)?;
        self.read_ahead
            .extend(read.into_iter().take_while(|(seq, _)| *seq < visible));
        let missing = committed.saturating_sub(self.handled);
        if self.read_ahead.is_empty() && missing > 0 {
            let destination = self.to.name();
            tracing::error!(destination, missing, "spooled entries are lost to damage");
            self.missing += missing;
            // Losses that the store counts itself are reported to duplicate detection elsewhere.
            if self.missing > shared.store.lost(self.to)
                && let Some(deduplicator) = &shared.deduplicator
            {
                deduplicator.invalidate_spooled();
            }
            self.count_handled(context, missing);
        }
        Ok(())
    }

    /// Returns `true` if the next entry may be sent after it.
    fn hand_over(
        &mut self,
        context: &DrainContext,
        seq: u64,
        mode: SendMode,
        now: Instant,
    ) -> bool {
        let Some((_, bytes)) = self.read_ahead.front() else {
            return false;
        };
        match self.try_send(context, seq, bytes) {
            SendAttempt::Sent(replaced) => {
                if let Some((event_type, reason)) = replaced {
                    let metrics = &context.shared.metrics;
                    metrics.count_timestamp_replacement(event_type, reason);
                }
                let bytes = self.read_ahead.pop_front().map(|(_, bytes)| bytes);
                let sent = InFlightEntry {
                    sent_at: now,
                    bytes: bytes.unwrap_or_default(),
                    mode,
                };
                self.entries.add_in_flight(seq, sent);
                self.cursor = seq + 1;
                // One that is sent alone counts once it is reported: new events wait for it.
                if mode == SendMode::Shared {
                    self.count_handled(context, 1);
                }
                true
            }
            SendAttempt::Deferred(code) => {
                self.backlog(context).end_exclusive();
                if code != Some(RDKafkaErrorCode::QueueFull) {
                    self.log_trouble(code);
                }
                self.backoff.start(now);
                false
            }
            SendAttempt::Unpublishable(reason) => {
                self.backlog(context).end_exclusive();
                if self.move_to_dead_letters(context, seq, &reason) {
                    self.read_ahead.pop_front();
                    self.cursor = seq + 1;
                    return true;
                }
                self.backoff.start(now);
                false
            }
        }
    }

    fn try_send(&self, context: &DrainContext, seq: u64, bytes: &[u8]) -> SendAttempt {
        let lane = self.lane(context);
        let observer = Box::new(DrainedEntryObserver {
            mailbox: Arc::clone(&context.shared.mailbox),
            to: self.to,
            seq,
            sent_at: Instant::now(),
        });
        // Kafka refused its timestamp: it is tried with the time of publishing before it is given
        // up.
        let timestamp_policy = match self.entries.refusal(seq) {
            Some(RDKafkaErrorCode::InvalidTimestamp) => {
                context.timestamp_policy.with_publish_time()
            }
            _ => context.timestamp_policy,
        };
        let attempted =
            publish::with_record(bytes, lane.topic(), timestamp_policy, |record, event| {
                let Ok(permit) = lane.acquire_permit(record.value.len()) else {
                    return SendAttempt::Deferred(None);
                };
                let replaced = record.timestamp_replacement;
                let replaced = event.map(|event| event.event_type()).zip(replaced);
                match context.producer.send_record(record, permit, observer) {
                    Ok(()) => SendAttempt::Sent(replaced),
                    // librdkafka refuses this very record.
                    Err((code, _)) if is_permanent(code) => {
                        SendAttempt::Unpublishable(refusal_reason(code))
                    }
                    Err((code, _)) => SendAttempt::Deferred(Some(code)),
                }
            });
        attempted.unwrap_or_else(SendAttempt::Unpublishable)
    }

    /// Records on disk that entries up to about [`ENTRIES_PER_MARK`] beyond `seq` are handed to
    /// Kafka, before the first of them is. Returns `true` if that took an fsync.
    fn record_handover(&mut self, context: &DrainContext, seq: u64) -> bool {
        if self.marked_upto.is_some_and(|upto| seq <= upto) {
            return false;
        }
        let visible = context.shared.visible_end.load(Ordering::Acquire);
        let upto = (seq + ENTRIES_PER_MARK - 1)
            .min(visible.saturating_sub(1))
            .max(seq);
        let tails: Vec<_> = self.tails.iter().map(|(p, o)| (*p, *o)).collect();
        match context.shared.store.record_handover(self.to, upto, &tails) {
            Ok(()) => self.is_mark_failure_logged = false,
            Err(error) => {
                // Only draining empties a full disk: a duplicate after a crash is the lesser evil.
                if !std::mem::replace(&mut self.is_mark_failure_logged, true) {
                    let destination = self.to.name();
                    tracing::error!(
                        destination,
                        %error,
                        "cannot record in the spool which entries are handed to Kafka: after a crash some events may be stored twice"
                    );
                }
            }
        }
        self.marked_upto = Some(upto);
        true
    }

    /// Returns `false` if the disk does not take it.
    pub(super) fn move_to_dead_letters(
        &mut self,
        context: &DrainContext,
        seq: u64,
        reason: &str,
    ) -> bool {
        let destination = self.to.name();
        let shared = &context.shared;
        let bytes = shared.store.read_one(self.to, seq);
        match shared.store.move_to_dead_letters(self.to, seq, reason) {
            Ok(()) => {
                if let Some(deduplicator) = &shared.deduplicator
                    && let Ok(Some(bytes)) = bytes
                {
                    publish::notify_dead_letter(deduplicator, &bytes, context.timestamp_policy);
                }
                shared.counts.dead_letters.inc();
                if let Some(left_out) = shared.throttle.allow("set aside") {
                    tracing::error!(
                        destination,
                        seq,
                        reason,
                        left_out,
                        "a spooled entry can never be published: it is now a dead letter"
                    );
                }
            }
            // Lost to damage meanwhile.
            Err(StoreError::Missing(_)) => {}
            Err(error) => {
                tracing::error!(
                    destination,
                    seq,
                    %error,
                    "cannot store a spooled entry as a dead letter; trying again"
                );
                return false;
            }
        }
        shared.unflushed.store(true, Ordering::Release);
        self.entries.forget(seq);
        self.count_handled(context, 1);
        true
    }
}

/// Returns `true` for errors about the record itself. A missing permission is not one of them: it
/// can be granted.
pub(super) fn is_permanent(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::*;
    matches!(
        code,
        MessageSizeTooLarge
            | InvalidMessageSize
            | MessageBatchTooLarge
            | InvalidRecord
            | InvalidTimestamp
            | PolicyViolation
            | UnsupportedForMessageFormat
    )
}

pub(super) fn refusal_reason(code: RDKafkaErrorCode) -> String {
    format!("Kafka refuses it: {code} ({code:?})")
}
