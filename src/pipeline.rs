//! The path of an event: parse → claim → route (Kafka or spool) → publish → commit.
//!
//! ```text
//!  start ─► await_claim ─► publish ─► await_report ─► on_report ─► response
//!    │                        └─ not confirmed ──────────┴─► spool ─► response
//!    └─ not a valid event ─► quarantine ─► response
//! ```
//!
//! Authentication comes before and the response after; both belong to HTTP. The *claim* on an event
//! says that it is new, and the delivery report commits it (see [`crate::delivery`]). An event that
//! Kafka does not confirm in time is stored on disk (`spool_fallback`), and a rejected item is
//! quarantined (`quarantine`).

mod await_report;
mod publish;
mod quarantine;
mod spool_fallback;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{LocalBoxFuture, join_all};

use crate::budget::RequestPermit;
use crate::config::QuarantineConfig;
use crate::dedup::EventFacts;
use crate::dedup::claim::ClaimWaiter;
use crate::dedup::deduplicator::{Decision, Deduplicator};
use crate::delivery::{RecordProducer, WakerQueue};
use crate::kafka::contact::Contact;
use crate::kafka::lane::TopicLane;
use crate::marks::{DuplicateKind, MarkSet};
use crate::metrics::{EventOutcome, Metrics, PendingOutcome};
use crate::provenance::ReplayOrigin;
use crate::record::TimestampPolicy;
use crate::rejection::Rejection;
use crate::spool::Spool;
use butlr_event::destination::Destination;
use butlr_event::{Event, EventType, ItemResult, ParseLimits, ParsedBody};
use publish::SentRecord;
use quarantine::QuarantineCandidate;
use spool_fallback::UnpublishedEvent;

/// Time after a start during which events wait for the rebuild of duplicate detection although
/// Kafka was not reached yet.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(2);

/// State that all requests share.
pub struct Pipeline {
    /// Counters of received events and their outcomes.
    pub metrics: Arc<Metrics>,
    /// Duplicate detection; `None` if disabled, so that every event is published.
    pub deduplicator: Option<Arc<Deduplicator>>,
    /// The Kafka producer.
    pub producer: Arc<RecordProducer>,
    /// Time of the last contact with Kafka.
    pub contact: Arc<Contact>,
    /// Time at which the bridge started to look for Kafka.
    pub started_at: Instant,
    /// Topic lanes, in the order of [`Destination::index`].
    pub lanes: Arc<[Arc<TopicLane>; Destination::COUNT]>,
    /// Store for events that Kafka does not confirm in time; `None` if there is none, so that they
    /// are refused.
    pub spool: Option<Arc<Spool>>,
    /// `kafka.confirm_within`; applies only with a spool.
    pub confirm_within: Duration,
    /// Part of the response deadline reserved for the spool's fsync.
    pub spool_reserve: Duration,
    /// Treatment of rejected items.
    pub quarantine: QuarantineConfig,
    /// Choice of a record's timestamp.
    pub timestamp_policy: TimestampPolicy,
    /// Limits on a body's content.
    pub limits: ParseLimits,
}

/// A request that was authenticated and read.
pub struct PipelineRequest<'b> {
    /// The decompressed body.
    pub body: &'b [u8],
    /// Event type that the route asks for.
    pub expected_type: Option<EventType>,
    /// Time at which the body was complete.
    pub received_at: SystemTime,
    /// Response deadline.
    pub deadline: Instant,
    /// Request details recorded with a quarantined item.
    pub details: &'b dyn RequestDetails,
    /// Position in the quarantine of a replayed event.
    pub replayed_from: Option<&'b ReplayOrigin>,
}

/// Request details recorded with a quarantined item.
pub trait RequestDetails {
    /// Path of the URL.
    fn path(&self) -> String;
    /// Name of the credential.
    fn credential(&self) -> String;
    /// Content type that the request declares.
    fn content_type(&self) -> Option<String>;
}

/// Outcome of a request.
pub enum PipelineAnswer<'b> {
    /// Verdict on a body that is a single item or cannot be parsed.
    One(ItemVerdict<'b>),
    /// Verdicts on the items of an array, in order.
    Many(Vec<ItemVerdict<'b>>),
}

/// Verdict on one item of a body.
pub struct ItemVerdict<'b> {
    /// The event, if the item is a valid one.
    pub event: Option<Event<'b>>,
    /// The acknowledgement, or the reason why there is none.
    pub outcome: Result<Acknowledgement<'b>, Rejection>,
    /// The item is in the quarantine.
    pub quarantined: bool,
}

/// Reason for a 2xx.
pub enum Acknowledgement<'b> {
    /// Kafka has stored the event.
    Published(StoredPosition<'b>),
    /// The event is a duplicate of one that was stored before.
    Duplicate {
        /// Kind of duplicate.
        kind: DuplicateKind,
        /// The earlier event is on disk, and Kafka does not have it yet.
        spooled: bool,
    },
    /// The event is on disk and will be published later.
    Spooled,
    /// The item was rejected for this reason and is in the quarantine.
    Quarantined(Box<Rejection>),
}

impl Acknowledgement<'_> {
    /// HTTP status: 200 if Kafka has the event, 202 otherwise.
    pub fn http_status(&self) -> u16 {
        match self {
            Acknowledgement::Published(_) | Acknowledgement::Duplicate { spooled: false, .. } => {
                200
            }
            Acknowledgement::Duplicate { spooled: true, .. }
            | Acknowledgement::Spooled
            | Acknowledgement::Quarantined(_) => 202,
        }
    }
}

/// Position of an event that all in-sync replicas have.
pub struct StoredPosition<'b> {
    /// Name of the topic.
    pub topic: &'b str,
    /// Partition of the record.
    pub partition: i32,
    /// Offset of the record.
    pub offset: i64,
}

impl Pipeline {
    /// Processes a request's events. Returns when each of them is stored or refused, at the
    /// deadline at the latest.
    ///
    /// The future must run to its end even if the client goes away: it finishes what it started.
    pub async fn process<'b>(
        &'b self,
        request: &PipelineRequest<'b>,
        permit: &mut RequestPermit,
        wakers: &Arc<WakerQueue>,
    ) -> PipelineAnswer<'b> {
        let scope = RequestScope {
            pipeline: self,
            request,
            wakers,
        };
        match butlr_event::parse(request.body, request.expected_type, self.limits) {
            Err(unreadable) => {
                let admission = permit.take_events(1);
                let candidate = QuarantineCandidate::from_body(request.body, unreadable);
                PipelineAnswer::One(scope.quarantine(candidate, admission).await)
            }
            Ok(ParsedBody::Single(parsed)) => {
                let admission = permit.take_events(1);
                scope.await_rebuild(std::slice::from_ref(&parsed)).await;
                let mut stage = scope.start(parsed, &admission);
                let outcome = scope.await_report(&mut stage).await;
                // Most events are published and confirmed: the future has room for no more than
                // that.
                PipelineAnswer::One(match scope.on_report(stage, outcome) {
                    EventStage::Finished(verdict) => verdict,
                    stage => scope.finish(stage).await,
                })
            }
            Ok(ParsedBody::Array(items)) => {
                let admission = permit.take_events(items.len());
                PipelineAnswer::Many(scope.process_batch(items, admission).await)
            }
        }
    }

    /// Returns `true` if there is a spool and Kafka was never reached since the start. An event
    /// that goes to the spool anyway need not wait for a rebuild from Kafka.
    fn is_kafka_unreachable(&self) -> bool {
        self.spool.is_some()
            && self.contact.age().is_none()
            && self.started_at.elapsed() >= FIRST_CONTACT_TIMEOUT
    }
}

/// One request on its way through the pipeline.
#[derive(Clone, Copy)]
struct RequestScope<'s, 'b> {
    pipeline: &'b Pipeline,
    request: &'s PipelineRequest<'b>,
    wakers: &'s Arc<WakerQueue>,
}

impl<'s, 'b> RequestScope<'s, 'b> {
    /// Processes the events of an array. Boxed, like everything that few requests need, because
    /// each request carries the future of [`Pipeline::process`].
    fn process_batch(
        self,
        items: Vec<ItemResult<'b>>,
        admission: Result<(), Rejection>,
    ) -> LocalBoxFuture<'s, Vec<ItemVerdict<'b>>> {
        Box::pin(async move {
            self.await_rebuild(&items).await;
            let started: Vec<_> = items
                .into_iter()
                .map(|parsed| self.start(parsed, &admission))
                .collect();
            if started.iter().any(EventStage::needs_more_than_report) {
                // Concurrently: a waiting event must not delay the claims of those behind it.
                let finished = started.into_iter().map(|stage| self.finish(stage));
                return join_all(finished).await;
            }
            let mut reported = Vec::with_capacity(started.len());
            for mut stage in started {
                let outcome = self.await_report(&mut stage).await;
                reported.push(self.on_report(stage, outcome));
            }
            if reported.iter().any(EventStage::needs_more_than_report) {
                let finished = reported.into_iter().map(|stage| self.finish(stage));
                return join_all(finished).await;
            }
            let verdicts = reported.into_iter().map(|stage| match stage {
                EventStage::Finished(verdict) => verdict,
                _ => unreachable!("no stage needs more than a report"),
            });
            verdicts.collect()
        })
    }

    /// Waits, just after a start, until duplicate detection knows which events are stored.
    async fn await_rebuild(self, parsed: &[ItemResult<'_>]) {
        let deduplicator = self.pipeline.deduplicator.as_ref();
        if let Some(deduplicator) = deduplicator.filter(|deduplicator| !deduplicator.is_rebuilt()) {
            let types = parsed.iter().flatten().map(Event::event_type);
            let is_unreachable = self.pipeline.is_kafka_unreachable();
            let types = types.filter(|_| !is_unreachable);
            Box::pin(deduplicator.wait_until_restored(types, self.request.deadline)).await;
        }
    }

    /// Counts an event as received, claims it and hands it to Kafka; waits for nothing.
    fn start(self, parsed: ItemResult<'b>, admission: &Result<(), Rejection>) -> EventStage<'b> {
        let event = match parsed {
            Ok(event) => event,
            Err(rejected) => {
                return EventStage::Rejected {
                    candidate: Box::new(QuarantineCandidate::from_item(rejected)),
                    admission: admission.clone(),
                };
            }
        };
        let metrics = &self.pipeline.metrics;
        let received = metrics.count_received(Some(event.event_type()), self.request.received_at);
        if let Err(rejection) = admission {
            return self.refuse_event(event, received, rejection.clone());
        }
        let Some(deduplicator) = &self.pipeline.deduplicator else {
            return self.publish(event, received, None, MarkSet::default());
        };
        let facts = self.build_facts(&event);
        match deduplicator.try_claim(&facts, Instant::now()) {
            Ok(decision) => self.on_claim(event, received, decision),
            Err(waiter) => EventStage::AwaitingClaim {
                event,
                received,
                waiter,
            },
        }
    }

    fn build_facts<'e>(self, event: &'e Event<'_>) -> EventFacts<'e> {
        let timestamp_policy = &self.pipeline.timestamp_policy;
        let is_plausible =
            timestamp_policy.is_plausible(event.timestamp_ms(), self.request.received_at);
        EventFacts::from_event(event, is_plausible)
    }

    fn on_claim(
        self,
        event: Event<'b>,
        received: PendingOutcome<'b>,
        decision: Decision,
    ) -> EventStage<'b> {
        match decision {
            Decision::Publish(claim) => {
                let marks = MarkSet {
                    unchecked: claim.is_unchecked(),
                    ..claim.marks().into()
                };
                self.publish(event, received, Some(claim), marks)
            }
            Decision::Duplicate { kind, storage } => {
                let spooled = storage.is_spooled();
                let metrics = &self.pipeline.metrics;
                metrics.count_duplicate(event.event_type(), kind);
                received.record(EventOutcome::Duplicate);
                EventStage::with_outcome(event, Ok(Acknowledgement::Duplicate { kind, spooled }))
            }
        }
    }

    /// Waits for everything that an event still needs. Boxed, because few events need more than a
    /// delivery report.
    fn finish(self, mut stage: EventStage<'b>) -> LocalBoxFuture<'s, ItemVerdict<'b>> {
        Box::pin(async move {
            loop {
                stage = match stage {
                    EventStage::Finished(verdict) => return verdict,
                    EventStage::AwaitingReport(_) => {
                        let outcome = self.await_report(&mut stage).await;
                        self.on_report(stage, outcome)
                    }
                    EventStage::AwaitingClaim {
                        event,
                        received,
                        waiter,
                    } => self.await_claim(event, received, waiter).await,
                    EventStage::AwaitingSpool(unpublished) => self.spool(unpublished).await,
                    EventStage::Rejected {
                        candidate,
                        admission,
                    } => return self.quarantine(*candidate, admission).await,
                };
            }
        })
    }

    async fn await_claim(
        self,
        event: Event<'b>,
        received: PendingOutcome<'b>,
        waiter: Option<ClaimWaiter>,
    ) -> EventStage<'b> {
        let deduplicator = self.pipeline.deduplicator.as_ref();
        let deduplicator = deduplicator.expect("only a deduplicator makes an event wait");
        let facts = self.build_facts(&event);
        let deadline = self.request.deadline;
        let decision = deduplicator.claim(&facts, waiter, deadline);
        match decision.await {
            Some(decision) => self.on_claim(event, received, decision),
            None => self.refuse_event(event, received, Rejection::KafkaUnconfirmed),
        }
    }

    fn refuse_event(
        self,
        event: Event<'b>,
        received: PendingOutcome<'_>,
        rejection: Rejection,
    ) -> EventStage<'b> {
        EventStage::with_outcome(event, Err(self.refuse(received, rejection)))
    }

    /// Counts a refused item, with the rejection and the code of each field error.
    fn refuse(self, received: PendingOutcome<'_>, rejection: Rejection) -> Rejection {
        received.record(EventOutcome::Refused);
        self.count_rejection(&rejection);
        rejection
    }

    fn count_rejection(self, rejection: &Rejection) {
        let metrics = &self.pipeline.metrics;
        metrics.count_rejection(rejection.code());
        if let Rejection::InvalidEvent(errors) = rejection {
            for error in errors {
                metrics.count_field_error(error.code.as_str());
            }
        }
    }
}

/// Progress of one item of a body.
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the common one; boxing it would cost each good event an allocation"
)]
enum EventStage<'b> {
    /// Duplicate detection has not decided yet.
    AwaitingClaim {
        event: Event<'b>,
        received: PendingOutcome<'b>,
        waiter: Option<ClaimWaiter>,
    },
    /// The event was handed to Kafka.
    AwaitingReport(InFlightEvent<'b>),
    /// Kafka does not take the event now, so it goes to the spool.
    AwaitingSpool(Box<UnpublishedEvent<'b>>),
    /// The item is not a valid event.
    Rejected {
        candidate: Box<QuarantineCandidate<'b>>,
        admission: Result<(), Rejection>,
    },
    Finished(ItemVerdict<'b>),
}

/// An event that was handed to Kafka.
struct InFlightEvent<'b> {
    event: Event<'b>,
    received: PendingOutcome<'b>,
    marks: MarkSet,
    sent: SentRecord<'b>,
}

impl<'b> EventStage<'b> {
    fn with_outcome(event: Event<'b>, outcome: Result<Acknowledgement<'b>, Rejection>) -> Self {
        EventStage::Finished(ItemVerdict {
            event: Some(event),
            outcome,
            quarantined: false,
        })
    }

    /// Returns `true` if the item waits for something other than a delivery report.
    fn needs_more_than_report(&self) -> bool {
        !matches!(
            self,
            EventStage::AwaitingReport(_) | EventStage::Finished(_)
        )
    }
}
