//! From librdkafka's thread back to the request that waits: delivery reports and how they wake.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use rdkafka::types::RDKafkaErrorCode;

use super::lane::LanePermit;
use crate::dedup::claim::Claim;

/// librdkafka's final word on a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// All in-sync replicas have it.
    Stored(Receipt),
    /// Refused, or **unknown**: a record that timed out may be stored all the same.
    Failed(RDKafkaErrorCode),
}

/// Whether a record whose delivery ended with `code` is certainly not stored.
///
/// These speak of the record or its batch as it is: the broker looks for them before it appends anything, and any earlier
/// try of the same batch met the same answer. librdkafka tries again by itself and reports the last error only; so what
/// depends on the moment (a topic that is missing or forbidden, too few replicas) does not count, because an earlier try may
/// have been appended with its answer lost. Nor do timeouts, lost connections, purges, sequence errors, fatal errors, and
/// codes that nobody has thought of.
fn is_certain(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::*;
    matches!(
        code,
        MessageSizeTooLarge
            | InvalidMessageSize
            | MessageBatchTooLarge
            | InvalidRecord
            | InvalidDifferentRecord
            | InvalidTimestamp
            | InvalidTopic
            | InvalidRequiredAcks
            | UnsupportedForMessageFormat
            | PolicyViolation
            // Never handed to a broker.
            | QueueFull
    )
}

/// Says that a record is stored, and where. Comes from a delivery report and from nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    partition: i32,
    offset: Option<i64>,
}

impl Receipt {
    /// Of the record at this place; a negative offset is one that the broker did not tell.
    pub(super) fn new(partition: i32, offset: i64) -> Self {
        Self {
            partition,
            offset: (offset >= 0).then_some(offset),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self::new(0, 0)
    }

    /// The record's partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The record's offset; `None` where the broker did not tell (it had stored an earlier try of librdkafka's).
    pub fn offset(&self) -> Option<i64> {
        self.offset
    }
}

/// Wakes tasks on the thread they live on, many at a time.
///
/// A task woken from librdkafka's thread costs a system call, on the event's path the most expensive thing after the
/// HTTP exchange itself. So that thread only queues the wakers, and rouses the worker once for all that piled up while
/// it was busy; the worker then wakes its own tasks, which is cheap.
#[derive(Debug, Default)]
pub struct Wakeups {
    queue: Mutex<Vec<Waker>>,
    worker: AtomicWaker,
}

impl Wakeups {
    fn push(&self, waker: Waker) {
        let mut queue = lock(&self.queue);
        let first = queue.is_empty();
        queue.push(waker);
        drop(queue);
        if first {
            self.worker.wake();
        }
    }

    /// The worker's part: a task that lives as long as the worker does.
    pub async fn run(self: Arc<Self>) {
        let mut batch = Vec::new();
        std::future::poll_fn(|cx| {
            self.worker.register(cx.waker());
            std::mem::swap(&mut batch, &mut *lock(&self.queue));
            batch.drain(..).for_each(Waker::wake);
            Poll::Pending
        })
        .await
    }
}

/// Where a record's report arrives; librdkafka carries it along with the record.
///
/// With it travels the record's claim, so that the report decides it, also when nobody waits any more: committed when the
/// record is stored, released when it certainly is not, else unknown. Unknown it is, too, when the slot goes without a
/// report.
#[derive(Debug)]
pub struct Slot {
    state: Mutex<State>,
    wakeups: Arc<Wakeups>,
}

#[derive(Debug)]
struct State {
    report: Option<Report>,
    waiting: Option<Waker>,
    abandoned: bool,
    permit: Option<LanePermit>,
    claim: Option<Claim>,
}

impl Slot {
    /// A slot for a record that holds `permit` and `claim` until its report.
    pub fn new(permit: LanePermit, claim: Option<Claim>, wakeups: Arc<Wakeups>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                report: None,
                waiting: None,
                abandoned: false,
                permit: Some(permit),
                claim,
            }),
            wakeups,
        })
    }

    /// Called once, on librdkafka's thread. Returns false when nobody waits any more: the report is late.
    pub fn complete(&self, report: Report) -> bool {
        let mut state = lock(&self.state);
        // Before anybody can know of the report: a copy that comes after the answer finds the claim decided.
        match (state.claim.take(), report) {
            (None, _) => {}
            (Some(claim), Report::Stored(receipt)) => claim.commit(&receipt, Instant::now()),
            (Some(claim), Report::Failed(code)) if is_certain(code) => drop(claim),
            (Some(claim), Report::Failed(_)) => claim.unknown(),
        }
        state.report = Some(report);
        let permit = state.permit.take();
        let waiting = state.waiting.take();
        let abandoned = state.abandoned;
        drop(state);
        drop(permit);
        if let Some(waker) = waiting {
            self.wakeups.push(waker);
        }
        !abandoned
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if let Some(claim) = state.claim.take() {
            claim.unknown();
        }
    }
}

/// The wait for a record's report. Dropping it leaves the delivery as it is.
#[derive(Debug)]
#[must_use = "a delivery that nobody waits for is counted as late"]
pub struct Delivery(Arc<Slot>);

impl Delivery {
    /// The waiting side of a slot.
    pub fn of(slot: Arc<Slot>) -> Self {
        Self(slot)
    }
}

impl Future for Delivery {
    type Output = Report;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let mut state = lock(&self.0.state);
        match state.report {
            Some(report) => Poll::Ready(report),
            None => {
                match &mut state.waiting {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl Delivery {
    /// The record was not even queued: its claim is released.
    pub(super) fn refused(self) {
        drop(lock(&self.0.state).claim.take());
    }

    /// Ends the wait: the report, should it have come in the last moment; otherwise it will be late.
    pub fn abandon(&mut self) -> Option<Report> {
        let mut state = lock(&self.0.state);
        state.abandoned = state.report.is_none();
        state.waiting = None;
        state.report
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// A panic while one of these short locks is held leaves nothing half-done behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::dedup::claim::Next;
    use crate::dedup::memory::Memory;
    use crate::dedup::{Duplicate, Facts};
    use crate::event::EventType;
    use crate::kafka::lane::Lane;
    use std::time::Duration;

    fn slot(lane: &Arc<Lane>, wakeups: &Arc<Wakeups>) -> Arc<Slot> {
        Slot::new(lane.enter(1).unwrap(), None, Arc::clone(wakeups))
    }

    const STORED: Report = Report::Stored(Receipt {
        partition: 1,
        offset: Some(2),
    });

    #[tokio::test(flavor = "current_thread")]
    async fn reports_from_another_thread_wake_all_that_wait() {
        let lane = Lane::new(EventType::Traffic, "t".into(), 10_000, 10_000);
        let wakeups = Arc::new(Wakeups::default());
        tokio::spawn(Arc::clone(&wakeups).run());
        for round in 0..20 {
            let slots: Vec<_> = (0..100).map(|_| slot(&lane, &wakeups)).collect();
            let waiting: Vec<_> = slots
                .iter()
                .map(|s| tokio::spawn(Delivery::of(Arc::clone(s))))
                .collect();
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
            let reporter = std::thread::spawn(move || {
                assert!(slots.iter().all(|slot| slot.complete(STORED)));
            });
            for delivery in waiting {
                let report = tokio::time::timeout(Duration::from_secs(5), delivery).await;
                assert_eq!(report.expect("woken").unwrap(), STORED);
            }
            reporter.join().unwrap();
            assert_eq!(lane.in_flight(), 0);
        }
    }

    /// What a report makes of a revision of 4 to 5: what 4, 5 under other ids and 5 under its own are then.
    fn ended(end: impl FnOnce(Arc<Slot>)) -> [Option<Duplicate>; 3] {
        let settings = config::Dedup {
            store: config::Store::Memory,
            redelivery: config::Handling::Drop,
            repeat: config::Handling::Drop,
            id_window: Duration::from_secs(900),
            reading_window: Duration::from_secs(900),
            max_ids: 100,
            max_readings: 100,
            rebuild_within: Duration::ZERO,
        };
        let now = Instant::now();
        let memory = Memory::new(&settings, now);
        let facts = |id: &'static str, value| Facts {
            id,
            id_key: id.bytes().map(u64::from).sum(),
            reading: value,
            cell: Some(7),
            source: 1,
            timestamp_ms: 0,
            plausible_time: true,
        };
        let claim = |id, value| match memory.claim(&facts(id, value), now) {
            Next::Publish(claim) => Ok(claim),
            Next::Duplicate(kind) => Err(kind),
            Next::Wait(_) => panic!("it is decided"),
        };
        let receipt = Receipt::for_test();
        claim("first", 4).expect("new").commit(&receipt, now);
        let lane = Lane::new(EventType::RoomOccupancy, "t".into(), 10, 10);
        let revision = claim("revision", 5).expect("a revision");
        end(Slot::new(
            lane.enter(1).unwrap(),
            Some(revision),
            Arc::default(),
        ));
        [("back", 4), ("again", 5), ("revision", 5)].map(|(id, value)| claim(id, value).err())
    }

    #[test]
    fn the_report_decides_the_claim() {
        use Duplicate::*;
        let stored = [None, Some(Repeat), Some(Redelivery)];
        let not_stored = [Some(Repeat), None, None];
        let unknown = [None; 3];
        assert_eq!(ended(|slot| _ = slot.complete(STORED)), stored);
        let failed = |code| ended(|slot| _ = slot.complete(Report::Failed(code)));
        use RDKafkaErrorCode::*;
        for code in [MessageSizeTooLarge, InvalidRecord, PolicyViolation] {
            assert_eq!(failed(code), not_stored, "{code:?}");
        }
        for code in [
            MessageTimedOut,
            RequestTimedOut,
            BrokerTransportFailure,
            NotEnoughReplicasAfterAppend,
            NotEnoughReplicas,
            TopicAuthorizationFailed,
            OutOfOrderSequenceNumber,
            PurgeQueue,
            PurgeInflight,
            Fatal,
            Unknown,
        ] {
            assert_eq!(failed(code), unknown, "{code:?}");
        }
        // Abandoned or not.
        let late = ended(|slot| {
            drop(Delivery::of(Arc::clone(&slot)));
            slot.complete(STORED);
        });
        assert_eq!(late, stored);
        assert_eq!(ended(drop), unknown, "no report will come");
        assert_eq!(ended(|slot| Delivery::of(slot).refused()), not_stored);
    }

    #[test]
    fn an_abandoned_delivery_keeps_its_place_until_the_late_report() {
        let lane = Lane::new(EventType::Traffic, "t".into(), 1, 10);
        let wakeups = Arc::new(Wakeups::default());
        let slot = slot(&lane, &wakeups);
        drop(Delivery::of(Arc::clone(&slot)));
        assert!(lane.enter(1).is_err());
        assert!(!slot.complete(STORED), "the report is late");
        assert!(lane.enter(1).is_ok());
    }
}
