//! What is taken into the queue, and how much of it.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::mpsc;

use super::Dispatcher;
use crate::sender::generator::EventChunk;
use crate::sender::pace::SendTime;
use crate::sender::tries::SendJob;

/// Ready jobs beyond which no more are taken: a closed loop needs no longer queue.
const MAX_READY: usize = 128;

/// Jobs that have not ended, beyond which no more are taken in a closed loop; an open loop drops the one that is ready for
/// longest instead, and waits only where none is ready. Up to 1.5 KiB each, 48 MiB in all: what is put aside holds its own
/// body only. In 10 s of an outage, 3,000 events a second.
pub(in crate::sender) const MAX_OUTSTANDING: usize = 32_768;

impl Dispatcher {
    /// Takes what the generator makes into the queue, as far as there is room.
    pub(in crate::sender) async fn admit(&self, mut chunks: mpsc::Receiver<EventChunk>) {
        while let Some(chunk) = poll_fn(|cx| self.poll_chunk(&mut chunks, cx)).await {
            let now = Instant::now();
            for (outgoing, moment) in chunk {
                let due = match moment {
                    SendTime::At(at) if self.is_open_loop.get() => {
                        self.make_room();
                        Some(at)
                    }
                    // After the end of the run nothing has a moment, and nothing is pushed out.
                    SendTime::Any => {
                        self.is_open_loop.set(false);
                        None
                    }
                    SendTime::At(_) => None,
                };
                let (event_type, kind) = (outgoing.event_type, outgoing.kind);
                let mut ledger = self.ledger.borrow_mut();
                ledger.record_delivery(event_type, kind, outgoing.expected);
                drop(ledger);
                let mut job = SendJob::new(outgoing, due);
                // Time that was lost before it came here is not the server's.
                job.restart_window(now);
                if self.queue.borrow_mut().admit(job) {
                    self.wake_slots(1);
                }
            }
        }
        self.is_admission_closed.set(true);
        self.wake_slots(usize::MAX);
    }

    fn poll_chunk(
        &self,
        chunks: &mut mpsc::Receiver<EventChunk>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<EventChunk>> {
        if self.has_given_up.get() {
            return Poll::Ready(None);
        }
        if self.has_room()
            && let Poll::Ready(chunk) = chunks.poll_recv(cx)
        {
            return Poll::Ready(chunk);
        }
        self.admission_waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    pub(super) fn has_room(&self) -> bool {
        let queue = self.queue.borrow();
        let (ready, free) = (queue.ready_len(), queue.outstanding() < MAX_OUTSTANDING);
        match self.is_open_loop.get() {
            true => free || ready > 0,
            false => free && ready < MAX_READY,
        }
    }

    fn make_room(&self) {
        if self.queue.borrow().outstanding() < MAX_OUTSTANDING {
            return;
        }
        let oldest = self.queue.borrow_mut().next();
        if let Some(oldest) = oldest {
            self.finish_delivery(&oldest.outgoing, oldest.drop_outcome());
        }
    }

    pub(super) fn wake_admission(&self) {
        if self.has_room() {
            self.admission_waker.take().inspect(Waker::wake_by_ref);
        }
    }
}
