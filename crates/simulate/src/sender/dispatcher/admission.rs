//! Admission of generated events to the queue.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::mpsc;

use super::Dispatcher;
use crate::sender::generator::EventChunk;
use crate::sender::pace::SendTime;
use crate::sender::tries::SendJob;

/// Maximum number of ready jobs in a closed loop, which needs no longer queue.
const MAX_READY: usize = 128;

/// Maximum number of unfinished jobs. A closed loop admits no more; an open loop drops the job that
/// has been ready for longest instead, and waits only if none is ready. At up to 1.5 KiB each (a
/// waiting job holds only its own body) that is 48 MiB, or 3,000 events per second in 10 s of an
/// outage.
pub(in crate::sender) const MAX_OUTSTANDING: usize = 32_768;

impl Dispatcher {
    /// Moves generated events to the queue as room permits.
    pub(in crate::sender) async fn admit(&self, mut chunks: mpsc::Receiver<EventChunk>) {
        while let Some(chunk) = poll_fn(|cx| self.poll_chunk(&mut chunks, cx)).await {
            let now = Instant::now();
            for (outgoing, send_time) in chunk {
                let due = match send_time {
                    SendTime::At(at) if self.is_open_loop.get() => {
                        self.make_room();
                        Some(at)
                    }
                    // After the end of the run events have no send time and push nothing out.
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
                // Time lost before the admission is not the server's fault.
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
        if self.has_given_up() {
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
        let (ready, has_room) = (queue.ready_len(), queue.outstanding() < MAX_OUTSTANDING);
        if self.is_open_loop.get() {
            has_room || ready > 0
        } else {
            has_room && ready < MAX_READY
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
