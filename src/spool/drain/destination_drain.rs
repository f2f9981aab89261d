//! How far the drain is with one destination, and what it does next.
//!
//! ```text
//!  look for those of before ─► hand over, in order ─► all reported, none failed: go on
//!                                  ▲                 └► some failed: back to the first of them, once nothing is in flight
//!                                  └──────────────────── pause ◄───┘
//! ```
//!
//! Invariants: what is in flight and what has failed lies before `cursor`; what lies behind it was never handed over since
//! the last step back. `ahead` holds entries from `cursor` on, in order, without gaps.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

use super::mailbox::{DrainedEntryObserver, InDoubtSearchResult};
use super::search::{self, InDoubtSearch};
use super::window::{DrainBackoff, DrainWindow};
use super::{DrainContext, MAX_SLEEP, publish};
use crate::kafka::lane::TopicLane;
use crate::kafka::report::{DeliveryOutcome, Receipt};
use crate::metrics::TimestampReplacement;
use crate::spool::SpoolShared;
use crate::spool::backlog::DestinationBacklog;
use crate::spool::store::StoreError;
use butlr_event::EventType;
use butlr_event::destination::Destination;

/// Entries read at a time, at most: a few windows.
const MAX_BATCH_ENTRIES: usize = 2_000;
const MAX_BATCH_BYTES: usize = 2 << 20;
/// One mark serves about so many entries.
const ENTRIES_PER_MARK: u64 = 5_000;
/// Between two looks while something is under way that nobody will tell of.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// librdkafka gives a record up after a minute, and a producer that is stuck is replaced within another.
const REPORT_TIMEOUT: Duration = Duration::from_secs(300);
/// Between two looks at a lane that is to become empty.
const EXCLUSIVE_POLL_INTERVAL: Duration = Duration::from_millis(5);

pub(super) struct DestinationDrain {
    to: Destination,
    stage: DrainStage,
    cursor: u64,
    read_ahead: VecDeque<(u64, Vec<u8>)>,
    /// Up to here it is on disk that entries were handed over.
    marked_upto: Option<u64>,
    in_flight: BTreeMap<u64, InFlightEntry>,
    in_flight_bytes: usize,
    /// Of those handed over since the last step back.
    failed: BTreeSet<u64>,
    /// Whether one of them tells of trouble with Kafka, rather than with a record.
    has_kafka_trouble: bool,
    /// Refused for good once, together with others: to be tried alone.
    refused: BTreeMap<u64, RDKafkaErrorCode>,
    /// The one that is tried alone now.
    exclusive: Option<u64>,
    /// Not confirmed, but stored perhaps. While there are such, no offset tells from where on to look for them.
    ambiguous: HashSet<u64>,
    /// Confirmed, to be removed.
    confirmed: Vec<u64>,
    /// Of those the line has published.
    handled: u64,
    /// Of these, those that were not there.
    missing: u64,
    window: DrainWindow,
    backoff: DrainBackoff,
    /// Partition → the offset that its next record gets, at least.
    tails: BTreeMap<i32, i64>,
    /// A failure of the disk was told.
    is_mark_failure_logged: bool,
    /// That Kafka does not take the records was told.
    is_trouble_logged: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DrainStage {
    AwaitingSearch,
    Searching,
    Draining,
}

struct InFlightEntry {
    sent_at: Instant,
    bytes: Vec<u8>,
}

/// What became of an attempt to hand an entry over.
enum SendAttempt {
    Sent(Option<(EventType, TimestampReplacement)>),
    /// Not now.
    Deferred(Option<RDKafkaErrorCode>),
    Unpublishable(String),
}

impl DestinationDrain {
    pub fn new(to: Destination, shared: &SpoolShared) -> Self {
        let recovered = shared.backlogs[to.index()].is_search_pending();
        let is_looked_for = recovered && !shared.settings.recover_within.is_zero();
        if !is_looked_for {
            shared.backlogs[to.index()].finish_search();
        }
        Self {
            to,
            stage: match is_looked_for {
                true => DrainStage::AwaitingSearch,
                false => DrainStage::Draining,
            },
            cursor: 0,
            read_ahead: VecDeque::new(),
            marked_upto: None,
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            failed: BTreeSet::new(),
            has_kafka_trouble: false,
            refused: BTreeMap::new(),
            exclusive: None,
            ambiguous: HashSet::new(),
            confirmed: Vec::new(),
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
        kit: &DrainContext,
        search: &Arc<InDoubtSearch>,
        stop: &Arc<AtomicBool>,
    ) {
        self.stage = DrainStage::Searching;
        search::start_search(&kit.shared, self.to, search, stop);
    }

    /// Which of the entries of before Kafka holds already.
    pub fn finish_search(&mut self, kit: &DrainContext, found: InDoubtSearchResult) {
        let InDoubtSearchResult {
            in_doubt: suspects,
            outcome,
        } = found;
        let destination = self.to.name();
        if suspects > 0 {
            tracing::info!(
                destination,
                suspects,
                stored = outcome.stored.len(),
                records = outcome.records,
                took = ?outcome.took,
                "entries of before were looked for in their topic"
            );
        }
        if let Some(why) = &outcome.incomplete_reason {
            tracing::warn!(
                destination,
                why,
                "not all entries of before could be looked for in their topic: some may be stored twice"
            );
        }
        self.notify_stored(kit, &outcome.stored);
        self.remove(kit, &outcome.stored);
        let stored = outcome.stored.len() as u64;
        kit.shared.counts.already_stored.inc_by(stored);
        self.count_handled(kit, stored);
        self.backlog(kit).finish_search();
        self.stage = DrainStage::Draining;
    }

    /// librdkafka's final word on the record that the entry doubts.
    pub fn resolve_in_doubt(&mut self, kit: &DrainContext, seq: u64, stored: bool) {
        if kit.shared.in_doubt().remove(&seq).is_none() {
            // It came far too late: the entry was handed over again meanwhile.
            return;
        }
        if !stored {
            self.ambiguous.insert(seq);
            return;
        }
        self.read_ahead.retain(|(ahead, _)| *ahead != seq);
        let read = kit.shared.store.read(self.to, seq, 1, 1);
        if read.is_ok_and(|read| read.first().is_none_or(|(found, _)| *found != seq)) {
            // Damage took it meanwhile, and it was passed with the others that are gone.
            return;
        }
        self.notify_stored(kit, &[seq]);
        self.remove(kit, &[seq]);
        kit.shared.counts.confirmed_late.inc();
        self.count_handled(kit, 1);
    }

    /// librdkafka has said nothing for far too long: rather twice in Kafka than never. A fresh producer is to try: this one may
    /// be stuck for some partitions while others confirm.
    fn replace_silent_producer(&self, kit: &DrainContext, seq: u64) {
        let destination = self.to.name();
        tracing::error!(
            destination,
            seq,
            "librdkafka has no final word on a record; its event is published again, perhaps as a copy"
        );
        kit.producer.replace_producer(REPORT_TIMEOUT);
    }

    /// Those handed over of which nothing was heard for far too long.
    fn expire_in_flight(&mut self, kit: &DrainContext, now: Instant) {
        let is_forgotten =
            |sent: &InFlightEntry| now.saturating_duration_since(sent.sent_at) >= REPORT_TIMEOUT;
        while let Some((seq, sent)) = self.in_flight.first_key_value()
            && is_forgotten(sent)
        {
            let (seq, took) = (*seq, now.saturating_duration_since(sent.sent_at));
            self.replace_silent_producer(kit, seq);
            self.on_report(kit, seq, DeliveryOutcome::Unknown(None), took);
        }
    }

    /// librdkafka's final word on an entry that was handed over.
    pub fn on_report(
        &mut self,
        kit: &DrainContext,
        seq: u64,
        outcome: DeliveryOutcome,
        took: Duration,
    ) {
        let Some(InFlightEntry { bytes, .. }) = self.in_flight.remove(&seq) else {
            return;
        };
        self.in_flight_bytes -= bytes.len();
        let was_alone = self.exclusive == Some(seq);
        match outcome {
            DeliveryOutcome::Stored(receipt) => {
                if was_alone {
                    self.count_handled(kit, 1);
                }
                self.on_stored(kit, seq, &bytes, receipt, took);
            }
            DeliveryOutcome::Rejected(code) if is_permanent(code) => {
                self.refused.insert(seq, code);
                if !was_alone {
                    self.mark_failed(kit, seq);
                } else if !self.move_to_dead_letters(kit, seq, &refusal_reason(code)) {
                    self.failed.insert(seq);
                    self.has_kafka_trouble = true;
                }
            }
            DeliveryOutcome::Rejected(_) | DeliveryOutcome::Unknown(_) => {
                self.on_unconfirmed(kit, seq, outcome.error_code());
                match was_alone {
                    true => _ = self.failed.insert(seq),
                    false => self.mark_failed(kit, seq),
                }
            }
        }
        if was_alone {
            self.exclusive = None;
            self.backlog(kit).set_exclusive(false);
        }
    }

    fn on_stored(
        &mut self,
        kit: &DrainContext,
        seq: u64,
        bytes: &[u8],
        receipt: Receipt,
        took: Duration,
    ) {
        self.confirmed.push(seq);
        self.refused.remove(&seq);
        self.ambiguous.remove(&seq);
        self.window.record_confirmation(took, Instant::now());
        self.backoff.reset();
        self.is_trouble_logged = false;
        if self.ambiguous.is_empty() {
            let next = receipt.offset() + 1;
            let tail = self.tails.entry(receipt.partition()).or_insert(next);
            *tail = next.max(*tail);
        }
        if let Some(desk) = &kit.shared.deduplicator {
            publish::notify_stored(desk, bytes, kit.stamping);
        }
    }

    /// Perhaps it is stored, perhaps not; it is handed over again.
    fn on_unconfirmed(&mut self, kit: &DrainContext, seq: u64, code: Option<RDKafkaErrorCode>) {
        self.has_kafka_trouble = true;
        self.ambiguous.insert(seq);
        self.lane(kit).open_circuit();
        if code == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
            self.lane(kit).deny();
        }
        self.log_trouble(code);
    }

    fn mark_failed(&mut self, kit: &DrainContext, seq: u64) {
        self.failed.insert(seq);
        self.handled -= 1;
        self.backlog(kit).add(1);
    }

    fn log_trouble(&mut self, code: Option<RDKafkaErrorCode>) {
        if !std::mem::replace(&mut self.is_trouble_logged, true) {
            let destination = self.to.name();
            let code = code.map(|code| format!("{code:?}"));
            tracing::warn!(
                destination,
                code,
                "Kafka does not take what waits in the spool; trying again until it does"
            );
        }
    }

    /// Removes what was confirmed. After all that came at once, so that it is one step.
    pub fn remove_confirmed(&mut self, kit: &DrainContext) {
        if !self.confirmed.is_empty() {
            let confirmed = std::mem::take(&mut self.confirmed);
            self.remove(kit, &confirmed);
            kit.shared.counts.drained.inc_by(confirmed.len() as u64);
        }
    }

    /// Nothing more is handed over.
    pub fn halt(&self, kit: &DrainContext) -> Duration {
        self.backlog(kit).stop();
        MAX_SLEEP
    }

    /// Hands over what can be. Returns when to look again, should nothing be heard before.
    pub fn advance(&mut self, kit: &DrainContext, now: Instant) -> Duration {
        self.expire_in_flight(kit, now);
        let (flows, wait) = match self.stage {
            DrainStage::Draining => self.drain_backlog(kit, now),
            DrainStage::AwaitingSearch | DrainStage::Searching => (false, MAX_SLEEP),
        };
        let flows = flows && !self.lane(kit).is_circuit_open() && !self.is_stuck(now);
        let within_reach = if flows { self.window.size() as u64 } else { 0 };
        self.backlog(kit).set_wait_threshold(within_reach);
        wait
    }

    /// Whether reports fail to come.
    fn is_stuck(&self, now: Instant) -> bool {
        let oldest = self.in_flight.first_key_value();
        oldest.is_some_and(|(_, sent)| {
            now.saturating_duration_since(sent.sent_at) > self.window.prompt_limit()
        })
    }

    /// Whether it goes on well, and when to look again.
    fn drain_backlog(&mut self, kit: &DrainContext, now: Instant) -> (bool, Duration) {
        if !kit.can_hand_over(now) {
            return (false, POLL_INTERVAL);
        }
        if !self.failed.is_empty() {
            if !self.in_flight.is_empty() {
                return (false, MAX_SLEEP);
            }
            self.rewind(now);
        }
        if let Some(left) = self.backoff.remaining(now) {
            return (false, left);
        }
        let mut is_read = !self.read_ahead.is_empty();
        while self.has_room(kit, now) {
            if self.read_ahead.is_empty() && std::mem::replace(&mut is_read, true) {
                // Listens first: something may have failed, and then nothing is to be sent after it.
                return (true, Duration::ZERO);
            }
            let front = match self.next_seq(kit) {
                Ok(Some(front)) => front,
                Ok(None) if self.in_flight.is_empty() => return (true, MAX_SLEEP),
                Ok(None) => return (true, POLL_INTERVAL),
                Err(error) => {
                    let destination = self.to.name();
                    tracing::error!(destination, %error, "the spool cannot be read");
                    self.backoff.start(now);
                    return (false, POLL_INTERVAL);
                }
            };
            let in_doubt_since = kit.shared.in_doubt().get(&front).copied();
            if let Some(since) = in_doubt_since {
                if now.saturating_duration_since(since) < REPORT_TIMEOUT {
                    return (false, MAX_SLEEP);
                }
                self.replace_silent_producer(kit, front);
                self.resolve_in_doubt(kit, front, false);
            }
            let is_refused = self.refused.contains_key(&front);
            if is_refused && !self.acquire_exclusive(kit) {
                return (false, EXCLUSIVE_POLL_INTERVAL);
            }
            if self.record_handover(kit, front) {
                return (true, Duration::ZERO);
            }
            if !self.hand_over(kit, front, is_refused, now) {
                return (false, POLL_INTERVAL);
            }
        }
        (self.exclusive.is_none(), POLL_INTERVAL)
    }

    /// Back to the first that failed.
    fn rewind(&mut self, now: Instant) {
        self.cursor = self.failed.first().copied().unwrap_or(self.cursor);
        self.failed.clear();
        self.read_ahead.clear();
        if std::mem::take(&mut self.has_kafka_trouble) {
            self.window = DrainWindow::new(now);
            self.backoff.start(now);
        }
    }

    /// Half of the lane is left to others. Where Kafka does not confirm, one record asks it: were there more, the first could
    /// fail and the others still be stored, out of order.
    fn has_room(&self, kit: &DrainContext, now: Instant) -> bool {
        let records = match self.lane(kit).is_circuit_open() || self.is_stuck(now) {
            true => 1,
            false => self.window.size().min((kit.shared.lane_events / 2).max(1)),
        };
        let has_bytes = self.in_flight_bytes < kit.shared.lane_bytes / 2;
        self.exclusive.is_none()
            && self.in_flight.len() < records
            && (has_bytes || self.in_flight.is_empty())
    }

    /// Whether nothing of the destination is in flight, and nothing new comes beside it.
    fn acquire_exclusive(&self, kit: &DrainContext) -> bool {
        self.backlog(kit).set_exclusive(true);
        self.in_flight.is_empty() && self.lane(kit).in_flight() == 0
    }

    /// The sequence number of the next entry.
    fn next_seq(&mut self, kit: &DrainContext) -> Result<Option<u64>, StoreError> {
        if self.read_ahead.is_empty() {
            self.fill_read_ahead(kit)?;
        }
        Ok(self.read_ahead.front().map(|(seq, _)| *seq))
    }

    fn fill_read_ahead(&mut self, kit: &DrainContext) -> Result<(), StoreError> {
        let shared = &kit.shared;
        // In this order: what was published by now is visible, and is in the store.
        let published = self.backlog(kit).committed();
        if published == self.handled {
            return Ok(());
        }
        let visible = shared.visible_end.load(Ordering::Acquire);
        let most = (2 * self.window.size()).clamp(16, MAX_BATCH_ENTRIES);
        let read = shared
            .store
            .read(self.to, self.cursor, most, MAX_BATCH_BYTES)?;
        self.read_ahead
            .extend(read.into_iter().take_while(|(seq, _)| *seq < visible));
        let missing = published.saturating_sub(self.handled);
        if self.read_ahead.is_empty() && missing > 0 {
            let destination = self.to.name();
            tracing::error!(
                destination,
                missing,
                "entries of the spool are gone, by damage"
            );
            self.missing += missing;
            // Of what the store counts as lost it was told when that was found.
            if self.missing > shared.store.lost(self.to)
                && let Some(desk) = &shared.deduplicator
            {
                desk.invalidate_spooled();
            }
            self.count_handled(kit, missing);
        }
        Ok(())
    }

    /// Returns whether it goes on.
    fn hand_over(&mut self, kit: &DrainContext, seq: u64, alone: bool, now: Instant) -> bool {
        let Some((_, bytes)) = self.read_ahead.front() else {
            return false;
        };
        match self.try_send(kit, seq, bytes) {
            SendAttempt::Sent(replaced) => {
                if let Some((event_type, reason)) = replaced {
                    kit.shared
                        .metrics
                        .count_timestamp_replacement(event_type, reason);
                }
                let bytes = self.read_ahead.pop_front().map(|(_, bytes)| bytes);
                let bytes = bytes.unwrap_or_default();
                self.in_flight_bytes += bytes.len();
                self.in_flight.insert(
                    seq,
                    InFlightEntry {
                        sent_at: now,
                        bytes,
                    },
                );
                self.cursor = seq + 1;
                match alone {
                    // Newcomers wait for what becomes of it.
                    true => self.exclusive = Some(seq),
                    false => self.count_handled(kit, 1),
                }
                true
            }
            SendAttempt::Deferred(code) => {
                self.backlog(kit).set_exclusive(false);
                if code != Some(RDKafkaErrorCode::QueueFull) {
                    self.log_trouble(code);
                }
                self.backoff.start(now);
                false
            }
            SendAttempt::Unpublishable(reason) => {
                self.backlog(kit).set_exclusive(false);
                if self.move_to_dead_letters(kit, seq, &reason) {
                    self.read_ahead.pop_front();
                    self.cursor = seq + 1;
                    return true;
                }
                self.backoff.start(now);
                false
            }
        }
    }

    fn try_send(&self, kit: &DrainContext, seq: u64, bytes: &[u8]) -> SendAttempt {
        let lane = self.lane(kit);
        let handed = Box::new(DrainedEntryObserver {
            mailbox: Arc::clone(&kit.shared.mailbox),
            to: self.to,
            seq,
            sent_at: Instant::now(),
        });
        // What Kafka refused for its timestamp gets another one before it is given up.
        let stamping = match self.refused.get(&seq) {
            Some(RDKafkaErrorCode::InvalidTimestamp) => kit.stamping.with_publish_time(),
            _ => kit.stamping,
        };
        let attempted = publish::with_record(bytes, lane.topic(), stamping, |record, event| {
            let Ok(permit) = lane.acquire_permit(record.value.len()) else {
                return SendAttempt::Deferred(None);
            };
            let replaced = record.timestamp_replacement;
            let replaced = event.map(|event| event.event_type()).zip(replaced);
            match kit.producer.send_record(record, permit, handed) {
                Ok(()) => SendAttempt::Sent(replaced),
                // librdkafka says so of this very record.
                Err((code, _)) if is_permanent(code) => {
                    SendAttempt::Unpublishable(refusal_reason(code))
                }
                Err((code, _)) => SendAttempt::Deferred(Some(code)),
            }
        });
        attempted.unwrap_or_else(SendAttempt::Unpublishable)
    }

    /// Before an entry is handed over it is on disk that it was; one mark serves many. Returns whether that took a while.
    fn record_handover(&mut self, kit: &DrainContext, seq: u64) -> bool {
        if self.marked_upto.is_some_and(|upto| seq <= upto) {
            return false;
        }
        let visible = kit.shared.visible_end.load(Ordering::Acquire);
        let upto = (seq + ENTRIES_PER_MARK - 1)
            .min(visible.saturating_sub(1))
            .max(seq);
        let tails: Vec<_> = self.tails.iter().map(|(p, o)| (*p, *o)).collect();
        match kit.shared.store.record_handover(self.to, upto, &tails) {
            Ok(()) => self.is_mark_failure_logged = false,
            Err(error) => {
                // A full disk gets empty only by draining: better twice in Kafka after a crash than never.
                if !std::mem::replace(&mut self.is_mark_failure_logged, true) {
                    let destination = self.to.name();
                    tracing::error!(
                        destination,
                        %error,
                        "the spool cannot note what is handed to Kafka: after a crash some events may be stored twice"
                    );
                }
            }
        }
        self.marked_upto = Some(upto);
        true
    }

    /// Returns whether it was.
    fn move_to_dead_letters(&mut self, kit: &DrainContext, seq: u64, reason: &str) -> bool {
        let destination = self.to.name();
        let read = kit.shared.store.read(self.to, seq, 1, 1);
        match kit.shared.store.move_to_dead_letters(self.to, seq, reason) {
            Ok(()) => {
                if let Some(desk) = &kit.shared.deduplicator
                    && let Some((found, bytes)) = read.unwrap_or_default().first()
                    && *found == seq
                {
                    publish::notify_dead_letter(desk, bytes, kit.stamping);
                }
                let counts = &kit.shared.counts;
                counts.dead_letters.inc();
                if let Some(left_out) = kit.shared.throttle.allow("set aside") {
                    tracing::error!(
                        destination,
                        seq,
                        reason,
                        left_out,
                        "an entry of the spool can never be published, and is set aside"
                    );
                }
            }
            // Damage took it meanwhile.
            Err(StoreError::Missing(_)) => {}
            Err(error) => {
                tracing::error!(destination, seq, %error, "an entry could not be set aside; trying again");
                return false;
            }
        }
        kit.shared.unflushed.store(true, Ordering::Release);
        self.refused.remove(&seq);
        self.ambiguous.remove(&seq);
        self.count_handled(kit, 1);
        true
    }

    fn remove(&self, kit: &DrainContext, seqs: &[u64]) {
        if !seqs.is_empty()
            && let Err(error) = kit.shared.remove(self.to, seqs)
        {
            // The entries are gone; only a file is left.
            tracing::warn!(%error, "a file of the spool could not be removed yet");
        }
    }

    /// Duplicate detection hears that Kafka has them.
    fn notify_stored(&self, kit: &DrainContext, seqs: &[u64]) {
        let Some(desk) = &kit.shared.deduplicator else {
            return;
        };
        for seq in seqs {
            let read = kit.shared.store.read(self.to, *seq, 1, 1);
            if let Some((found, bytes)) = read.unwrap_or_default().first()
                && found == seq
            {
                publish::notify_stored(desk, bytes, kit.stamping);
            }
        }
    }

    /// So many are no longer before us.
    fn count_handled(&mut self, kit: &DrainContext, entries: u64) {
        self.handled += entries;
        self.backlog(kit).remove(entries);
    }

    fn backlog<'k>(&self, kit: &'k DrainContext) -> &'k DestinationBacklog {
        &kit.shared.backlogs[self.to.index()]
    }

    fn lane<'k>(&self, kit: &'k DrainContext) -> &'k Arc<TopicLane> {
        &kit.shared.lanes[self.to.index()]
    }
}

/// Errors that speak of the record as it is. A missing permission is none: it can be granted.
fn is_permanent(code: RDKafkaErrorCode) -> bool {
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

fn refusal_reason(code: RDKafkaErrorCode) -> String {
    format!("Kafka refuses it: {code} ({code:?})")
}
