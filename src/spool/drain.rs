//! The one thread that hands entries to librdkafka, each destination in order and by itself.
//!
//! - `mailbox`: what it hears from other threads;
//! - `course`: how far one destination is, and what to do next; `window`: how many records it may have in flight;
//! - `publish`: from an entry to its record;
//! - `recover`: after a start, which entries Kafka holds already;
//! - `progress`: what the log tells.

pub(super) mod mailbox;
pub(super) mod recover;

mod course;
mod progress;
mod publish;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

use super::Shared;
use super::queue::Line;
use crate::dedup::desk::Desk;
use crate::kafka::lane::LanePermit;
use crate::kafka::producer::Producer;
use crate::kafka::report::Settle;
use crate::record::{ProducerRecord, TimestampPolicy};
use butlr_event::destination::Destination;
use course::Course;
use mailbox::Word;
use progress::Progress;
use recover::Look;

/// The longest sleep.
const IDLE: Duration = Duration::from_secs(1);
/// Between two flushes of removals.
const FLUSH: Duration = Duration::from_secs(1);
/// How long what is in the spool may be told to duplicate detection before anything is handed over.
const RESTORING: Duration = Duration::from_secs(300);
/// Destinations whose entries of before are looked for at a time.
const LOOKING: usize = 3;

/// Who takes records: the producer; in tests, something that can be told to fail.
pub(super) trait Hand: Send + Sync {
    /// See [`Producer::send_entry`].
    fn hand(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        entry: Box<dyn Settle>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn Settle>)>;

    /// See [`Producer::replace_soon`].
    fn replace(&self, silent: Duration);
}

impl Hand for Producer {
    fn hand(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        entry: Box<dyn Settle>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn Settle>)> {
        self.send_entry(record, permit, entry)
    }

    fn replace(&self, silent: Duration) {
        self.replace_soon(silent);
    }
}

/// What handing over needs.
pub(super) struct Kit {
    pub(super) shared: Arc<Shared>,
    pub(super) producer: Arc<dyn Hand>,
    pub(super) stamping: TimestampPolicy,
    began: Instant,
}

impl Kit {
    fn may_hand_over(&self, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.began);
        may_hand_over(self.shared.desk.as_deref(), waited)
    }
}

/// Not before duplicate detection knows what is in the spool: what it was told of an entry after the end of that would stay. A
/// disk that does not let it be read is waited for only so long.
pub(super) fn may_hand_over(desk: Option<&Desk>, waited: Duration) -> bool {
    desk.is_none_or(Desk::knows_spool) || waited >= RESTORING
}

/// The drain's thread; ends when dropped, which blocks for a flush. Entries that librdkafka still has then stay on disk.
#[must_use = "dropped, it ends"]
pub struct Draining {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Draining {
    pub(super) fn start(
        shared: Arc<Shared>,
        producer: Arc<dyn Hand>,
        stamping: TimestampPolicy,
        look: Arc<Look>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let kit = Kit {
            shared: Arc::clone(&shared),
            producer,
            stamping,
            began: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("spool-drain".into())
            .spawn({
                let stop = Arc::clone(&stop);
                move || {
                    let _halted = Halted(&kit.shared.lines);
                    run(&kit, &look, &stop);
                }
            })
            .expect("the system can start a thread");
        Self {
            shared,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.shared.mailbox.rouse();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// However the thread ends, nobody waits for it any more.
struct Halted<'l>(&'l [Line; Destination::COUNT]);

impl Drop for Halted<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(Line::stop);
        if std::thread::panicking() {
            tracing::error!(
                "the thread that drains the spool has ended by a bug; restart the bridge to have it drained"
            );
        }
    }
}

fn run(kit: &Kit, look: &Arc<Look>, stop: &Arc<AtomicBool>) {
    let shared = &kit.shared;
    let mut courses = Destination::all().map(|to| Course::new(to, shared));
    let mut progress = Progress::default();
    let mut flushed = Instant::now();
    let mut patience = Duration::ZERO;
    let mut told_lost = 0;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let words = shared
            .mailbox
            .take(if stopping { Duration::ZERO } else { patience });
        for word in words {
            hear(kit, &mut courses, word);
        }
        for course in &mut courses {
            course.clear(kit);
        }
        if stopping {
            break;
        }
        tell_lost(shared, &mut told_lost);
        look_for_recovered(kit, &mut courses, look, stop);
        let now = Instant::now();
        let halted = shared.ending.load(Ordering::Acquire);
        let waits = courses.each_mut().map(|course| match halted {
            true => course.halt(kit),
            false => course.advance(kit, now),
        });
        patience = waits.into_iter().min().unwrap_or(IDLE).min(IDLE);
        if flushed.elapsed() >= FLUSH {
            flush(shared);
            flushed = Instant::now();
        }
        progress.tell(shared, now);
    }
    flush(shared);
}

fn hear(kit: &Kit, courses: &mut [Course], word: Word) {
    match word {
        Word::Handed {
            to,
            seq,
            report,
            took,
        } => courses[to.index()].settled(kit, seq, report, took),
        Word::Doubt { to, seq, stored } => courses[to.index()].resolved(kit, seq, stored),
        Word::Looked { to, found } => courses[to.index()].looked(kit, found),
    }
}

/// Who looks for duplicates is told of damage, so that what is sent again is not taken for a copy of what is lost. Not before
/// all that was there at the start is known: that may be told after it was lost.
fn tell_lost(shared: &Shared, told: &mut u64) {
    let lost = shared.lost();
    if lost > *told
        && let Some(desk) = &shared.desk
        && desk.knows_spool()
    {
        *told = lost;
        desk.distrust_spooled();
    }
}

fn look_for_recovered(kit: &Kit, courses: &mut [Course], look: &Arc<Look>, stop: &Arc<AtomicBool>) {
    let looking = courses.iter().filter(|c| c.is_looking()).count();
    let free = LOOKING.saturating_sub(looking);
    for course in courses.iter_mut().filter(|c| c.is_to_look()).take(free) {
        course.look(kit, look, stop);
    }
}

fn flush(shared: &Shared) {
    if let Err(error) = shared.flush() {
        tracing::warn!(%error, "what was removed from the spool could not be written down yet");
    }
}
