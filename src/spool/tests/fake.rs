//! A fake Kafka whose behaviour tests set: it takes records in order, and stores or fails them in
//! that order, as librdkafka would.

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
use crate::sync::lock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaBehaviour {
    /// Stores records.
    Up,
    /// Fails records with this error.
    Fails(RDKafkaErrorCode),
    /// Keeps records and reports nothing.
    Hangs,
}

struct QueuedRecord {
    topic: String,
    key: String,
    value: Vec<u8>,
    record: Arc<InFlightRecord>,
    timestamp_ms: i64,
}

#[derive(Default)]
struct FakeKafkaState {
    queue: VecDeque<QueuedRecord>,
    behaviours: HashMap<String, KafkaBehaviour>,
    /// Records with these values fail the whole batch they are in.
    refused: HashSet<Vec<u8>>,
    /// Records with a later timestamp do so too; ms since 1970.
    latest_ms: Option<i64>,
    /// Keys and values of stored records, in order.
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
        let state = Arc::<Mutex<FakeKafkaState>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    for (record, report) in complete_batch(&mut lock(&state)) {
                        record.complete(report);
                    }
                }
            }
        });
        Arc::new(Self {
            state,
            stop,
            thread: Some(thread),
        })
    }

    pub fn set_behaviour(&self, topic: &str, behaviour: KafkaBehaviour) {
        lock(&self.state)
            .behaviours
            .insert(topic.to_owned(), behaviour);
    }

    pub fn refuse(&self, value: &[u8]) {
        lock(&self.state).refused.insert(value.to_vec());
    }

    /// Refuses records with a later timestamp from now on.
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

    /// Drops the queued records without a report.
    pub fn forget(&self) {
        let queue = std::mem::take(&mut lock(&self.state).queue);
        drop(queue);
    }

    /// Sends a record as the pipeline does.
    pub fn send(&self, lane: &Arc<TopicLane>, key: &str, value: &[u8]) -> PendingDelivery {
        let permit = lane.acquire_permit(value.len()).expect("room");
        let record = InFlightRecord::new(
            permit,
            None,
            OnFailure::ReturnClaim,
            Arc::<WakerQueue>::default(),
        );
        self.push(lane.topic(), key, value, Arc::clone(&record), 0);
        PendingDelivery::new(record)
    }

    fn push(
        &self,
        topic: &str,
        key: &str,
        value: &[u8],
        record: Arc<InFlightRecord>,
        timestamp_ms: i64,
    ) {
        let mut state = lock(&self.state);
        state.queue.push_back(QueuedRecord {
            topic: topic.to_owned(),
            key: key.to_owned(),
            value: value.to_vec(),
            record,
            timestamp_ms,
        });
        state.in_flight = state.queue.len();
        state.most_in_flight = state.most_in_flight.max(state.in_flight);
    }
}

/// Reports the queued records, those of each topic as one batch.
fn complete_batch(state: &mut FakeKafkaState) -> Vec<(Arc<InFlightRecord>, DeliveryOutcome)> {
    let mut reports = Vec::new();
    let mut left = VecDeque::new();
    let batch = std::mem::take(&mut state.queue);
    let latest_ms = state.latest_ms.unwrap_or(i64::MAX);
    let refusal = |q: &QueuedRecord| {
        if q.timestamp_ms > latest_ms {
            return Some(RDKafkaErrorCode::InvalidTimestamp);
        }
        let is_refused = state.refused.contains(&q.value);
        is_refused.then_some(RDKafkaErrorCode::InvalidRecord)
    };
    let failed_topics = batch
        .iter()
        .filter_map(|q| Some((q.topic.clone(), refusal(q)?)));
    let failed_topics: HashMap<String, RDKafkaErrorCode> = failed_topics.collect();
    for queued in batch {
        let behaviour = state.behaviours.get(&queued.topic).copied();
        let report = match behaviour.unwrap_or(KafkaBehaviour::Up) {
            KafkaBehaviour::Hangs => {
                left.push_back(queued);
                continue;
            }
            KafkaBehaviour::Fails(code) => DeliveryOutcome::from_error_code(code),
            KafkaBehaviour::Up if failed_topics.contains_key(&queued.topic) => {
                DeliveryOutcome::from_error_code(failed_topics[&queued.topic])
            }
            KafkaBehaviour::Up => {
                state.log.push((queued.key, queued.value));
                DeliveryOutcome::Stored(Receipt::for_test())
            }
        };
        reports.push((queued.record, report));
    }
    state.queue = left;
    reports
}

impl RecordSink for FakeKafka {
    fn send_record(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        entry: Box<dyn DeliveryObserver>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn DeliveryObserver>)> {
        let in_flight = InFlightRecord::with_observer(permit, entry);
        self.push(
            record.topic,
            &record.key,
            record.value,
            in_flight,
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
