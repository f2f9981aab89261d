//! The writer: one thread that appends entries to the store. Entries that come in during one commit
//! are written together in the next.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::drain::mailbox::{DrainMessage, Mailbox};
use super::panics::catch_panics;
use super::store::StoreError;
use super::{AppendError, AppendFuture, NewEntry, SpoolShared};
use crate::dedup::claim::Claim;
use crate::delivery::{DeliveryObserver, InFlightRecord};
use crate::kafka::report::DeliveryOutcome;
use crate::sync::lock;
use butlr_event::destination::Destination;

/// Limit of one commit.
const MAX_COMMIT_BYTES: usize = 8 << 20;
/// Limit of the queue. The limit of requests does not bound it: a request that has timed out leaves
/// its entry in the queue.
const MAX_QUEUED_BYTES: usize = 64 << 20;

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

struct PendingAppend {
    to: Destination,
    bytes: Vec<u8>,
    ack: PendingAck,
}

/// Everything that waits for an entry's commit.
struct PendingAck {
    claim: Option<Claim>,
    in_doubt_record: Option<Arc<InFlightRecord>>,
    result: oneshot::Sender<Result<(), AppendError>>,
}

impl PendingAck {
    /// Fails an entry that is certainly not on disk.
    fn refuse(self, why: AppendError) {
        match self.in_doubt_record {
            Some(record) => record.return_claim(self.claim),
            None => drop(self.claim),
        }
        let _ = self.result.send(Err(why));
    }

    /// Fails an entry that may be on disk.
    fn fail_uncertain(self, why: AppendError) {
        match (self.in_doubt_record, self.claim) {
            (Some(record), claim) => record.return_claim(claim),
            (None, Some(claim)) => claim.release_in_doubt(),
            (None, None) => {}
        }
        let _ = self.result.send(Err(why));
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
        in_doubt_record: Option<Arc<InFlightRecord>>,
    ) -> AppendFuture {
        let (result, receiver) = oneshot::channel();
        let ack = PendingAck {
            claim,
            in_doubt_record,
            result,
        };
        if let Err((why, ack)) = self.enqueue(entry, ack) {
            ack.refuse(why);
        }
        AppendFuture(receiver)
    }

    #[expect(
        clippy::result_large_err,
        reason = "the acknowledgement goes back to the caller, and only when the queue is full"
    )]
    fn enqueue(&self, entry: NewEntry, ack: PendingAck) -> Result<(), (AppendError, PendingAck)> {
        if let Some(why) = self.shared.health.refusal() {
            return Err((why, ack));
        }
        let NewEntry { to, bytes } = entry;
        let mut waiting = lock(&self.queue.waiting);
        if waiting.ending {
            return Err((AppendError::Ending, ack));
        }
        if waiting.bytes + bytes.len() > MAX_QUEUED_BYTES {
            let why = "the disk is too slow for the incoming events".to_owned();
            return Err((AppendError::Full { why }, ack));
        }
        // Before the entry is acknowledged: later events of the destination wait behind it.
        self.shared.backlogs[to.index()].add(1);
        waiting.bytes += bytes.len();
        waiting.entries.push_back(PendingAppend { to, bytes, ack });
        if waiting.entries.len() == 1 {
            self.queue.not_empty.notify_one();
        }
        Ok(())
    }

    /// Writes the queued entries and ends the thread.
    pub fn shut_down(&self) {
        lock(&self.queue.waiting).ending = true;
        self.queue.not_empty.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl AppendQueue {
    /// Takes queued entries up to the limit of a commit, or none after `patience`; `None` at the
    /// end.
    fn take_batch(&self, patience: Duration) -> Option<Vec<PendingAppend>> {
        let waiting = lock(&self.waiting);
        let is_idle = |waiting: &mut QueuedAppends| waiting.entries.is_empty() && !waiting.ending;
        let waited = self
            .not_empty
            .wait_timeout_while(waiting, patience, is_idle);
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
    for PendingAppend { to, bytes, ack } in batch {
        let more = used.saturating_add(bytes.len() as u64);
        let health = &shared.health;
        let refusal = health.refusal();
        match refusal.or_else(|| health.check_size_limit(more)) {
            Some(why) => {
                ack.refuse(why);
                shared.backlogs[to.index()].remove(1);
            }
            None => {
                used = more;
                entries.push((to, bytes));
                acks.push(ack);
            }
        }
    }
    if entries.is_empty() {
        return;
    }
    let began = Instant::now();
    let appended = catch_panics(|| (shared.health).track_commit(|| shared.store.append(&entries)));
    let (why, may_be_stored) = match appended {
        Ok(Ok(seqs)) => {
            let took = began.elapsed().as_secs_f64();
            shared.counts.commit_duration.observe(took);
            let to = entries.iter().map(|(to, _)| *to);
            return publish_committed(shared, seqs.zip(to).zip(acks).collect());
        }
        Ok(Err(error)) => (error.to_string(), matches!(error, StoreError::Write { .. })),
        Err(panic) => (format!("the store panicked: {panic}"), true),
    };
    shared.health.poison(why.clone());
    for ((to, _), ack) in entries.into_iter().zip(acks) {
        let why = AppendError::Unwritable { why: why.clone() };
        if may_be_stored {
            ack.fail_uncertain(why);
        } else {
            ack.refuse(why);
        }
        shared.backlogs[to.index()].remove(1);
    }
}

/// Acknowledges durable entries. In this order: an entry is acknowledged only after its claim is
/// committed, and the drain sees no entry in doubt before it is noted as such.
fn publish_committed(shared: &Arc<SpoolShared>, entries: Vec<((u64, Destination), PendingAck)>) {
    shared.counts.spooled.inc_by(entries.len() as u64);
    let now = Instant::now();
    let mut counts = [0; Destination::COUNT];
    let mut last = 0;
    let mut in_doubt = Vec::new();
    let mut results = Vec::with_capacity(entries.len());
    for ((seq, to), ack) in entries {
        if let Some(claim) = ack.claim {
            claim.commit_spooled(now);
        }
        if let Some(record) = ack.in_doubt_record {
            shared.in_doubt().insert(seq, now);
            in_doubt.push((seq, to, record));
        }
        counts[to.index()] += 1;
        last = seq;
        results.push(ack.result);
    }
    shared.visible_end.store(last + 1, Ordering::Release);
    for (backlog, count) in shared.backlogs.iter().zip(counts) {
        backlog.add_committed(count);
    }
    for (seq, to, record) in in_doubt {
        record.set_observer(Box::new(InDoubtObserver {
            mailbox: Arc::clone(&shared.mailbox),
            to,
            seq,
        }));
    }
    for result in results {
        let _ = result.send(Ok(()));
    }
    shared.mailbox.wake();
}

/// Passes the final report on the earlier record of an entry in doubt to the drain.
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
