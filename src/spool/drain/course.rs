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

use super::mailbox::{Found, Handed};
use super::recover::{self, Look};
use super::window::{Pause, Window};
use super::{IDLE, Kit, publish};
use crate::kafka::lane::Lane;
use crate::kafka::report::{Receipt, Report};
use crate::metrics::TimestampReplacement;
use crate::spool::Shared;
use crate::spool::queue::Line;
use crate::spool::store::StoreError;
use butlr_event::EventType;
use butlr_event::destination::Destination;

/// Entries read at a time, at most: a few windows.
const BATCH: usize = 2_000;
const BATCH_BYTES: usize = 2 << 20;
/// One mark serves about so many entries.
const MARK: u64 = 5_000;
/// Between two looks while something is under way that nobody will tell of.
const GLANCE: Duration = Duration::from_millis(20);
/// librdkafka gives a record up after a minute, and a producer that is stuck is replaced within another.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// Between two looks at a lane that is to become empty.
const ALONE: Duration = Duration::from_millis(5);

pub(super) struct Course {
    to: Destination,
    stage: Stage,
    cursor: u64,
    ahead: VecDeque<(u64, Vec<u8>)>,
    /// Up to here it is on disk that entries were handed over.
    marked: Option<u64>,
    in_flight: BTreeMap<u64, InFlight>,
    in_flight_bytes: usize,
    /// Of those handed over since the last step back.
    failed: BTreeSet<u64>,
    /// Whether one of them tells of trouble with Kafka, rather than with a record.
    trouble: bool,
    /// Refused for good once, together with others: to be tried alone.
    refused: BTreeMap<u64, RDKafkaErrorCode>,
    /// The one that is tried alone now.
    alone: Option<u64>,
    /// Not confirmed, but stored perhaps. While there are such, no offset tells from where on to look for them.
    ambiguous: HashSet<u64>,
    /// Confirmed, to be removed.
    confirmed: Vec<u64>,
    /// Of those the line has published.
    passed: u64,
    /// Of these, those that were not there.
    missing: u64,
    window: Window,
    pause: Pause,
    /// Partition → the offset that its next record gets, at least.
    tails: BTreeMap<i32, i64>,
    /// A failure of the disk was told.
    is_unmarked: bool,
    /// That Kafka does not take the records was told.
    is_told: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Recovered,
    Looking,
    Draining,
}

struct InFlight {
    at: Instant,
    bytes: Vec<u8>,
}

/// What became of an attempt to hand an entry over.
enum Attempt {
    Handed(Option<(EventType, TimestampReplacement)>),
    /// Not now.
    NotTaken(Option<RDKafkaErrorCode>),
    Never(String),
}

impl Course {
    pub fn new(to: Destination, shared: &Shared) -> Self {
        let recovered = shared.lines[to.index()].is_looking();
        let is_looked_for = recovered && !shared.settings.recover_within.is_zero();
        if !is_looked_for {
            shared.lines[to.index()].looked();
        }
        Self {
            to,
            stage: match is_looked_for {
                true => Stage::Recovered,
                false => Stage::Draining,
            },
            cursor: 0,
            ahead: VecDeque::new(),
            marked: None,
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            failed: BTreeSet::new(),
            trouble: false,
            refused: BTreeMap::new(),
            alone: None,
            ambiguous: HashSet::new(),
            confirmed: Vec::new(),
            passed: 0,
            missing: 0,
            window: Window::new(Instant::now()),
            pause: Pause::default(),
            tails: BTreeMap::new(),
            is_unmarked: false,
            is_told: false,
        }
    }

    pub fn is_to_look(&self) -> bool {
        self.stage == Stage::Recovered
    }

    pub fn is_looking(&self) -> bool {
        self.stage == Stage::Looking
    }

    pub fn look(&mut self, kit: &Kit, look: &Arc<Look>, stop: &Arc<AtomicBool>) {
        self.stage = Stage::Looking;
        recover::look(&kit.shared, self.to, look, stop);
    }

    /// Which of the entries of before Kafka holds already.
    pub fn looked(&mut self, kit: &Kit, found: Found) {
        let Found { suspects, outcome } = found;
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
        if let Some(why) = &outcome.why_not {
            tracing::warn!(
                destination,
                why,
                "not all entries of before could be looked for in their topic: some may be stored twice"
            );
        }
        self.tell(kit, &outcome.stored);
        self.remove(kit, &outcome.stored);
        let stored = outcome.stored.len() as u64;
        kit.shared.counts.already_stored.inc_by(stored);
        self.pass(kit, stored);
        self.line(kit).looked();
        self.stage = Stage::Draining;
    }

    /// librdkafka's final word on the record that the entry doubts.
    pub fn resolved(&mut self, kit: &Kit, seq: u64, stored: bool) {
        if kit.shared.doubts().remove(&seq).is_none() {
            // It came far too late: the entry was handed over again meanwhile.
            return;
        }
        if !stored {
            self.ambiguous.insert(seq);
            return;
        }
        self.ahead.retain(|(ahead, _)| *ahead != seq);
        let read = kit.shared.store.read(self.to, seq, 1, 1);
        if read.is_ok_and(|read| read.first().is_none_or(|(found, _)| *found != seq)) {
            // Damage took it meanwhile, and it was passed with the others that are gone.
            return;
        }
        self.tell(kit, &[seq]);
        self.remove(kit, &[seq]);
        kit.shared.counts.confirmed_late.inc();
        self.pass(kit, 1);
    }

    /// librdkafka has said nothing for far too long: rather twice in Kafka than never. A fresh producer is to try: this one may
    /// be stuck for some partitions while others confirm.
    fn forgotten(&self, kit: &Kit, seq: u64) {
        let destination = self.to.name();
        tracing::error!(
            destination,
            seq,
            "librdkafka has no final word on a record; its event is published again, perhaps as a copy"
        );
        kit.producer.replace(FORGOTTEN);
    }

    /// Those handed over of which nothing was heard for far too long.
    fn give_up(&mut self, kit: &Kit, now: Instant) {
        let is_forgotten = |sent: &InFlight| now.saturating_duration_since(sent.at) >= FORGOTTEN;
        while let Some((seq, sent)) = self.in_flight.first_key_value()
            && is_forgotten(sent)
        {
            let (seq, took) = (*seq, now.saturating_duration_since(sent.at));
            self.forgotten(kit, seq);
            self.settled(kit, seq, None, took);
        }
    }

    /// librdkafka's final word on an entry that was handed over.
    pub fn settled(&mut self, kit: &Kit, seq: u64, report: Option<Report>, took: Duration) {
        let Some(InFlight { bytes, .. }) = self.in_flight.remove(&seq) else {
            return;
        };
        self.in_flight_bytes -= bytes.len();
        let was_alone = self.alone == Some(seq);
        match report {
            Some(Report::Stored(receipt)) => {
                if was_alone {
                    self.pass(kit, 1);
                }
                self.stored(kit, seq, &bytes, receipt, took);
            }
            Some(Report::Failed(code)) if is_for_good(code) => {
                self.refused.insert(seq, code);
                if !was_alone {
                    self.failed(kit, seq);
                } else if !self.set_aside(kit, seq, &refusal(code)) {
                    self.failed.insert(seq);
                    self.trouble = true;
                }
            }
            Some(Report::Failed(_) | Report::Presumed) | None => {
                self.not_confirmed(kit, seq, report);
                match was_alone {
                    true => _ = self.failed.insert(seq),
                    false => self.failed(kit, seq),
                }
            }
        }
        if was_alone {
            self.alone = None;
            self.line(kit).try_alone(false);
        }
    }

    fn stored(&mut self, kit: &Kit, seq: u64, bytes: &[u8], receipt: Receipt, took: Duration) {
        self.confirmed.push(seq);
        self.refused.remove(&seq);
        self.ambiguous.remove(&seq);
        self.window.confirmed(took, Instant::now());
        self.pause.reset();
        self.is_told = false;
        if self.ambiguous.is_empty() {
            let next = receipt.offset() + 1;
            let tail = self.tails.entry(receipt.partition()).or_insert(next);
            *tail = next.max(*tail);
        }
        if let Some(desk) = &kit.shared.desk {
            publish::tell(desk, bytes, kit.stamping);
        }
    }

    /// Perhaps it is stored, perhaps not; it is handed over again.
    fn not_confirmed(&mut self, kit: &Kit, seq: u64, report: Option<Report>) {
        self.trouble = true;
        self.ambiguous.insert(seq);
        self.lane(kit).open_circuit();
        if let Some(Report::Failed(RDKafkaErrorCode::TopicAuthorizationFailed)) = report {
            self.lane(kit).deny();
        }
        self.tell_trouble(match report {
            Some(Report::Failed(code)) => Some(code),
            _ => None,
        });
    }

    fn failed(&mut self, kit: &Kit, seq: u64) {
        self.failed.insert(seq);
        self.passed -= 1;
        self.line(kit).add(1);
    }

    fn tell_trouble(&mut self, code: Option<RDKafkaErrorCode>) {
        if !std::mem::replace(&mut self.is_told, true) {
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
    pub fn clear(&mut self, kit: &Kit) {
        if !self.confirmed.is_empty() {
            let confirmed = std::mem::take(&mut self.confirmed);
            self.remove(kit, &confirmed);
            kit.shared.counts.drained.inc_by(confirmed.len() as u64);
        }
    }

    /// Nothing more is handed over.
    pub fn halt(&self, kit: &Kit) -> Duration {
        self.line(kit).stop();
        IDLE
    }

    /// Hands over what can be. Returns when to look again, should nothing be heard before.
    pub fn advance(&mut self, kit: &Kit, now: Instant) -> Duration {
        self.give_up(kit, now);
        let (flows, wait) = match self.stage {
            Stage::Draining => self.go_on(kit, now),
            Stage::Recovered | Stage::Looking => (false, IDLE),
        };
        let flows = flows && !self.lane(kit).is_circuit_open() && !self.is_stuck(now);
        let within_reach = if flows { self.window.size() as u64 } else { 0 };
        self.line(kit).flow(within_reach);
        wait
    }

    /// Whether reports fail to come.
    fn is_stuck(&self, now: Instant) -> bool {
        let oldest = self.in_flight.first_key_value();
        oldest
            .is_some_and(|(_, sent)| now.saturating_duration_since(sent.at) > self.window.prompt())
    }

    /// Whether it goes on well, and when to look again.
    fn go_on(&mut self, kit: &Kit, now: Instant) -> (bool, Duration) {
        if !kit.may_hand_over(now) {
            return (false, GLANCE);
        }
        if !self.failed.is_empty() {
            if !self.in_flight.is_empty() {
                return (false, IDLE);
            }
            self.step_back(now);
        }
        if let Some(left) = self.pause.left(now) {
            return (false, left);
        }
        let mut is_read = !self.ahead.is_empty();
        while self.has_room(kit, now) {
            if self.ahead.is_empty() && std::mem::replace(&mut is_read, true) {
                // Listens first: something may have failed, and then nothing is to be sent after it.
                return (true, Duration::ZERO);
            }
            let front = match self.front(kit) {
                Ok(Some(front)) => front,
                Ok(None) if self.in_flight.is_empty() => return (true, IDLE),
                Ok(None) => return (true, GLANCE),
                Err(error) => {
                    let destination = self.to.name();
                    tracing::error!(destination, %error, "the spool cannot be read");
                    self.pause.begin(now);
                    return (false, GLANCE);
                }
            };
            let doubted = kit.shared.doubts().get(&front).copied();
            if let Some(since) = doubted {
                if now.saturating_duration_since(since) < FORGOTTEN {
                    return (false, IDLE);
                }
                self.forgotten(kit, front);
                self.resolved(kit, front, false);
            }
            let is_refused = self.refused.contains_key(&front);
            if is_refused && !self.is_alone(kit) {
                return (false, ALONE);
            }
            if self.mark(kit, front) {
                return (true, Duration::ZERO);
            }
            if !self.hand_over(kit, front, is_refused, now) {
                return (false, GLANCE);
            }
        }
        (self.alone.is_none(), GLANCE)
    }

    /// Back to the first that failed.
    fn step_back(&mut self, now: Instant) {
        self.cursor = self.failed.first().copied().unwrap_or(self.cursor);
        self.failed.clear();
        self.ahead.clear();
        if std::mem::take(&mut self.trouble) {
            self.window = Window::new(now);
            self.pause.begin(now);
        }
    }

    /// Half of the lane is left to others. Where Kafka does not confirm, one record asks it: were there more, the first could
    /// fail and the others still be stored, out of order.
    fn has_room(&self, kit: &Kit, now: Instant) -> bool {
        let records = match self.lane(kit).is_circuit_open() || self.is_stuck(now) {
            true => 1,
            false => self.window.size().min((kit.shared.lane_events / 2).max(1)),
        };
        let has_bytes = self.in_flight_bytes < kit.shared.lane_bytes / 2;
        self.alone.is_none()
            && self.in_flight.len() < records
            && (has_bytes || self.in_flight.is_empty())
    }

    /// Whether nothing of the destination is in flight, and nothing new comes beside it.
    fn is_alone(&self, kit: &Kit) -> bool {
        self.line(kit).try_alone(true);
        self.in_flight.is_empty() && self.lane(kit).in_flight() == 0
    }

    /// The sequence number of the next entry.
    fn front(&mut self, kit: &Kit) -> Result<Option<u64>, StoreError> {
        if self.ahead.is_empty() {
            self.read(kit)?;
        }
        Ok(self.ahead.front().map(|(seq, _)| *seq))
    }

    fn read(&mut self, kit: &Kit) -> Result<(), StoreError> {
        let shared = &kit.shared;
        // In this order: what was published by now is visible, and is in the store.
        let published = self.line(kit).published();
        if published == self.passed {
            return Ok(());
        }
        let visible = shared.visible.load(Ordering::Acquire);
        let most = (2 * self.window.size()).clamp(16, BATCH);
        let read = shared.store.read(self.to, self.cursor, most, BATCH_BYTES)?;
        self.ahead
            .extend(read.into_iter().take_while(|(seq, _)| *seq < visible));
        let missing = published.saturating_sub(self.passed);
        if self.ahead.is_empty() && missing > 0 {
            let destination = self.to.name();
            tracing::error!(
                destination,
                missing,
                "entries of the spool are gone, by damage"
            );
            self.missing += missing;
            // Of what the store counts as lost it was told when that was found.
            if self.missing > shared.store.lost(self.to)
                && let Some(desk) = &shared.desk
            {
                desk.distrust_spooled();
            }
            self.pass(kit, missing);
        }
        Ok(())
    }

    /// Returns whether it goes on.
    fn hand_over(&mut self, kit: &Kit, seq: u64, alone: bool, now: Instant) -> bool {
        let Some((_, bytes)) = self.ahead.front() else {
            return false;
        };
        match self.attempt(kit, seq, bytes) {
            Attempt::Handed(replaced) => {
                if let Some((event_type, reason)) = replaced {
                    kit.shared.metrics.count_timestamp_replacement(event_type, reason);
                }
                let bytes = self.ahead.pop_front().map(|(_, bytes)| bytes);
                let bytes = bytes.unwrap_or_default();
                self.in_flight_bytes += bytes.len();
                self.in_flight.insert(seq, InFlight { at: now, bytes });
                self.cursor = seq + 1;
                match alone {
                    // Newcomers wait for what becomes of it.
                    true => self.alone = Some(seq),
                    false => self.pass(kit, 1),
                }
                true
            }
            Attempt::NotTaken(code) => {
                self.line(kit).try_alone(false);
                if code != Some(RDKafkaErrorCode::QueueFull) {
                    self.tell_trouble(code);
                }
                self.pause.begin(now);
                false
            }
            Attempt::Never(reason) => {
                self.line(kit).try_alone(false);
                if self.set_aside(kit, seq, &reason) {
                    self.ahead.pop_front();
                    self.cursor = seq + 1;
                    return true;
                }
                self.pause.begin(now);
                false
            }
        }
    }

    fn attempt(&self, kit: &Kit, seq: u64, bytes: &[u8]) -> Attempt {
        let lane = self.lane(kit);
        let handed = Box::new(Handed {
            mailbox: Arc::clone(&kit.shared.mailbox),
            to: self.to,
            seq,
            at: Instant::now(),
        });
        // What Kafka refused for its timestamp gets another one before it is given up.
        let stamping = match self.refused.get(&seq) {
            Some(RDKafkaErrorCode::InvalidTimestamp) => kit.stamping.with_publish_time(),
            _ => kit.stamping,
        };
        let attempted = publish::publish(bytes, lane.topic(), stamping, |record, event| {
            let Ok(permit) = lane.enter(record.value.len()) else {
                return Attempt::NotTaken(None);
            };
            let replaced = record.timestamp_replacement;
            let replaced = event.map(|event| event.event_type()).zip(replaced);
            match kit.producer.hand(record, permit, handed) {
                Ok(()) => Attempt::Handed(replaced),
                // librdkafka says so of this very record.
                Err((code, _)) if is_for_good(code) => Attempt::Never(refusal(code)),
                Err((code, _)) => Attempt::NotTaken(Some(code)),
            }
        });
        attempted.unwrap_or_else(Attempt::Never)
    }

    /// Before an entry is handed over it is on disk that it was; one mark serves many. Returns whether that took a while.
    fn mark(&mut self, kit: &Kit, seq: u64) -> bool {
        if self.marked.is_some_and(|upto| seq <= upto) {
            return false;
        }
        let visible = kit.shared.visible.load(Ordering::Acquire);
        let upto = (seq + MARK - 1).min(visible.saturating_sub(1)).max(seq);
        let tails: Vec<_> = self.tails.iter().map(|(p, o)| (*p, *o)).collect();
        match kit.shared.store.hand_over(self.to, upto, &tails) {
            Ok(()) => self.is_unmarked = false,
            Err(error) => {
                // A full disk gets empty only by draining: better twice in Kafka after a crash than never.
                if !std::mem::replace(&mut self.is_unmarked, true) {
                    let destination = self.to.name();
                    tracing::error!(
                        destination,
                        %error,
                        "the spool cannot note what is handed to Kafka: after a crash some events may be stored twice"
                    );
                }
            }
        }
        self.marked = Some(upto);
        true
    }

    /// Returns whether it was.
    fn set_aside(&mut self, kit: &Kit, seq: u64, reason: &str) -> bool {
        let destination = self.to.name();
        let read = kit.shared.store.read(self.to, seq, 1, 1);
        match kit.shared.store.set_aside(self.to, seq, reason) {
            Ok(()) => {
                if let Some(desk) = &kit.shared.desk
                    && let Some((found, bytes)) = read.unwrap_or_default().first()
                    && *found == seq
                {
                    publish::tell_set_aside(desk, bytes, kit.stamping);
                }
                let counts = &kit.shared.counts;
                counts.set_aside.inc();
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
        self.pass(kit, 1);
        true
    }

    fn remove(&self, kit: &Kit, seqs: &[u64]) {
        if !seqs.is_empty()
            && let Err(error) = kit.shared.remove(self.to, seqs)
        {
            // The entries are gone; only a file is left.
            tracing::warn!(%error, "a file of the spool could not be removed yet");
        }
    }

    /// Duplicate detection hears that Kafka has them.
    fn tell(&self, kit: &Kit, seqs: &[u64]) {
        let Some(desk) = &kit.shared.desk else {
            return;
        };
        for seq in seqs {
            let read = kit.shared.store.read(self.to, *seq, 1, 1);
            if let Some((found, bytes)) = read.unwrap_or_default().first()
                && found == seq
            {
                publish::tell(desk, bytes, kit.stamping);
            }
        }
    }

    /// So many are no longer before us.
    fn pass(&mut self, kit: &Kit, entries: u64) {
        self.passed += entries;
        self.line(kit).take(entries);
    }

    fn line<'k>(&self, kit: &'k Kit) -> &'k Line {
        &kit.shared.lines[self.to.index()]
    }

    fn lane<'k>(&self, kit: &'k Kit) -> &'k Arc<Lane> {
        &kit.shared.lanes[self.to.index()]
    }
}

/// Errors that speak of the record as it is. A missing permission is none: it can be granted.
fn is_for_good(code: RDKafkaErrorCode) -> bool {
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

fn refusal(code: RDKafkaErrorCode) -> String {
    format!("Kafka refuses it: {code} ({code:?})")
}
