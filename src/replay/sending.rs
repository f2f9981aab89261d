//! The bridge without its listeners: what is sent here takes the path of every event.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use futures_util::future::join_all;
use tokio::runtime::Runtime;

use super::kept::{Kept, Place};
use crate::config::Config;
use crate::dedup::desk::Desk;
use crate::dedup::rebuilding::Rebuilding;
use crate::http::gate::Gate;
use crate::kafka::client;
use crate::kafka::lane::Lane;
use crate::kafka::producer::Producer;
use crate::kafka::report::Wakeups;
use crate::kafka::{contact::Contact, watch::Watch};
use crate::metrics::Metrics;
use crate::pipeline::{Answer, Pipeline, Promise, Request, Sender};
use crate::provenance::ReplayedFrom;
use crate::record::TimestampPolicy;
use butlr_event::ParseLimits;
use butlr_event::destination::Destination;

/// What an open batch may take beside the time of its answers.
const MARGIN: Duration = Duration::from_secs(2);
/// Between two looks whether it is known what is stored.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long the last reports are waited for.
const END: Duration = Duration::from_secs(5);

/// So long after an intent is written, nothing of its batch is published any more: it is begun within `answer_within`, or not
/// at all, and librdkafka gives up what it has after as long again.
pub fn lease(config: &Config) -> Duration {
    2 * config.http.answer_within + MARGIN
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Kafka has it.
    Published,
    /// Kafka had it.
    Duplicate,
    /// Why it is not stored, as far as is known.
    Failed(&'static str),
}

/// Not asked: nothing is quarantined again.
struct Nobody;

impl Sender for Nobody {
    fn path(&self) -> String {
        String::new()
    }

    fn credential(&self) -> String {
        String::new()
    }

    fn content_type(&self) -> Option<String> {
        None
    }
}

/// The parts of a bridge.
pub struct Sending {
    pipeline: Pipeline,
    gate: Arc<Gate>,
    wakeups: Arc<Wakeups>,
    answer_within: Duration,
    runtime: Runtime,
    _rebuilding: Option<Rebuilding>,
    _watch: Watch,
}

impl Sending {
    /// Starts them, and waits until what is stored is known as far as it ever will be.
    pub fn start(config: &Config, bootstrap: &str) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("the system can start no runtime: {error}"))?;
        // The connection to Redis is a task.
        let _within = runtime.enter();
        let metrics = Arc::new(Metrics::new(&config.topics.names()));
        let contact = Arc::new(Contact::default());
        let refused = |error| format!("kafka.properties: {error}");
        let producer = client::producer(config, bootstrap);
        let producer = Producer::start(producer, Arc::clone(&metrics), Arc::clone(&contact));
        let producer = Arc::new(producer.map_err(refused)?);
        let lanes = Lane::all(config);
        let of_events = |lane: &&Arc<Lane>| lane.destination() != Destination::Quarantine;
        let watch = Watch::start(
            &client::base(&config.kafka, bootstrap),
            Arc::clone(&producer),
            lanes.iter().filter(of_events).cloned().collect(),
            Arc::clone(&contact),
            Arc::clone(&metrics),
            false,
        );
        let desk = Desk::open(config, &metrics)?.map(Arc::new);
        let rebuilding = desk
            .as_ref()
            .map(|desk| Rebuilding::start(config, bootstrap, desk));
        while desk.as_ref().is_some_and(|desk| !desk.is_rebuilt()) {
            std::thread::sleep(LOOK_AGAIN);
        }
        let wakeups = Arc::new(Wakeups::default());
        drop(runtime.spawn(Arc::clone(&wakeups).run()));
        drop(_within);
        Ok(Self {
            pipeline: Pipeline {
                metrics,
                desk,
                producer,
                contact,
                started: Instant::now(),
                lanes,
                spool: None,
                confirm_within: config.kafka.confirm_within,
                reserve: Duration::ZERO,
                quarantine: config.quarantine,
                stamping: TimestampPolicy::from_config(&config.kafka),
                limits: ParseLimits {
                    max_events: config.http.max_events,
                    max_event_bytes: config.http.max_event_bytes,
                },
            },
            gate: Gate::new(&config.http),
            wakeups,
            answer_within: config.http.answer_within,
            runtime,
            _rebuilding: rebuilding,
            _watch: watch.map_err(refused)?,
        })
    }

    /// `http.answer_within`
    pub fn answer_within(&self) -> Duration {
        self.answer_within
    }

    /// Sends events, each with the record it comes from, and waits for what becomes of them.
    pub fn send(&self, topic: &str, items: &[(&Kept, &[u8])]) -> Vec<Sent> {
        let deadline = Instant::now() + self.answer_within;
        once(items, |items| {
            let all = items
                .iter()
                .map(|(kept, bytes)| self.send_one(topic, kept, bytes, deadline));
            self.runtime.block_on(join_all(all))
        })
    }

    async fn send_one(&self, topic: &str, kept: &Kept, body: &[u8], deadline: Instant) -> Sent {
        let Place(partition, offset) = kept.place;
        let replayed_from = ReplayedFrom {
            topic: topic.to_owned(),
            partition,
            offset,
        };
        let received = Duration::from_millis(kept.received_ms.max(0).unsigned_abs());
        let request = Request {
            body,
            expected: kept.expected,
            received_at: UNIX_EPOCH + received,
            deadline,
            sender: &Nobody,
            replayed_from: Some(&replayed_from),
        };
        let mut permit = self.gate.permit();
        let answer = self.pipeline.process(&request, &mut permit, &self.wakeups);
        let Answer::One(verdict) = answer.await else {
            unreachable!("an event is no array");
        };
        match verdict.outcome {
            Ok(Promise::Published(_)) => Sent::Published,
            Ok(Promise::Duplicate { .. }) => Sent::Duplicate,
            Ok(Promise::Spooled | Promise::Quarantined(_)) => {
                unreachable!("there is no spool, and nothing is quarantined")
            }
            Err(rejection) => Sent::Failed(rejection.code()),
        }
    }
}

/// Calls `send` with the same bytes only once, whether or not duplicates are looked for: the sender tries an event several times,
/// and each try may have been quarantined. What becomes of the first becomes of all.
fn once<'k>(
    items: &[(&'k Kept, &'k [u8])],
    send: impl FnOnce(&[(&'k Kept, &'k [u8])]) -> Vec<Sent>,
) -> Vec<Sent> {
    let mut places = HashMap::new();
    let mut firsts = Vec::new();
    let mut is_copy = Vec::new();
    for item in items {
        let place = *places.entry(item.1).or_insert(firsts.len());
        is_copy.push((place, place < firsts.len()));
        if place == firsts.len() {
            firsts.push(*item);
        }
    }
    let sent = send(&firsts);
    let of = |(place, is_copy): (usize, bool)| match sent[place] {
        Sent::Published if is_copy => Sent::Duplicate,
        sent => sent,
    };
    is_copy.into_iter().map(of).collect()
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.pipeline.producer.end(END);
        if let Some(desk) = &self.pipeline.desk {
            self.runtime.block_on(desk.flush(END));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_sent_once() {
        let kept = [0, 1, 2].map(|offset| Kept::for_test(Place(0, offset), "k"));
        let item = |place: usize, bytes: &'static [u8]| (&kept[place], bytes);
        let items = [
            item(0, b"a"),
            item(0, b"b"),
            item(1, b"a"),
            item(1, b"c"),
            item(2, b"b"),
            item(2, b"a"),
        ];
        let sent = once(&items, |items| {
            let sent = items.iter().map(|(kept, bytes)| (kept.place.1, *bytes));
            assert!(sent.eq([(0, &b"a"[..]), (0, b"b"), (1, b"c")]));
            vec![Sent::Published, Sent::Failed("late"), Sent::Duplicate]
        });
        use Sent::{Duplicate, Failed, Published};
        let late = Failed("late");
        assert_eq!(
            sent,
            [Published, late, Duplicate, Duplicate, late, Duplicate]
        );
    }
}
