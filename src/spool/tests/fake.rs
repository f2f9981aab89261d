//! A Kafka that does as it is told: takes records in order, and stores or fails them in that order, as librdkafka would.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode;

use crate::kafka::lane::{Lane, LanePermit};
use crate::kafka::report::{Delivery, Receipt, Report, Settle, Slot, Wakeups};
use crate::record::ProducerRecord;
use crate::spool::drain::Hand;
use crate::spool::lock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Stores.
    Up,
    /// Fails, so.
    Fails(RDKafkaErrorCode),
    /// Keeps what it has, and says nothing.
    Hangs,
}

struct Queued {
    topic: String,
    key: String,
    value: Vec<u8>,
    slot: Arc<Slot>,
    timestamp_ms: i64,
}

#[derive(Default)]
struct World {
    queue: VecDeque<Queued>,
    moods: HashMap<String, Mood>,
    /// Records with such values spoil the batch they are in.
    refused: HashSet<Vec<u8>>,
    /// Records stamped later than this do so, too, ms since 1970.
    latest_ms: Option<i64>,
    /// Key and value of what is stored, in order.
    log: Vec<(String, Vec<u8>)>,
    in_flight: usize,
    most_in_flight: usize,
}

pub struct Fake {
    world: Arc<Mutex<World>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn start() -> Arc<Self> {
        let world = Arc::<Mutex<World>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (world, stop) = (Arc::clone(&world), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    for (slot, report) in round(&mut lock(&world)) {
                        slot.complete(report);
                    }
                }
            }
        });
        Arc::new(Self {
            world,
            stop,
            thread: Some(thread),
        })
    }

    pub fn set(&self, topic: &str, mood: Mood) {
        lock(&self.world).moods.insert(topic.to_owned(), mood);
    }

    pub fn refuse(&self, value: &[u8]) {
        lock(&self.world).refused.insert(value.to_vec());
    }

    /// From now on records are refused that are stamped later.
    pub fn refuse_after(&self, latest_ms: i64) {
        lock(&self.world).latest_ms = Some(latest_ms);
    }

    pub fn log(&self) -> Vec<(String, Vec<u8>)> {
        lock(&self.world).log.clone()
    }

    pub fn queued(&self) -> usize {
        lock(&self.world).queue.len()
    }

    pub fn most_in_flight(&self) -> usize {
        lock(&self.world).most_in_flight
    }

    /// What it has in its hands is gone: no report will come.
    pub fn forget(&self) {
        let queue = std::mem::take(&mut lock(&self.world).queue);
        drop(queue);
    }

    /// As the pipeline sends.
    pub fn send(&self, lane: &Arc<Lane>, key: &str, value: &[u8]) -> Delivery {
        let permit = lane.enter(value.len()).expect("room");
        let slot = Slot::new(permit, None, true, Arc::<Wakeups>::default());
        self.push(lane.topic(), key, value, Arc::clone(&slot), 0);
        Delivery::of(slot)
    }

    fn push(&self, topic: &str, key: &str, value: &[u8], slot: Arc<Slot>, timestamp_ms: i64) {
        let mut world = lock(&self.world);
        world.queue.push_back(Queued {
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
fn round(world: &mut World) -> Vec<(Arc<Slot>, Report)> {
    let mut decided = Vec::new();
    let mut left = VecDeque::new();
    let batch = std::mem::take(&mut world.queue);
    let latest_ms = world.latest_ms.unwrap_or(i64::MAX);
    let refusal = |q: &Queued| match q.timestamp_ms > latest_ms {
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
        let mood = world.moods.get(&queued.topic).copied();
        let report = match mood.unwrap_or(Mood::Up) {
            Mood::Hangs => {
                left.push_back(queued);
                continue;
            }
            Mood::Fails(code) => Report::Failed(code),
            Mood::Up if spoilt.contains_key(&queued.topic) => Report::Failed(spoilt[&queued.topic]),
            Mood::Up => {
                world.log.push((queued.key, queued.value));
                Report::Stored(Receipt::for_test())
            }
        };
        decided.push((queued.slot, report));
    }
    world.queue = left;
    decided
}

impl Hand for Fake {
    fn hand(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        entry: Box<dyn Settle>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn Settle>)> {
        let slot = Slot::of_entry(permit, entry);
        self.push(
            record.topic,
            &record.key,
            record.value,
            slot,
            record.timestamp_ms,
        );
        Ok(())
    }

    fn replace(&self, _: Duration) {}
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
