//! The bridge without its listeners: replayed events take the path of every other event.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use futures_util::future::join_all;
use tokio::runtime::Runtime;

use super::candidate::ReplayCandidate;
use crate::budget::InFlightBudget;
use crate::config::Config;
use crate::core::{Core, CoreMode};
use crate::delivery::WakerQueue;
use crate::pipeline::{Acknowledgement, PipelineAnswer, PipelineRequest, RequestDetails};
use crate::provenance::ReplayOrigin;

/// Time that a batch may take in addition to the response deadlines.
const LEASE_MARGIN: Duration = Duration::from_secs(2);
/// Poll interval while the dedup window is rebuilt.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait for the last delivery reports.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns how long after an intent its batch may still be published. Sending starts within
/// `answer_within` or not at all, and librdkafka gives up after the same time again.
pub fn batch_lease(config: &Config) -> Duration {
    2 * config.http.answer_within + LEASE_MARGIN
}

/// Outcome of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// Kafka stored it.
    Published,
    /// Kafka held it already.
    Duplicate,
    /// Not stored, or its outcome is unknown; with the problem code.
    Failed(&'static str),
}

/// Request details are not used, because nothing is quarantined again.
struct NoRequestDetails;

impl RequestDetails for NoRequestDetails {
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

/// Parts of a bridge that publish events.
pub struct ReplayPublisher {
    core: Core,
    budget: Arc<InFlightBudget>,
    waker_queue: Arc<WakerQueue>,
    answer_within: Duration,
    runtime: Runtime,
}

impl ReplayPublisher {
    /// Starts the parts and waits until the dedup window is rebuilt.
    pub fn start(config: &Config) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("the async runtime cannot be started: {error}"))?;
        // The connection to Redis is a task.
        let _within = runtime.enter();
        let core = Core::start(config, CoreMode::Replay, None)?;
        let deduplicator = core.pipeline.deduplicator.as_ref();
        while deduplicator.is_some_and(|deduplicator| !deduplicator.is_rebuilt()) {
            std::thread::sleep(POLL_INTERVAL);
        }
        let waker_queue = Arc::new(WakerQueue::default());
        drop(runtime.spawn(Arc::clone(&waker_queue).run()));
        drop(_within);
        Ok(Self {
            core,
            budget: InFlightBudget::new(&config.http),
            waker_queue,
            answer_within: config.http.answer_within,
            runtime,
        })
    }

    /// Returns `http.answer_within`.
    pub fn answer_within(&self) -> Duration {
        self.answer_within
    }

    /// Sends events, each with its record of the quarantine, and waits for their outcomes.
    pub fn send(&self, topic: &str, items: &[(&ReplayCandidate, &[u8])]) -> Vec<ReplayOutcome> {
        let deadline = Instant::now() + self.answer_within;
        send_unique(items, |items| {
            let all = items
                .iter()
                .map(|(candidate, bytes)| self.send_one(topic, candidate, bytes, deadline));
            self.runtime.block_on(join_all(all))
        })
    }

    async fn send_one(
        &self,
        topic: &str,
        candidate: &ReplayCandidate,
        body: &[u8],
        deadline: Instant,
    ) -> ReplayOutcome {
        let replayed_from = ReplayOrigin {
            topic: topic.to_owned(),
            partition: candidate.position.partition,
            offset: candidate.position.offset,
        };
        let received = Duration::from_millis(candidate.received_ms.max(0).unsigned_abs());
        let request = PipelineRequest {
            body,
            expected_type: candidate.expected_type,
            received_at: UNIX_EPOCH + received,
            deadline,
            details: &NoRequestDetails,
            replayed_from: Some(&replayed_from),
        };
        let mut permit = self.budget.new_permit();
        let answer = self
            .core
            .pipeline
            .process(&request, &mut permit, &self.waker_queue);
        let PipelineAnswer::One(verdict) = answer.await else {
            unreachable!("the body is a single event");
        };
        match verdict.outcome {
            Ok(Acknowledgement::Published(_)) => ReplayOutcome::Published,
            Ok(Acknowledgement::Duplicate { .. }) => ReplayOutcome::Duplicate,
            Ok(Acknowledgement::Spooled | Acknowledgement::Quarantined(_)) => {
                unreachable!("the spool and the quarantine are off")
            }
            Err(rejection) => ReplayOutcome::Failed(rejection.code()),
        }
    }
}

/// Passes equal bytes to `send` only once, even if duplicate detection is off: the sender tries an
/// event several times, and each try may have been quarantined. Copies share the first one's
/// outcome.
fn send_unique<'k>(
    items: &[(&'k ReplayCandidate, &'k [u8])],
    send: impl FnOnce(&[(&'k ReplayCandidate, &'k [u8])]) -> Vec<ReplayOutcome>,
) -> Vec<ReplayOutcome> {
    let mut indexes = HashMap::new();
    let mut unique = Vec::new();
    let mut origins = Vec::new();
    for item in items {
        let index = *indexes.entry(item.1).or_insert(unique.len());
        let is_copy = index < unique.len();
        origins.push((index, is_copy));
        if !is_copy {
            unique.push(*item);
        }
    }
    let outcomes = send(&unique);
    let outcome_of = |(index, is_copy): (usize, bool)| match outcomes[index] {
        ReplayOutcome::Published if is_copy => ReplayOutcome::Duplicate,
        outcome => outcome,
    };
    origins.into_iter().map(outcome_of).collect()
}

impl Drop for ReplayPublisher {
    fn drop(&mut self) {
        let pipeline = &self.core.pipeline;
        pipeline.producer.close(CLOSE_TIMEOUT);
        if let Some(deduplicator) = &pipeline.deduplicator {
            self.runtime.block_on(deduplicator.flush(CLOSE_TIMEOUT));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_are_sent_once() {
        let candidates = [0, 1, 2].map(|offset| ReplayCandidate::for_test((0, offset).into(), "k"));
        let item = |index: usize, bytes: &'static [u8]| (&candidates[index], bytes);
        let items = [
            item(0, b"a"),
            item(0, b"b"),
            item(1, b"a"),
            item(1, b"c"),
            item(2, b"b"),
            item(2, b"a"),
        ];
        let sent = send_unique(&items, |items| {
            let sent = items
                .iter()
                .map(|(candidate, bytes)| (candidate.position.offset, *bytes));
            assert!(sent.eq([(0, &b"a"[..]), (0, b"b"), (1, b"c")]));
            vec![
                ReplayOutcome::Published,
                ReplayOutcome::Failed("late"),
                ReplayOutcome::Duplicate,
            ]
        });
        use ReplayOutcome::{Duplicate, Failed, Published};
        let late = Failed("late");
        assert_eq!(
            sent,
            [Published, late, Duplicate, Duplicate, late, Duplicate]
        );
    }
}
