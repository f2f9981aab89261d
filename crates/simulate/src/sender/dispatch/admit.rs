//! What is taken into the queue, and how much of it.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::mpsc;

use super::Dispatch;
use crate::sender::generate::Chunk;
use crate::sender::pace::Moment;
use crate::sender::tries::Job;

/// Ready jobs beyond which no more are taken: a closed loop needs no longer queue.
const ENOUGH_READY: usize = 128;

/// Jobs that have not ended, beyond which no more are taken in a closed loop; an open loop drops the one that is ready for
/// longest instead, and waits only where none is ready. Up to 1.5 KiB each, 48 MiB in all: what is put aside holds its own
/// body only. In 10 s of an outage, 3,000 events a second.
pub(in crate::sender) const MAX_OUTSTANDING: usize = 32_768;

impl Dispatch {
    /// Takes what the generator makes into the queue, as far as there is room.
    pub(in crate::sender) async fn admit(&self, mut chunks: mpsc::Receiver<Chunk>) {
        while let Some(chunk) = poll_fn(|cx| self.poll_chunk(&mut chunks, cx)).await {
            let now = Instant::now();
            for (outgoing, moment) in chunk {
                let due = match moment {
                    Moment::At(at) if self.open.get() => {
                        self.make_room();
                        Some(at)
                    }
                    // After the end of the run nothing has a moment, and nothing is pushed out.
                    Moment::Any => {
                        self.open.set(false);
                        None
                    }
                    Moment::At(_) => None,
                };
                let (event_type, kind) = (outgoing.event_type, outgoing.kind);
                let mut ledger = self.ledger.borrow_mut();
                ledger.delivery(event_type, kind, outgoing.expected);
                drop(ledger);
                let mut job = Job::new(outgoing, due);
                // Time that was lost before it came here is not the server's.
                job.has_its_turn(now);
                if self.queue.borrow_mut().admit(job) {
                    self.wake(1);
                }
            }
        }
        self.closed.set(true);
        self.wake(usize::MAX);
    }

    fn poll_chunk(
        &self,
        chunks: &mut mpsc::Receiver<Chunk>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Chunk>> {
        if self.given_up.get() {
            return Poll::Ready(None);
        }
        if self.has_room()
            && let Poll::Ready(chunk) = chunks.poll_recv(cx)
        {
            return Poll::Ready(chunk);
        }
        self.admitting.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    pub(super) fn has_room(&self) -> bool {
        let queue = self.queue.borrow();
        let (ready, free) = (queue.ready(), queue.outstanding() < MAX_OUTSTANDING);
        match self.open.get() {
            true => free || ready > 0,
            false => free && ready < ENOUGH_READY,
        }
    }

    fn make_room(&self) {
        if self.queue.borrow().outstanding() < MAX_OUTSTANDING {
            return;
        }
        let oldest = self.queue.borrow_mut().next();
        if let Some(oldest) = oldest {
            self.end(&oldest.outgoing, oldest.drop_end());
        }
    }

    pub(super) fn admit_more(&self) {
        if self.has_room() {
            self.admitting.take().inspect(Waker::wake_by_ref);
        }
    }
}
