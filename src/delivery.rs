//! Deliveries: a record in flight, the claim it carries, and whoever waits for the outcome.
//!
//! ```text
//!  request ── send ──► InFlightRecord (permit, claim) ──► librdkafka
//!     ▲                       │ complete(outcome), on librdkafka's thread
//!     │                       ├─► claim: committed, dropped or released in doubt
//!     └── PendingDelivery ◄───┤
//!                             └─► DeliveryObserver: an entry of the spool
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use rdkafka::types::RDKafkaErrorCode;

use crate::dedup::claim::Claim;
use crate::kafka::lane::LanePermit;
use crate::kafka::producer::{Producer, rejection_for_code};
use crate::kafka::report::{DeliveryOutcome, OutcomeReceiver, Receipt};
use crate::record::ProducerRecord;
use crate::rejection::Rejection;
use crate::sync::lock;

/// Queue that wakes tasks on the worker thread they live on, many at a time.
///
/// Waking a task from librdkafka's thread costs a system call, the most expensive step on the
/// event's path after the HTTP exchange itself. That thread therefore only queues the wakers and
/// wakes the worker once for all that piled up while it was busy. The worker then wakes its own
/// tasks, which is cheap.
#[derive(Debug, Default)]
pub struct WakerQueue {
    queue: Mutex<Vec<Waker>>,
    worker: AtomicWaker,
}

impl WakerQueue {
    fn push(&self, waker: Waker) {
        let mut queue = lock(&self.queue);
        let is_first = queue.is_empty();
        queue.push(waker);
        drop(queue);
        if is_first {
            self.worker.wake();
        }
    }

    /// Wakes queued tasks. Runs as a task of the worker, for as long as the worker lives.
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

/// Observer of a delivery besides the request: an entry of the spool.
pub trait DeliveryObserver: Send + fmt::Debug {
    /// Receives the outcome; called once, on whatever thread it arrives.
    fn on_outcome(self: Box<Self>, outcome: DeliveryOutcome);
}

/// Treatment of the claim if a delivery fails while the request still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The report decides the claim: the event has no other place to go.
    ResolveClaim,
    /// The request takes the claim back, to store the event on disk.
    ReturnClaim,
}

/// A record in flight; librdkafka carries it along with the record.
///
/// It holds the record's claim, so that the report decides the claim even when nobody waits any
/// more: the claim is committed if the record is stored, dropped if it certainly is not, and
/// released in doubt otherwise. The last also happens if there is never a report.
///
/// With a spool, a request that still waits takes the claim back when the delivery fails or takes
/// too long ([`PendingDelivery::end`]). The event is then stored on disk, and its entry observes
/// the delivery.
#[derive(Debug)]
pub struct InFlightRecord {
    state: Mutex<InFlightState>,
    wakers: Option<Arc<WakerQueue>>,
}

#[derive(Debug)]
struct InFlightState {
    outcome: Option<DeliveryOutcome>,
    waker: Option<Waker>,
    recipient: OutcomeRecipient,
    permit: Option<LanePermit>,
    claim: Option<Claim>,
    observer: Option<Box<dyn DeliveryObserver>>,
}

/// The party that acts on the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutcomeRecipient {
    /// A request that cannot store the event anywhere else.
    Request,
    /// A request that spools the event if the delivery fails.
    SpoolingRequest,
    Spool,
    Nobody,
}

impl InFlightRecord {
    /// A record that holds `permit` and `claim` until its delivery report.
    pub fn new(
        permit: LanePermit,
        claim: Option<Claim>,
        on_failure: OnFailure,
        wakers: Arc<WakerQueue>,
    ) -> Arc<Self> {
        let recipient = match on_failure {
            OnFailure::ResolveClaim => OutcomeRecipient::Request,
            OnFailure::ReturnClaim => OutcomeRecipient::SpoolingRequest,
        };
        Arc::new(Self {
            state: Mutex::new(InFlightState {
                claim,
                ..InFlightState::new(permit, recipient)
            }),
            wakers: Some(wakers),
        })
    }

    /// The record of a spool entry, which observes the delivery.
    pub fn with_observer(permit: LanePermit, observer: Box<dyn DeliveryObserver>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(InFlightState {
                observer: Some(observer),
                ..InFlightState::new(permit, OutcomeRecipient::Spool)
            }),
            wakers: None,
        })
    }

    /// Takes the observer back from a record that librdkafka did not accept.
    fn take_observer(&self) -> Option<Box<dyn DeliveryObserver>> {
        lock(&self.state).observer.take()
    }

    /// Sets the observer of a record whose event is on disk now. An outcome that is already known
    /// goes to the observer at once.
    pub fn set_observer(&self, observer: Box<dyn DeliveryObserver>) {
        let mut state = lock(&self.state);
        match state.outcome {
            Some(outcome) => {
                drop(state);
                observer.on_outcome(outcome);
            }
            None => state.observer = Some(observer),
        }
    }

    /// Takes back the claim of an event that could not be stored on disk. If there is no report
    /// yet, the claim is released in doubt right away: the report can take long, and a copy of the
    /// event may be stored sooner.
    pub fn return_claim(&self, claim: Option<Claim>) {
        let mut state = lock(&self.state);
        state.claim = claim;
        if state.outcome.is_none() {
            state.recipient = OutcomeRecipient::Nobody;
        }
        let outcome = state.outcome.unwrap_or(DeliveryOutcome::Unknown(None));
        state.resolve_claim(outcome);
    }
}

impl OutcomeReceiver for InFlightRecord {
    fn complete(&self, outcome: DeliveryOutcome) -> bool {
        let mut state = lock(&self.state);
        // Before anybody can see the outcome: a copy of the event that arrives after the response
        // must find the claim decided.
        if outcome.is_stored() || state.recipient != OutcomeRecipient::SpoolingRequest {
            state.resolve_claim(outcome);
        }
        state.outcome = Some(outcome);
        let permit = state.permit.take();
        let waker = state.waker.take();
        let observer = state.observer.take();
        let recipient = state.recipient;
        drop(state);
        if let Some(permit) = permit
            && outcome.is_stored()
        {
            permit.close_circuit();
        }
        if let Some(observer) = observer {
            observer.on_outcome(outcome);
        }
        if let (Some(waker), Some(wakers)) = (waker, &self.wakers) {
            wakers.push(waker);
        }
        recipient != OutcomeRecipient::Nobody
    }
}

impl InFlightState {
    fn new(permit: LanePermit, recipient: OutcomeRecipient) -> Self {
        Self {
            outcome: None,
            waker: None,
            recipient,
            permit: Some(permit),
            claim: None,
            observer: None,
        }
    }

    fn resolve_claim(&mut self, outcome: DeliveryOutcome) {
        let Some(claim) = self.claim.take() else {
            return;
        };
        match outcome {
            DeliveryOutcome::Stored(receipt) => claim.commit(&receipt, Instant::now()),
            DeliveryOutcome::Rejected(_) => drop(claim),
            DeliveryOutcome::Unknown(_) => claim.release_in_doubt(),
        }
    }
}

impl Drop for InFlightRecord {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state.resolve_claim(DeliveryOutcome::Unknown(None));
        if let Some(observer) = state.observer.take() {
            observer.on_outcome(DeliveryOutcome::Unknown(None));
        }
    }
}

/// Future of a delivery's outcome. Dropping it does not stop the delivery.
#[derive(Debug)]
#[must_use = "a delivery that nobody waits for is counted as late"]
pub struct PendingDelivery(Arc<InFlightRecord>);

/// State of a delivery at the moment its request stops waiting, to store the event on disk.
#[derive(Debug)]
pub enum DeliveryEnd {
    /// The record is stored.
    Stored(Receipt),
    /// The record is certainly not stored.
    Rejected(Option<Claim>),
    /// The record may be stored now or later.
    InDoubt(Arc<InFlightRecord>, Option<Claim>),
}

impl PendingDelivery {
    /// The waiting side of `record`.
    pub fn new(record: Arc<InFlightRecord>) -> Self {
        Self(record)
    }

    /// Takes the claim back from a record that librdkafka did not accept.
    fn take_claim(self) -> Option<Claim> {
        lock(&self.0.state).claim.take()
    }

    /// Stops waiting. Returns the outcome if it has just arrived; otherwise it will be late.
    pub fn abandon(&mut self) -> Option<DeliveryOutcome> {
        let mut state = lock(&self.0.state);
        state.waker = None;
        match state.outcome {
            // A claim that is still here was left to this request, which did not take it.
            Some(outcome) => state.resolve_claim(outcome),
            None if state.recipient != OutcomeRecipient::Spool => {
                state.recipient = OutcomeRecipient::Nobody
            }
            None => {}
        }
        state.outcome
    }

    /// Stops waiting and takes the claim, to store the event on disk.
    pub fn end(self) -> DeliveryEnd {
        let mut state = lock(&self.0.state);
        state.waker = None;
        let claim = state.claim.take();
        match state.outcome {
            Some(DeliveryOutcome::Stored(receipt)) => return DeliveryEnd::Stored(receipt),
            Some(DeliveryOutcome::Rejected(_)) => return DeliveryEnd::Rejected(claim),
            Some(DeliveryOutcome::Unknown(_)) => {}
            None => state.recipient = OutcomeRecipient::Spool,
        }
        DeliveryEnd::InDoubt(Arc::clone(&self.0), claim)
    }
}

impl Future for PendingDelivery {
    type Output = DeliveryOutcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DeliveryOutcome> {
        let mut state = lock(&self.0.state);
        match state.outcome {
            Some(outcome) => Poll::Ready(outcome),
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

impl Drop for PendingDelivery {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// The producer of the bridge: its records carry their claims.
pub type RecordProducer = Producer<InFlightRecord>;

/// A record that librdkafka did not accept.
#[derive(Debug)]
pub struct QueueError {
    /// Reason for the refusal.
    pub reason: Rejection,
    /// The record's claim, given back.
    pub claim: Option<Claim>,
}

impl RecordProducer {
    /// Queues a record for delivery; never blocks. The delivery's outcome also decides the claim.
    ///
    /// # Errors
    /// The reason if librdkafka refuses the record at once. Nothing is queued then.
    pub fn send(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        claim: Option<Claim>,
        on_failure: OnFailure,
        wakers: &Arc<WakerQueue>,
    ) -> Result<PendingDelivery, Box<QueueError>> {
        let in_flight = InFlightRecord::new(permit, claim, on_failure, Arc::clone(wakers));
        let delivery = PendingDelivery::new(Arc::clone(&in_flight));
        let bytes = record.value.len();
        match self.enqueue(record, in_flight) {
            Ok(()) => Ok(delivery),
            Err(code) => Err(Box::new(QueueError {
                reason: rejection_for_code(code, bytes),
                claim: delivery.take_claim(),
            })),
        }
    }

    /// Queues the record of a spool entry for delivery; never blocks.
    ///
    /// # Errors
    /// librdkafka's code if it refuses the record at once, with the observer. Nothing is queued then.
    pub fn send_entry(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        observer: Box<dyn DeliveryObserver>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn DeliveryObserver>)> {
        let in_flight = InFlightRecord::with_observer(permit, observer);
        self.enqueue(record, Arc::clone(&in_flight))
            .map_err(|code| {
                let observer = in_flight.take_observer();
                (
                    code,
                    observer.expect("a record that was not queued keeps its observer"),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::dedup::claim::Decision;
    use crate::dedup::memory::MemoryStore;
    use crate::dedup::{EventFacts, IdHash, OccupancyKey, ReadingHash, SourceKey};
    use crate::kafka::lane::{LaneLimits, TopicLane};
    use crate::marks::DuplicateKind;
    use butlr_event::EventType;
    use butlr_event::destination::Destination;
    use std::time::Duration;

    fn in_flight_record(lane: &Arc<TopicLane>, wakers: &Arc<WakerQueue>) -> Arc<InFlightRecord> {
        let permit = lane.acquire_permit(1).unwrap();
        InFlightRecord::new(permit, None, OnFailure::ResolveClaim, Arc::clone(wakers))
    }

    fn stored() -> DeliveryOutcome {
        DeliveryOutcome::Stored(Receipt::for_test())
    }

    fn lane(event_type: EventType, events: usize) -> Arc<TopicLane> {
        let limits = LaneLimits {
            events,
            bytes: 10_000,
        };
        TopicLane::new(Destination::Events(event_type), "t".into(), limits)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn outcomes_from_another_thread_wake_all_waiting_tasks() {
        let lane = lane(EventType::Traffic, 10_000);
        let wakers = Arc::new(WakerQueue::default());
        tokio::spawn(Arc::clone(&wakers).run());
        for round in 0..20 {
            let records: Vec<_> = (0..100).map(|_| in_flight_record(&lane, &wakers)).collect();
            let waiting: Vec<_> = records
                .iter()
                .map(|record| tokio::spawn(PendingDelivery::new(Arc::clone(record))))
                .collect();
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
            let reporter = std::thread::spawn(move || {
                assert!(records.iter().all(|record| record.complete(stored())));
            });
            for delivery in waiting {
                let outcome = tokio::time::timeout(Duration::from_secs(5), delivery).await;
                assert_eq!(outcome.expect("woken").unwrap(), stored());
            }
            reporter.join().unwrap();
            assert_eq!(lane.in_flight(), 0);
        }
    }

    /// Publishes a revision of the value 4 to 5, ends its delivery with `end`, and then claims 4
    /// and 5 under new ids and 5 under its own. Returns the kinds of duplicate found.
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
            Err(_) => panic!("no other claim is open"),
        };
        let receipt = Receipt::for_test();
        claim("first", 4).expect("new").commit(&receipt, now);
        let lane = lane(EventType::RoomOccupancy, 10);
        let revision = claim("revision", 5).expect("a revision");
        end(InFlightRecord::new(
            lane.acquire_permit(1).unwrap(),
            Some(revision),
            OnFailure::ResolveClaim,
            Arc::default(),
        ));
        [("back", 4), ("again", 5), ("revision", 5)].map(|(id, value)| claim(id, value).err())
    }

    #[test]
    fn the_outcome_decides_the_claim() {
        use DuplicateKind::*;
        let if_stored = [None, Some(Repeat), Some(Redelivery)];
        let if_rejected = [Some(Repeat), None, None];
        let if_unknown = [None; 3];
        let complete = |outcome| duplicates_after(|record| _ = record.complete(outcome));
        assert_eq!(complete(stored()), if_stored);
        let failed = |code| complete(DeliveryOutcome::from_error_code(code));
        use RDKafkaErrorCode::*;
        for code in [MessageSizeTooLarge, InvalidRecord, PolicyViolation] {
            assert_eq!(failed(code), if_rejected, "{code:?}");
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
            assert_eq!(failed(code), if_unknown, "{code:?}");
        }
        let abandoned = duplicates_after(|record| {
            drop(PendingDelivery::new(Arc::clone(&record)));
            record.complete(stored());
        });
        assert_eq!(abandoned, if_stored);
        assert_eq!(duplicates_after(drop), if_unknown, "no report arrives");
        assert_eq!(
            duplicates_after(|record| drop(PendingDelivery::new(record).take_claim())),
            if_rejected
        );
    }

    #[test]
    fn an_abandoned_delivery_holds_its_permit_until_the_late_report() {
        let lane = lane(EventType::Traffic, 1);
        let wakers = Arc::new(WakerQueue::default());
        let record = in_flight_record(&lane, &wakers);
        drop(PendingDelivery::new(Arc::clone(&record)));
        assert!(lane.acquire_permit(1).is_err());
        assert!(!record.complete(stored()), "the report is late");
        assert!(lane.acquire_permit(1).is_ok());
    }
}
