//! The one thread that writes entries: all that came while the last commit was under way make the next one.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::drain::mailbox::{DrainMessage, Mailbox};
use super::store::StoreError;
use super::{AppendError, AppendFuture, NewEntry, SpoolShared, lock};
use crate::dedup::claim::Claim;
use crate::delivery::{DeliveryObserver, InFlightRecord};
use crate::kafka::report::DeliveryOutcome;
use butlr_event::destination::Destination;

/// Most bytes of one commit.
const MAX_COMMIT_BYTES: usize = 8 << 20;
/// Most bytes that wait for the writer: requests bound them, but those that gave up leave theirs behind.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The writer's thread and what waits for it.
pub(super) struct SpoolWriter {
    shared: Arc<SpoolShared>,
    queue: Arc<AppendQueue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct AppendQueue {
    waiting: Mutex<QueuedAppends>,
    not_empty: Condvar,
}

#[derive(Default)]
struct QueuedAppends {
    entries: VecDeque<PendingAppend>,
    bytes: usize,
    ending: bool,
}

/// An entry on its way to disk.
struct PendingAppend {
    to: Destination,
    bytes: Vec<u8>,
    ack: PendingAck,
}

/// What hangs on it.
struct PendingAck {
    claim: Option<Claim>,
    in_doubt_slot: Option<Arc<InFlightRecord>>,
    answer: oneshot::Sender<Result<(), AppendError>>,
}

impl PendingAck {
    /// Certainly not on disk.
    fn refuse(self, why: AppendError) {
        match self.in_doubt_slot {
            Some(slot) => slot.return_claim(self.claim),
            None => drop(self.claim),
        }
        let _ = self.answer.send(Err(why));
    }

    /// On disk, perhaps.
    fn fail_uncertain(self, why: AppendError) {
        match (self.in_doubt_slot, self.claim) {
            (Some(slot), claim) => slot.return_claim(claim),
            (None, Some(claim)) => claim.release_in_doubt(),
            (None, None) => {}
        }
        let _ = self.answer.send(Err(why));
    }
}

impl SpoolWriter {
    pub fn start(shared: Arc<SpoolShared>) -> Self {
        let queue = Arc::new(AppendQueue::default());
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

    pub fn append(
        &self,
        entry: NewEntry,
        claim: Option<Claim>,
        doubt: Option<Arc<InFlightRecord>>,
    ) -> AppendFuture {
        let (answer, receiver) = oneshot::channel();
        let fate = PendingAck {
            claim,
            in_doubt_slot: doubt,
            answer,
        };
        let NewEntry { to, bytes } = entry;
        match self.enqueue(to, bytes, fate) {
            None => AppendFuture::pending(receiver),
            Some((why, fate)) => {
                fate.refuse(why.clone());
                AppendFuture::refused(why)
            }
        }
    }

    /// Queues an entry, or gives back what hangs on it, with the reason.
    fn enqueue(
        &self,
        to: Destination,
        bytes: Vec<u8>,
        fate: PendingAck,
    ) -> Option<(AppendError, PendingAck)> {
        if let Some(why) = self.shared.health.refusal() {
            return Some((why, fate));
        }
        let mut waiting = lock(&self.queue.waiting);
        if waiting.ending {
            return Some((AppendError::Ending, fate));
        }
        if waiting.bytes + bytes.len() > MAX_QUEUED_BYTES {
            let why = "the disk is too slow for what comes".to_owned();
            return Some((AppendError::Full { why }, fate));
        }
        // Before anybody can be told: what comes after waits behind it.
        self.shared.backlogs[to.index()].add(1);
        waiting.bytes += bytes.len();
        waiting.entries.push_back(PendingAppend {
            to,
            bytes,
            ack: fate,
        });
        if waiting.entries.len() == 1 {
            self.queue.not_empty.notify_one();
        }
        None
    }

    /// Writes what has come, and ends.
    pub fn shut_down(&self) {
        lock(&self.queue.waiting).ending = true;
        self.queue.not_empty.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl AppendQueue {
    /// What has come, up to a commit's size; nothing after `patience`. `None` at the end.
    fn take_batch(&self, patience: Duration) -> Option<Vec<PendingAppend>> {
        let waiting = lock(&self.waiting);
        let idle = |waiting: &mut QueuedAppends| waiting.entries.is_empty() && !waiting.ending;
        let waited = self.not_empty.wait_timeout_while(waiting, patience, idle);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if waiting.entries.is_empty() && waiting.ending {
            return None;
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = waiting.entries.front()
            && (batch.is_empty() || bytes + next.bytes.len() <= MAX_COMMIT_BYTES)
        {
            bytes += next.bytes.len();
            batch.extend(waiting.entries.pop_front());
        }
        waiting.bytes -= bytes;
        Some(batch)
    }
}

fn run(shared: &Arc<SpoolShared>, queue: &AppendQueue) {
    while let Some(batch) = queue.take_batch(shared.health.poll_interval()) {
        shared.health.track_commit(|| {
            shared.health.check_disk(&shared.store);
            shared.health.try_recover(&shared.store);
        });
        if !batch.is_empty() {
            commit_batch(shared, batch);
        }
    }
}

fn commit_batch(shared: &Arc<SpoolShared>, batch: Vec<PendingAppend>) {
    let mut used = shared.store.bytes();
    let mut entries = Vec::with_capacity(batch.len());
    let mut acks = Vec::with_capacity(batch.len());
    for PendingAppend {
        to,
        bytes,
        ack: fate,
    } in batch
    {
        let more = used.saturating_add(bytes.len() as u64);
        let health = &shared.health;
        let refusal = health.refusal();
        match refusal.or_else(|| health.check_size_limit(more)) {
            Some(why) => {
                fate.refuse(why);
                shared.backlogs[to.index()].remove(1);
            }
            None => {
                used = more;
                entries.push((to, bytes));
                acks.push(fate);
            }
        }
    }
    if entries.is_empty() {
        return;
    }
    let began = Instant::now();
    let mut may_be_stored = true;
    let appended = catch_panics(|| {
        let append = || shared.store.append(&entries);
        let appended = shared.health.track_commit(append);
        may_be_stored = matches!(appended, Err(StoreError::Write { .. }));
        appended
    });
    match appended {
        Ok(seqs) => {
            let took = began.elapsed().as_secs_f64();
            shared.counts.commit_duration.observe(took);
            let to = entries.iter().map(|(to, _)| *to);
            publish_committed(shared, seqs.zip(to).zip(acks).collect());
        }
        Err(why) => {
            shared.health.poison(why.clone());
            for ((to, _), fate) in entries.into_iter().zip(acks) {
                let why = AppendError::Unwritable { why: why.clone() };
                match may_be_stored {
                    true => fate.fail_uncertain(why),
                    false => fate.refuse(why),
                }
                shared.backlogs[to.index()].remove(1);
            }
        }
    }
}

/// Durable. In this order: nobody hears of an entry before its claim is decided, and the drain sees none whose doubt is not
/// noted.
fn publish_committed(shared: &Arc<SpoolShared>, entries: Vec<((u64, Destination), PendingAck)>) {
    shared.counts.spooled.inc_by(entries.len() as u64);
    let now = Instant::now();
    let mut counts = [0; Destination::COUNT];
    let mut last = 0;
    let mut open = Vec::with_capacity(entries.len());
    for (
        (seq, to),
        PendingAck {
            claim,
            in_doubt_slot: doubt,
            answer,
        },
    ) in entries
    {
        if let Some(claim) = claim {
            claim.commit_spooled(now);
        }
        if doubt.is_some() {
            shared.in_doubt().insert(seq, now);
        }
        counts[to.index()] += 1;
        last = seq;
        open.push((seq, to, doubt, answer));
    }
    shared.visible_end.store(last + 1, Ordering::Release);
    for (line, count) in shared.backlogs.iter().zip(counts) {
        line.add_committed(count);
    }
    let mut answers = Vec::with_capacity(open.len());
    for (seq, to, doubt, answer) in open {
        if let Some(slot) = doubt {
            slot.set_observer(Box::new(InDoubtObserver {
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
    shared.mailbox.wake();
}

/// Calls into the store; a panic there is an error like others.
pub(super) fn catch_panics<T, E: fmt::Display>(
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the store panicked".to_owned()),
    }
}

/// An entry whose record librdkafka still has.
#[derive(Debug)]
struct InDoubtObserver {
    mailbox: Arc<Mailbox>,
    to: Destination,
    seq: u64,
}

impl DeliveryObserver for InDoubtObserver {
    fn on_outcome(self: Box<Self>, outcome: DeliveryOutcome) {
        self.mailbox.push(DrainMessage::InDoubtResolved {
            to: self.to,
            seq: self.seq,
            stored: outcome.is_stored(),
        });
    }
}
