//! The one thread that writes entries: all that came while the last commit was under way make the next one.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::drain::mailbox::{Mailbox, Word};
use super::store::StoreError;
use super::{Keeping, NewEntry, NotKept, Shared, lock};
use crate::dedup::claim::Claim;
use crate::kafka::report::{Report, Settle, Slot};
use butlr_event::destination::Destination;

/// Most bytes of one commit.
const COMMIT: usize = 8 << 20;
/// Most bytes that wait for the writer: requests bound them, but those that gave up leave theirs behind.
const WAITING: usize = 64 << 20;

/// The writer's thread and what waits for it.
pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    entries: VecDeque<Pending>,
    bytes: usize,
    ending: bool,
}

/// An entry on its way to disk.
struct Pending {
    to: Destination,
    bytes: Vec<u8>,
    fate: Fate,
}

/// What hangs on it.
struct Fate {
    claim: Option<Claim>,
    doubt: Option<Arc<Slot>>,
    answer: oneshot::Sender<Result<(), NotKept>>,
}

impl Fate {
    /// Certainly not on disk.
    fn not_kept(self, why: NotKept) {
        match self.doubt {
            Some(slot) => slot.give_back(self.claim),
            None => drop(self.claim),
        }
        let _ = self.answer.send(Err(why));
    }

    /// On disk, perhaps.
    fn lost(self, why: NotKept) {
        match (self.doubt, self.claim) {
            (Some(slot), claim) => slot.give_back(claim),
            (None, Some(claim)) => claim.unknown(),
            (None, None) => {}
        }
        let _ = self.answer.send(Err(why));
    }
}

impl Writer {
    pub fn start(shared: Arc<Shared>) -> Self {
        let queue = Arc::new(Queue::default());
        let thread = std::thread::Builder::new()
            .name("spool-writer".into())
            .spawn({
                let (shared, queue) = (Arc::clone(&shared), Arc::clone(&queue));
                move || run(&shared, &queue)
            })
            .expect("the system can start a thread");
        Self {
            shared,
            queue,
            thread: Mutex::new(Some(thread)),
        }
    }

    pub fn keep(&self, entry: NewEntry, claim: Option<Claim>, doubt: Option<Arc<Slot>>) -> Keeping {
        let (answer, answered) = oneshot::channel();
        let fate = Fate {
            claim,
            doubt,
            answer,
        };
        let NewEntry { to, bytes } = entry;
        match self.refused(to, bytes, fate) {
            None => Keeping::waiting(answered),
            Some((why, fate)) => {
                fate.not_kept(why.clone());
                Keeping::not(why)
            }
        }
    }

    /// Queues an entry, or gives back what hangs on it, with the reason.
    fn refused(&self, to: Destination, bytes: Vec<u8>, fate: Fate) -> Option<(NotKept, Fate)> {
        if let Some(why) = self.shared.health.refusal() {
            return Some((why, fate));
        }
        let mut waiting = lock(&self.queue.waiting);
        if waiting.ending {
            return Some((NotKept::Ending, fate));
        }
        if waiting.bytes + bytes.len() > WAITING {
            let why = "the disk is too slow for what comes".to_owned();
            return Some((NotKept::Full { why }, fate));
        }
        // Before anybody can be told: what comes after waits behind it.
        self.shared.lines[to.index()].add(1);
        waiting.bytes += bytes.len();
        waiting.entries.push_back(Pending { to, bytes, fate });
        if waiting.entries.len() == 1 {
            self.queue.came.notify_one();
        }
        None
    }

    /// Writes what has come, and ends.
    pub fn end(&self) {
        lock(&self.queue.waiting).ending = true;
        self.queue.came.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Queue {
    /// What has come, up to a commit's size; nothing after `patience`. `None` at the end.
    fn take(&self, patience: Duration) -> Option<Vec<Pending>> {
        let waiting = lock(&self.waiting);
        let idle = |waiting: &mut Waiting| waiting.entries.is_empty() && !waiting.ending;
        let waited = self.came.wait_timeout_while(waiting, patience, idle);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if waiting.entries.is_empty() && waiting.ending {
            return None;
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = waiting.entries.front()
            && (batch.is_empty() || bytes + next.bytes.len() <= COMMIT)
        {
            bytes += next.bytes.len();
            batch.extend(waiting.entries.pop_front());
        }
        waiting.bytes -= bytes;
        Some(batch)
    }
}

fn run(shared: &Arc<Shared>, queue: &Queue) {
    while let Some(batch) = queue.take(shared.health.patience()) {
        shared.health.committing(|| {
            shared.health.look(&shared.store);
            shared.health.recover(&shared.store);
        });
        if !batch.is_empty() {
            commit(shared, batch);
        }
    }
}

fn commit(shared: &Arc<Shared>, batch: Vec<Pending>) {
    let mut used = shared.store.bytes();
    let mut entries = Vec::with_capacity(batch.len());
    let mut fates = Vec::with_capacity(batch.len());
    for Pending { to, bytes, fate } in batch {
        let more = used.saturating_add(bytes.len() as u64);
        let health = &shared.health;
        let refusal = health.refusal();
        match refusal.or_else(|| health.exceeded(more)) {
            Some(why) => {
                fate.not_kept(why);
                shared.lines[to.index()].take(1);
            }
            None => {
                used = more;
                entries.push((to, bytes));
                fates.push(fate);
            }
        }
    }
    if entries.is_empty() {
        return;
    }
    let began = Instant::now();
    let mut may_be_there = true;
    let appended = guarded(|| {
        let append = || shared.store.append(&entries);
        let appended = shared.health.committing(append);
        may_be_there = matches!(appended, Err(StoreError::Write { .. }));
        appended
    });
    match appended {
        Ok(seqs) => {
            let took = began.elapsed().as_secs_f64();
            shared.counts.commit_duration.observe(took);
            let to = entries.iter().map(|(to, _)| *to);
            published(shared, seqs.zip(to).zip(fates).collect());
        }
        Err(why) => {
            shared.health.poison(why.clone());
            for ((to, _), fate) in entries.into_iter().zip(fates) {
                let why = NotKept::Unwritable { why: why.clone() };
                match may_be_there {
                    true => fate.lost(why),
                    false => fate.not_kept(why),
                }
                shared.lines[to.index()].take(1);
            }
        }
    }
}

/// Durable. In this order: nobody hears of an entry before its claim is decided, and the drain sees none whose doubt is not
/// noted.
fn published(shared: &Arc<Shared>, entries: Vec<((u64, Destination), Fate)>) {
    shared.counts.spooled.inc_by(entries.len() as u64);
    let now = Instant::now();
    let mut counts = [0; Destination::COUNT];
    let mut last = 0;
    let mut open = Vec::with_capacity(entries.len());
    for (
        (seq, to),
        Fate {
            claim,
            doubt,
            answer,
        },
    ) in entries
    {
        if let Some(claim) = claim {
            claim.commit_spooled(now);
        }
        if doubt.is_some() {
            shared.doubts().insert(seq, now);
        }
        counts[to.index()] += 1;
        last = seq;
        open.push((seq, to, doubt, answer));
    }
    shared.visible.store(last + 1, Ordering::Release);
    for (line, count) in shared.lines.iter().zip(counts) {
        line.publish(count);
    }
    let mut answers = Vec::with_capacity(open.len());
    for (seq, to, doubt, answer) in open {
        if let Some(slot) = doubt {
            slot.follow(Box::new(InDoubt {
                mailbox: Arc::clone(&shared.mailbox),
                to,
                seq,
            }));
        }
        answers.push(answer);
    }
    for answer in answers {
        let _ = answer.send(Ok(()));
    }
    shared.mailbox.rouse();
}

/// Calls into the store; a panic there is an error like others.
pub(super) fn guarded<T, E: fmt::Display>(
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the store panicked".to_owned()),
    }
}

/// An entry whose record librdkafka still has.
#[derive(Debug)]
struct InDoubt {
    mailbox: Arc<Mailbox>,
    to: Destination,
    seq: u64,
}

impl Settle for InDoubt {
    fn settle(self: Box<Self>, report: Option<Report>) {
        let stored = report.is_some_and(|report| report.is_stored());
        self.mailbox.push(Word::Doubt {
            to: self.to,
            seq: self.seq,
            stored,
        });
    }
}
