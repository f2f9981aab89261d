//! From librdkafka's thread back to the request that waits: delivery reports and how they wake.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use rdkafka::types::RDKafkaErrorCode;

use super::lane::LanePermit;
use crate::dedup::claim::Claim;

/// librdkafka's final word on a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryReport {
    /// All in-sync replicas have it.
    Stored(Receipt),
    /// librdkafka says so, and no broker did: **unknown**, see [`Receipt`].
    ImplicitAck,
    /// Refused, or **unknown**: a record that timed out may be stored all the same.
    Failed(RDKafkaErrorCode),
}

impl DeliveryReport {
    /// Whether the record is stored.
    pub fn is_stored(&self) -> bool {
        matches!(self, DeliveryReport::Stored(_))
    }
}

/// Whether a record whose delivery ended with `code` is certainly not stored.
///
/// These speak of the record or its batch as it is: the broker looks for them before it appends anything, and any earlier
/// try of the same batch met the same answer. librdkafka tries again by itself and reports the last error only; so what
/// depends on the moment (a topic that is missing or forbidden, too few replicas) does not count, because an earlier try may
/// have been appended with its answer lost. Nor do timeouts, lost connections, purges, sequence errors, fatal errors, and
/// codes that nobody has thought of.
pub(crate) fn is_certain_rejection(code: RDKafkaErrorCode) -> bool {
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
///
/// Only a broker can tell where. librdkafka also reports records as stored that it merely takes for stored, because a later
/// one of the same partition is ("implicit acknowledgement"): it holds that the broker would have refused that one otherwise.
/// But a broker that knows nothing of a producer yet, in a new partition or after the producer was silent for a day, takes
/// whatever sequence number comes first, also when it has just refused the records before it with an error that passes. Those
/// are tried no more, and are in no topic. (Known to librdkafka's users as message loss around elections of leaders.) So a
/// record without an offset has no receipt, and what became of it counts as unknown. Nor has one whose offset librdkafka made
/// up (`Places`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    partition: i32,
    offset: i64,
}

impl Receipt {
    /// Of the record at this place; `None` for the negative offset of a record of which no broker told.
    fn new(partition: i32, offset: i64) -> Option<Self> {
        (offset >= 0).then_some(Self { partition, offset })
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self {
            partition: 0,
            offset: 0,
        }
    }

    /// The record's partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The record's offset.
    pub fn offset(&self) -> i64 {
        self.offset
    }
}

/// Tells a broker's offsets from such as librdkafka made up. Of one producer, whose reports come on one thread, batch by batch.
///
/// Where a broker calls a batch a duplicate by an error, librdkafka takes it for stored, and counts the offsets of its records
/// up from the -1 that stands in such an answer. (Apache Kafka does not: it answers with the offsets of the first.)
#[derive(Debug)]
pub(super) struct OffsetFilter {
    /// The number that the next record of such a batch would get; negative where there is none.
    synthetic_offset: AtomicI64,
}

impl Default for OffsetFilter {
    fn default() -> Self {
        Self {
            synthetic_offset: AtomicI64::new(Self::NONE),
        }
    }
}

impl OffsetFilter {
    const NONE: i64 = -1;

    /// The receipt of the record reported next.
    pub fn next_receipt(&self, partition: i32, offset: i64) -> Option<Receipt> {
        let made_up = self.synthetic_offset.load(Ordering::Relaxed);
        let is_synthetic = offset == -1 || made_up != Self::NONE && offset == made_up;
        if is_synthetic {
            self.synthetic_offset.store(offset + 1, Ordering::Relaxed);
            return None;
        }
        if made_up != Self::NONE {
            self.synthetic_offset.store(Self::NONE, Ordering::Relaxed);
        }
        Receipt::new(partition, offset)
    }
}

/// Wakes tasks on the thread they live on, many at a time.
///
/// A task woken from librdkafka's thread costs a system call, on the event's path the most expensive thing after the
/// HTTP exchange itself. So that thread only queues the wakers, and rouses the worker once for all that piled up while
/// it was busy; the worker then wakes its own tasks, which is cheap.
#[derive(Debug, Default)]
pub struct WakerQueue {
    queue: Mutex<Vec<Waker>>,
    worker: AtomicWaker,
}

impl WakerQueue {
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

/// What learns of the final word on a record besides the request: an entry of the spool.
pub trait DeliveryObserver: Send + fmt::Debug {
    /// Called once, on whatever thread the word arrives; `None`: none will come, so nobody knows whether it is stored.
    fn on_report(self: Box<Self>, report: Option<DeliveryReport>);
}

/// Where a record's report arrives; librdkafka carries it along with the record.
///
/// With it travels the record's claim, so that the report decides it, also when nobody waits any more: committed when the
/// record is stored, released when it certainly is not, else unknown. Unknown it is, too, when the slot goes without a
/// report.
///
/// Where there is a spool, the request that still waits takes the claim back when the record failed, or when the report
/// takes too long ([`Delivery::end`]): the event is stored on disk then, and its entry follows the record.
#[derive(Debug)]
pub struct InFlightRecord {
    state: Mutex<InFlightState>,
    waker_queue: Option<Arc<WakerQueue>>,
}

#[derive(Debug)]
struct InFlightState {
    report: Option<DeliveryReport>,
    waker: Option<Waker>,
    recipient: ReportRecipient,
    permit: Option<LanePermit>,
    claim: Option<Claim>,
    observer: Option<Box<dyn DeliveryObserver>>,
}

/// Who is to hear of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReportRecipient {
    /// A request, which has no other way to keep the event.
    Request,
    /// A request, which spools the event when this fails.
    SpoolingRequest,
    /// The spool.
    Spool,
    /// Nobody any more.
    Abandoned,
}

impl InFlightRecord {
    /// A slot for a record that holds `permit` and `claim` until its report; `keeping`: whoever waits for a record that
    /// failed takes the claim with it.
    pub fn new(
        permit: LanePermit,
        claim: Option<Claim>,
        keeping: bool,
        wakeups: Arc<WakerQueue>,
    ) -> Arc<Self> {
        let watched = match keeping {
            true => ReportRecipient::SpoolingRequest,
            false => ReportRecipient::Request,
        };
        Arc::new(Self {
            state: Mutex::new(InFlightState {
                report: None,
                waker: None,
                recipient: watched,
                permit: Some(permit),
                claim,
                observer: None,
            }),
            waker_queue: Some(wakeups),
        })
    }

    /// A slot for the record of an entry of the spool.
    pub fn with_observer(permit: LanePermit, entry: Box<dyn DeliveryObserver>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(InFlightState {
                report: None,
                waker: None,
                recipient: ReportRecipient::Spool,
                permit: Some(permit),
                claim: None,
                observer: Some(entry),
            }),
            waker_queue: None,
        })
    }

    /// Called once, on librdkafka's thread. Returns false when nobody waits any more: the report is late.
    pub fn complete(&self, report: DeliveryReport) -> bool {
        let mut state = lock(&self.state);
        // Before anybody can know of the report: a copy that comes after the answer finds the claim decided.
        if report.is_stored() || state.recipient != ReportRecipient::SpoolingRequest {
            state.resolve_claim(report);
        }
        state.report = Some(report);
        let permit = state.permit.take();
        let waiting = state.waker.take();
        let entry = state.observer.take();
        let watched = state.recipient;
        drop(state);
        if let Some(permit) = permit
            && report.is_stored()
        {
            permit.close_circuit();
        }
        if let Some(entry) = entry {
            entry.on_report(Some(report));
        }
        if let (Some(waker), Some(wakeups)) = (waiting, &self.waker_queue) {
            wakeups.push(waker);
        }
        watched != ReportRecipient::Abandoned
    }

    /// The record was not even queued: its entry is given back.
    pub(super) fn take_observer(&self) -> Option<Box<dyn DeliveryObserver>> {
        lock(&self.state).observer.take()
    }

    /// The event is on disk: `entry` hears what becomes of the record. At once, if that is known already.
    pub fn set_observer(&self, entry: Box<dyn DeliveryObserver>) {
        let mut state = lock(&self.state);
        match state.report {
            Some(report) => {
                drop(state);
                entry.on_report(Some(report));
            }
            None => state.observer = Some(entry),
        }
    }

    /// The event could not be kept on disk. Without a report nobody is to wait for one, which can take long: a copy of the
    /// event may be stored sooner.
    pub fn return_claim(&self, claim: Option<Claim>) {
        let mut state = lock(&self.state);
        state.claim = claim;
        match state.report {
            Some(report) => state.resolve_claim(report),
            None => {
                state.recipient = ReportRecipient::Abandoned;
                if let Some(claim) = state.claim.take() {
                    claim.release_in_doubt();
                }
            }
        }
    }
}

impl InFlightState {
    fn resolve_claim(&mut self, report: DeliveryReport) {
        match (self.claim.take(), report) {
            (None, _) => {}
            (Some(claim), DeliveryReport::Stored(receipt)) => {
                claim.commit(&receipt, Instant::now())
            }
            (Some(claim), DeliveryReport::Failed(code)) if is_certain_rejection(code) => {
                drop(claim)
            }
            (Some(claim), DeliveryReport::Failed(_) | DeliveryReport::ImplicitAck) => {
                claim.release_in_doubt()
            }
        }
    }
}

impl Drop for InFlightRecord {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if let Some(claim) = state.claim.take() {
            claim.release_in_doubt();
        }
        if let Some(entry) = state.observer.take() {
            entry.on_report(None);
        }
    }
}

/// The wait for a record's report. Dropping it leaves the delivery as it is.
#[derive(Debug)]
#[must_use = "a delivery that nobody waits for is counted as late"]
pub struct PendingDelivery(Arc<InFlightRecord>);

/// What a wait ended with that was not answered by "stored".
#[derive(Debug)]
pub enum DeliveryEnd {
    /// By this report. The slot tells it to whoever asks again.
    Reported(DeliveryReport, Arc<InFlightRecord>, Option<Claim>),
    /// Without one: the record may be stored any time.
    InDoubt(Arc<InFlightRecord>, Option<Claim>),
}

impl PendingDelivery {
    /// The waiting side of a slot.
    pub fn new(slot: Arc<InFlightRecord>) -> Self {
        Self(slot)
    }
}

impl Future for PendingDelivery {
    type Output = DeliveryReport;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DeliveryReport> {
        let mut state = lock(&self.0.state);
        match state.report {
            Some(report) => Poll::Ready(report),
            None => {
                match &mut state.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl PendingDelivery {
    /// The record was not even queued: its claim is given back.
    pub(super) fn take_claim(self) -> Option<Claim> {
        lock(&self.0.state).claim.take()
    }

    /// Ends the wait: the report, should it have come in the last moment; otherwise it will be late.
    pub fn abandon(&mut self) -> Option<DeliveryReport> {
        let mut state = lock(&self.0.state);
        state.waker = None;
        match state.report {
            // Nobody took the claim, and nobody will.
            Some(report) => state.resolve_claim(report),
            None if state.recipient != ReportRecipient::Spool => {
                state.recipient = ReportRecipient::Abandoned
            }
            None => {}
        }
        state.report
    }

    /// Ends the wait of a request that keeps the event on disk now, and so takes its claim.
    pub fn end(self) -> DeliveryEnd {
        let mut state = lock(&self.0.state);
        state.waker = None;
        let claim = state.claim.take();
        match state.report {
            Some(report) => DeliveryEnd::Reported(report, Arc::clone(&self.0), claim),
            None => {
                state.recipient = ReportRecipient::Spool;
                DeliveryEnd::InDoubt(Arc::clone(&self.0), claim)
            }
        }
    }
}

impl Drop for PendingDelivery {
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
    use crate::dedup::claim::Decision;
    use crate::dedup::memory::MemoryStore;
    use crate::dedup::{EventFacts, IdHash, OccupancyKey, ReadingHash, SourceKey};
    use crate::kafka::lane::TopicLane;
    use crate::marks::DuplicateKind;
    use butlr_event::EventType;
    use butlr_event::destination::Destination;
    use std::time::Duration;

    fn in_flight_record(lane: &Arc<TopicLane>, wakeups: &Arc<WakerQueue>) -> Arc<InFlightRecord> {
        InFlightRecord::new(
            lane.acquire_permit(1).unwrap(),
            None,
            false,
            Arc::clone(wakeups),
        )
    }

    const STORED: DeliveryReport = DeliveryReport::Stored(Receipt {
        partition: 1,
        offset: 2,
    });

    #[test]
    fn offsets_that_no_broker_told_are_no_receipts() {
        let places = OffsetFilter::default();
        let known = |offsets: &[i64]| -> Vec<bool> {
            let receipts = offsets.iter().map(|o| places.next_receipt(0, *o));
            receipts.map(|r| r.is_some()).collect()
        };
        assert_eq!(known(&[0, 1, 7]), [true; 3]);
        // What a later record speaks for.
        assert_eq!(known(&[-1001, -1001, 0]), [false, false, true]);
        // A batch that is called a duplicate, and one after it.
        assert_eq!(
            known(&[-1, 0, 1, 2, 40, 3]),
            [false, false, false, false, true, true]
        );
        assert_eq!(known(&[-1, -1, 0, 5]), [false, false, false, true]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn reports_from_another_thread_wake_all_that_wait() {
        let lane = TopicLane::new(
            Destination::Events(EventType::Traffic),
            "t".into(),
            10_000,
            10_000,
        );
        let wakeups = Arc::new(WakerQueue::default());
        tokio::spawn(Arc::clone(&wakeups).run());
        for round in 0..20 {
            let slots: Vec<_> = (0..100)
                .map(|_| in_flight_record(&lane, &wakeups))
                .collect();
            let waiting: Vec<_> = slots
                .iter()
                .map(|s| tokio::spawn(PendingDelivery::new(Arc::clone(s))))
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
    fn duplicates_after(end: impl FnOnce(Arc<InFlightRecord>)) -> [Option<DuplicateKind>; 3] {
        let settings = config::DedupConfig {
            store: config::DedupStore::Memory,
            redelivery: config::DuplicateHandling::Drop,
            repeat: config::DuplicateHandling::Drop,
            id_window: Duration::from_secs(900),
            reading_window: Duration::from_secs(900),
            max_ids: 100,
            max_readings: 100,
            rebuild_within: Duration::ZERO,
        };
        let now = Instant::now();
        let memory = MemoryStore::new(&settings, now);
        let facts = |id: &'static str, value| EventFacts {
            id,
            event_type: Some(EventType::RoomOccupancy),
            id_hash: IdHash(id.bytes().map(u64::from).sum()),
            reading: ReadingHash(value),
            occupancy_key: Some(OccupancyKey(7)),
            source_key: SourceKey(1),
            timestamp_ms: 0,
            has_plausible_time: true,
        };
        let claim = |id, value| match memory.claim(&facts(id, value), now) {
            Ok(Decision::Publish(claim)) => Ok(claim),
            Ok(Decision::Duplicate { kind, .. }) => Err(kind),
            Err(_) => panic!("it is decided"),
        };
        let receipt = Receipt::for_test();
        claim("first", 4).expect("new").commit(&receipt, now);
        let lane = TopicLane::new(
            Destination::Events(EventType::RoomOccupancy),
            "t".into(),
            10,
            10,
        );
        let revision = claim("revision", 5).expect("a revision");
        end(InFlightRecord::new(
            lane.acquire_permit(1).unwrap(),
            Some(revision),
            false,
            Arc::default(),
        ));
        [("back", 4), ("again", 5), ("revision", 5)].map(|(id, value)| claim(id, value).err())
    }

    #[test]
    fn the_report_decides_the_claim() {
        use DuplicateKind::*;
        let stored = [None, Some(Repeat), Some(Redelivery)];
        let not_stored = [Some(Repeat), None, None];
        let unknown = [None; 3];
        assert_eq!(duplicates_after(|slot| _ = slot.complete(STORED)), stored);
        let failed =
            |code| duplicates_after(|slot| _ = slot.complete(DeliveryReport::Failed(code)));
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
        let late = duplicates_after(|slot| {
            drop(PendingDelivery::new(Arc::clone(&slot)));
            slot.complete(STORED);
        });
        assert_eq!(late, stored);
        assert_eq!(duplicates_after(drop), unknown, "no report will come");
        assert_eq!(
            duplicates_after(|slot| drop(PendingDelivery::new(slot).take_claim())),
            not_stored
        );
    }

    #[test]
    fn an_abandoned_delivery_keeps_its_place_until_the_late_report() {
        let lane = TopicLane::new(Destination::Events(EventType::Traffic), "t".into(), 1, 10);
        let wakeups = Arc::new(WakerQueue::default());
        let slot = in_flight_record(&lane, &wakeups);
        drop(PendingDelivery::new(Arc::clone(&slot)));
        assert!(lane.acquire_permit(1).is_err());
        assert!(!slot.complete(STORED), "the report is late");
        assert!(lane.acquire_permit(1).is_ok());
    }
}
