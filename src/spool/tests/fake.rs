//! A Kafka that does as it is told: takes records in order, and stores or fails them in that order, as librdkafka would.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode;

use crate::delivery::{DeliveryObserver, InFlightRecord, OnFailure, PendingDelivery, WakerQueue};
use crate::kafka::lane::{LanePermit, TopicLane};
use crate::kafka::report::{DeliveryOutcome, OutcomeReceiver, Receipt};
use crate::record::ProducerRecord;
use crate::spool::drain::RecordSink;
use crate::spool::lock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaBehaviour {
    /// Stores.
    Up,
    /// Fails, so.
    Fails(RDKafkaErrorCode),
    /// Keeps what it has, and says nothing.
    Hangs,
}

struct QueuedRecord {
    topic: String,
    key: String,
    value: Vec<u8>,
    slot: Arc<InFlightRecord>,
    timestamp_ms: i64,
}

#[derive(Default)]
struct FakeKafkaState {
    queue: VecDeque<QueuedRecord>,
    behaviours: HashMap<String, KafkaBehaviour>,
    /// Records with such values spoil the batch they are in.
    refused: HashSet<Vec<u8>>,
    /// Records stamped later than this do so, too, ms since 1970.
    latest_ms: Option<i64>,
    /// Key and value of what is stored, in order.
    log: Vec<(String, Vec<u8>)>,
    in_flight: usize,
    most_in_flight: usize,
}

pub struct FakeKafka {
    state: Arc<Mutex<FakeKafkaState>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeKafka {
    pub fn start() -> Arc<Self> {
        let world = Arc::<Mutex<FakeKafkaState>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (world, stop) = (Arc::clone(&world), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    for (slot, report) in complete_batch(&mut lock(&world)) {
                        slot.complete(report);
                    }
                }
            }
        });
        Arc::new(Self {
            state: world,
            stop,
            thread: Some(thread),
        })
    }

    pub fn set_behaviour(&self, topic: &str, mood: KafkaBehaviour) {
        lock(&self.state).behaviours.insert(topic.to_owned(), mood);
    }

    pub fn refuse(&self, value: &[u8]) {
        lock(&self.state).refused.insert(value.to_vec());
    }

    /// From now on records are refused that are stamped later.
    pub fn refuse_after(&self, latest_ms: i64) {
        lock(&self.state).latest_ms = Some(latest_ms);
    }

    pub fn log(&self) -> Vec<(String, Vec<u8>)> {
        lock(&self.state).log.clone()
    }

    pub fn queued(&self) -> usize {
        lock(&self.state).queue.len()
    }

    pub fn most_in_flight(&self) -> usize {
        lock(&self.state).most_in_flight
    }

    /// What it has in its hands is gone: no report will come.
    pub fn forget(&self) {
        let queue = std::mem::take(&mut lock(&self.state).queue);
        drop(queue);
    }

    /// As the pipeline sends.
    pub fn send(&self, lane: &Arc<TopicLane>, key: &str, value: &[u8]) -> PendingDelivery {
        let permit = lane.acquire_permit(value.len()).expect("room");
        let slot = InFlightRecord::new(
            permit,
            None,
            OnFailure::ReturnClaim,
            Arc::<WakerQueue>::default(),
        );
        self.push(lane.topic(), key, value, Arc::clone(&slot), 0);
        PendingDelivery::new(slot)
    }

    fn push(
        &self,
        topic: &str,
        key: &str,
        value: &[u8],
        slot: Arc<InFlightRecord>,
        timestamp_ms: i64,
    ) {
        let mut world = lock(&self.state);
        world.queue.push_back(QueuedRecord {
            topic: topic.to_owned(),
            key: key.to_owned(),
            value: value.to_vec(),
            slot,
            timestamp_ms,
        });
        world.in_flight = world.queue.len();
        world.most_in_flight = world.most_in_flight.max(world.in_flight);
    }
}

/// What is decided now, each topic's records as one batch.
fn complete_batch(world: &mut FakeKafkaState) -> Vec<(Arc<InFlightRecord>, DeliveryOutcome)> {
    let mut decided = Vec::new();
    let mut left = VecDeque::new();
    let batch = std::mem::take(&mut world.queue);
    let latest_ms = world.latest_ms.unwrap_or(i64::MAX);
    let refusal = |q: &QueuedRecord| match q.timestamp_ms > latest_ms {
        true => Some(RDKafkaErrorCode::InvalidTimestamp),
        false => world
            .refused
            .contains(&q.value)
            .then_some(RDKafkaErrorCode::InvalidRecord),
    };
    let spoilt = batch
        .iter()
        .filter_map(|q| Some((q.topic.clone(), refusal(q)?)));
    let spoilt: HashMap<String, RDKafkaErrorCode> = spoilt.collect();
    for queued in batch {
        let mood = world.behaviours.get(&queued.topic).copied();
        let report = match mood.unwrap_or(KafkaBehaviour::Up) {
            KafkaBehaviour::Hangs => {
                left.push_back(queued);
                continue;
            }
            KafkaBehaviour::Fails(code) => DeliveryOutcome::from_error_code(code),
            KafkaBehaviour::Up if spoilt.contains_key(&queued.topic) => {
                DeliveryOutcome::from_error_code(spoilt[&queued.topic])
            }
            KafkaBehaviour::Up => {
                world.log.push((queued.key, queued.value));
                DeliveryOutcome::Stored(Receipt::for_test())
            }
        };
        decided.push((queued.slot, report));
    }
    world.queue = left;
    decided
}

impl RecordSink for FakeKafka {
    fn send_record(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        entry: Box<dyn DeliveryObserver>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn DeliveryObserver>)> {
        let slot = InFlightRecord::with_observer(permit, entry);
        self.push(
            record.topic,
            &record.key,
            record.value,
            slot,
            record.timestamp_ms,
        );
        Ok(())
    }

    fn replace_producer(&self, _: Duration) {}
}

impl Drop for FakeKafka {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
