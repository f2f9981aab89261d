//! The path of an event: parse → route → claim → deliver → commit.
//!
//! Authentication comes before (the body of a stranger is not even read) and the answer after; both belong to HTTP.
//! The *claim* says whether an event is new; the delivery report commits it (see `kafka::report::Slot`). What Kafka does not
//! confirm in time is kept on disk (`keep`), and what is no valid event is kept aside (`quarantine`).

mod quarantine;
mod spool_fallback;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{LocalBoxFuture, join_all};
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::timeout_at;

use crate::config::QuarantineConfig;
use crate::dedup::EventFacts;
use crate::dedup::claim::{Claim, ClaimWaiter};
use crate::dedup::deduplicator::{Decision, Deduplicator};
use crate::http::gate::RequestPermit;
use crate::kafka::contact::Contact;
use crate::kafka::lane::TopicLane;
use crate::kafka::producer::{Producer, QueueError, rejection_for_code};
use crate::kafka::report::{DeliveryReport, PendingDelivery, WakerQueue};
use crate::marks::{DuplicateKind, MarkSet};
use crate::metrics::{EventOutcome, Metrics, PendingOutcome};
use crate::provenance::ReplayOrigin;
use crate::record::{ProducerRecord, PublishOrigin, TimestampPolicy};
use crate::rejection::Rejection;
use crate::spool::{Route, Spool};
use butlr_event::destination::Destination;
use butlr_event::{Event, EventType, ParseLimits, ParsedBody, RejectedItem};
use quarantine::QuarantineCandidate;
use spool_fallback::UnpublishedEvent;

/// So long after a start events wait for what is read back from Kafka, although that was not reached yet.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(2);

/// What all requests share.
pub struct Pipeline {
    /// Counters of what comes in and what it ends as.
    pub metrics: Arc<Metrics>,
    /// Where it is asked whether an event is new; `None`: nowhere, and all events are published.
    pub deduplicator: Option<Arc<Deduplicator>>,
    /// The way to Kafka.
    pub producer: Arc<Producer>,
    /// When Kafka was last heard of.
    pub contact: Arc<Contact>,
    /// Since when Kafka is looked for.
    pub started_at: Instant,
    /// One lane a topic, in the order of [`Destination::index`].
    pub lanes: Arc<[Arc<TopicLane>; Destination::COUNT]>,
    /// Where events wait that Kafka does not confirm in time; `None`: nowhere, and they are refused.
    pub spool: Option<Arc<Spool>>,
    /// `kafka.confirm_within`; counts where there is a spool.
    pub confirm_within: Duration,
    /// What of an answer's time is left to the disk.
    pub spool_reserve: Duration,
    /// What becomes of what is no valid event.
    pub quarantine: QuarantineConfig,
    /// Which time records are stamped with.
    pub stamping: TimestampPolicy,
    /// How much a body may hold.
    pub limits: ParseLimits,
}

/// A request that was authenticated and read.
pub struct PipelineRequest<'b> {
    /// The body, decompressed.
    pub body: &'b [u8],
    /// The type that the route asks for.
    pub expected_type: Option<EventType>,
    /// When the body was complete.
    pub received_at: SystemTime,
    /// When the answer is due.
    pub deadline: Instant,
    /// Who sent it, and how: told of what is kept aside.
    pub details: &'b dyn RequestDetails,
    /// Where it was kept aside before.
    pub replayed_from: Option<&'b ReplayOrigin>,
}

/// What is told of the request behind what is kept aside.
pub trait RequestDetails {
    /// The path of the URL.
    fn path(&self) -> String;
    /// The name of the credential.
    fn credential(&self) -> String;
    /// What the request says that its body is.
    fn content_type(&self) -> Option<String>;
}

/// What became of a request.
pub enum PipelineAnswer<'b> {
    /// The body was one event, or none that can be read.
    One(ItemVerdict<'b>),
    /// The body was an array; one verdict an item, in order.
    Many(Vec<ItemVerdict<'b>>),
}

/// What became of one event.
pub struct ItemVerdict<'b> {
    /// The event, where it is one.
    pub event: Option<Event<'b>>,
    /// What is promised, or why nothing is.
    pub outcome: Result<Acknowledgement<'b>, Rejection>,
    /// What was refused is kept aside all the same.
    pub quarantined: bool,
}

/// What a 2xx stands on.
pub enum Acknowledgement<'b> {
    /// The event is stored.
    Published(StoredPosition<'b>),
    /// What it tells was stored before.
    Duplicate {
        /// In which way.
        kind: DuplicateKind,
        /// On disk, and Kafka does not have it yet.
        spooled: bool,
    },
    /// The event is on disk, and Kafka gets it later.
    Spooled,
    /// It is no valid event, for this reason, and was kept aside.
    Quarantined(Box<Rejection>),
}

impl Acknowledgement<'_> {
    /// The HTTP status: 200 where Kafka has it.
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

/// Where Kafka has an event, on all in-sync replicas.
pub struct StoredPosition<'b> {
    /// Its topic.
    pub topic: &'b str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

impl Pipeline {
    /// Takes a request's events and answers when each of them is stored or refused, at the deadline at the latest.
    ///
    /// To be run to its end, whether the client waits or not: what was begun here is finished here.
    pub async fn process<'b>(
        &'b self,
        request: &PipelineRequest<'b>,
        permit: &mut RequestPermit,
        wakeups: &Arc<WakerQueue>,
    ) -> PipelineAnswer<'b> {
        match butlr_event::parse(request.body, request.expected_type, self.limits) {
            Err(unreadable) => {
                let admitted = permit.take_events(1);
                let invalid = QuarantineCandidate::from_body(request.body, unreadable);
                let verdict = self.quarantine(invalid, admitted, request, wakeups).await;
                PipelineAnswer::One(verdict)
            }
            Ok(ParsedBody::Single(parsed)) => {
                let admitted = permit.take_events(1);
                self.await_rebuild(std::slice::from_ref(&parsed), request)
                    .await;
                let mut begun = self.start(parsed, &admitted, request, wakeups);
                let report = self.await_report(&mut begun, request).await;
                // Most are sent, and confirmed: each request carries no more than it needs for that.
                PipelineAnswer::One(match self.on_report(begun, report, request) {
                    EventStage::Finished(verdict) => verdict,
                    slow => self.finish(slow, request, wakeups).await,
                })
            }
            Ok(ParsedBody::Array(items)) => {
                let admitted = permit.take_events(items.len());
                PipelineAnswer::Many(self.process_batch(items, admitted, request, wakeups).await)
            }
        }
    }

    /// An array's events. Boxed, as all is that few requests need: each request carries the future of [`Self::process`].
    fn process_batch<'f, 'b: 'f>(
        &'b self,
        items: Vec<Result<Event<'b>, RejectedItem<'b>>>,
        admitted: Result<(), Rejection>,
        request: &'f PipelineRequest<'b>,
        wakeups: &'f Arc<WakerQueue>,
    ) -> LocalBoxFuture<'f, Vec<ItemVerdict<'b>>> {
        Box::pin(async move {
            self.await_rebuild(&items, request).await;
            let begun: Vec<_> = items
                .into_iter()
                .map(|parsed| self.start(parsed, &admitted, request, wakeups))
                .collect();
            if begun.iter().any(EventStage::is_slow) {
                // Side by side: one that waits must not keep those behind it from being claimed and sent.
                let finished = begun.into_iter().map(|b| self.finish(b, request, wakeups));
                return join_all(finished).await;
            }
            let mut confirmed = Vec::with_capacity(begun.len());
            for mut begun in begun {
                let report = self.await_report(&mut begun, request).await;
                confirmed.push(self.on_report(begun, report, request));
            }
            if confirmed.iter().any(EventStage::is_slow) {
                let finished = confirmed.into_iter();
                return join_all(finished.map(|b| self.finish(b, request, wakeups))).await;
            }
            let verdicts = confirmed.into_iter().map(|begun| match begun {
                EventStage::Finished(verdict) => verdict,
                _ => unreachable!("nothing is slow"),
            });
            verdicts.collect()
        })
    }

    /// Just after a start: until it is known what was stored before.
    async fn await_rebuild(
        &self,
        parsed: &[Result<Event<'_>, RejectedItem<'_>>],
        request: &PipelineRequest<'_>,
    ) {
        if let Some(deduplicator) = self.deduplicator.as_ref().filter(|desk| !desk.is_rebuilt()) {
            let types = parsed.iter().flatten().map(Event::event_type);
            let out_of_reach = self.is_kafka_unreachable();
            let types = types.filter(|_| !out_of_reach);
            Box::pin(deduplicator.wait_until_restored(types, request.deadline)).await;
        }
    }

    /// Whether Kafka was never heard of since the start: what is to go to the spool need not wait for what cannot be read.
    fn is_kafka_unreachable(&self) -> bool {
        self.spool.is_some()
            && self.contact.age().is_none()
            && self.started_at.elapsed() >= FIRST_CONTACT_TIMEOUT
    }

    /// Counts an event in, claims it and hands it to Kafka; waits for nothing.
    fn start<'b>(
        &'b self,
        parsed: Result<Event<'b>, RejectedItem<'b>>,
        admitted: &Result<(), Rejection>,
        request: &PipelineRequest<'_>,
        wakeups: &Arc<WakerQueue>,
    ) -> EventStage<'b> {
        let event = match parsed {
            Ok(event) => event,
            Err(refused) => {
                let invalid = Box::new(QuarantineCandidate::from_item(refused));
                return EventStage::Rejected(invalid, admitted.clone());
            }
        };
        let received = self
            .metrics
            .count_received(Some(event.event_type()), request.received_at);
        if let Err(rejection) = admitted {
            return EventStage::with_outcome(event, Err(self.refuse(received, rejection.clone())));
        }
        match &self.deduplicator {
            None => self.publish(event, received, None, MarkSet::default(), request, wakeups),
            Some(deduplicator) => {
                let facts = self.build_facts(&event, request);
                match deduplicator.try_claim(&facts, Instant::now()) {
                    Ok(claimed) => self.on_claim(event, received, claimed, request, wakeups),
                    Err(turn) => EventStage::AwaitingClaim {
                        event,
                        received,
                        waiter: turn,
                    },
                }
            }
        }
    }

    fn build_facts<'e>(
        &self,
        event: &'e Event<'_>,
        request: &PipelineRequest<'_>,
    ) -> EventFacts<'e> {
        let plausible = self
            .stamping
            .is_plausible(event.timestamp_ms(), request.received_at);
        EventFacts::from_event(event, plausible)
    }

    /// An event whose claim was decided.
    fn on_claim<'b>(
        &'b self,
        event: Event<'b>,
        received: PendingOutcome<'b>,
        claimed: Decision,
        request: &PipelineRequest<'_>,
        wakeups: &Arc<WakerQueue>,
    ) -> EventStage<'b> {
        match claimed {
            Decision::Publish(claim) => {
                let marks = MarkSet {
                    unchecked: claim.is_unchecked(),
                    ..claim.marks().into()
                };
                self.publish(event, received, Some(claim), marks, request, wakeups)
            }
            Decision::Duplicate { kind, storage } => {
                let spooled = storage.is_spooled();
                self.metrics.count_duplicate(event.event_type(), kind);
                received.record(EventOutcome::Duplicate);
                EventStage::with_outcome(event, Ok(Acknowledgement::Duplicate { kind, spooled }))
            }
        }
    }

    /// Hands an event to Kafka, or says why that cannot be. Where there is a spool, that is where it goes then.
    fn publish<'b>(
        &'b self,
        event: Event<'b>,
        received: PendingOutcome<'b>,
        claim: Option<Claim>,
        marks: MarkSet,
        request: &PipelineRequest<'_>,
        wakeups: &Arc<WakerQueue>,
    ) -> EventStage<'b> {
        let destination = Destination::Events(event.event_type());
        if let Some(spool) = &self.spool {
            match spool.route(destination) {
                Route::Direct => {}
                Route::Spool => {
                    return UnpublishedEvent::new_stage(event, received, claim, marks, None);
                }
                Route::Wait(passage) => {
                    return UnpublishedEvent::new_stage(
                        event,
                        received,
                        claim,
                        marks,
                        Some(passage),
                    );
                }
            }
        }
        let lane = &self.lanes[destination.index()];
        let at = Instant::now();
        match self.try_publish(&event, lane, claim, request, wakeups) {
            Ok(delivery) => EventStage::AwaitingReport(InFlightEvent {
                event,
                received,
                lane,
                delivery,
                marks,
                sent_at: at,
            }),
            Err(unqueued) if self.is_spoolable(&unqueued.reason) => {
                UnpublishedEvent::new_stage(event, received, unqueued.claim, marks, None)
            }
            Err(unqueued) => {
                // Whoever waits for the event takes its place, and before the answer.
                drop(unqueued.claim);
                EventStage::with_outcome(event, Err(self.refuse(received, unqueued.reason)))
            }
        }
    }

    fn try_publish(
        &self,
        event: &Event<'_>,
        lane: &Arc<TopicLane>,
        claim: Option<Claim>,
        request: &PipelineRequest<'_>,
        wakeups: &Arc<WakerQueue>,
    ) -> Result<PendingDelivery, Box<QueueError>> {
        let permit = match lane.acquire_permit(event.raw().len()) {
            Ok(permit) => permit,
            Err(why) => return Err(Box::new(QueueError { reason: why, claim })),
        };
        // Published the moment it was received, but for what was kept aside before: an event never waits longer for another
        // than an answer may take.
        let received_at = request.received_at;
        let now = match request.replayed_from {
            None => received_at,
            Some(_) => SystemTime::now(),
        };
        let origin = PublishOrigin {
            spooled: false,
            replayed_from: request.replayed_from,
        };
        let marks = claim.as_ref().map(Claim::marks);
        let topic = lane.topic();
        let record = ProducerRecord::from_event(
            event,
            topic,
            self.stamping,
            marks,
            received_at,
            now,
            origin,
        );
        let replaced = record.timestamp_replacement;
        let keeping = self.spool.is_some();
        let delivery = self
            .producer
            .send(record, permit, claim, keeping, wakeups)?;
        if let Some(reason) = replaced {
            self.metrics
                .count_timestamp_replacement(event.event_type(), reason);
        }
        Ok(delivery)
    }

    /// Waits for what an event still needs and counts it out. Boxed: few events need more than Kafka's word.
    fn finish<'f, 'b: 'f>(
        &'b self,
        mut begun: EventStage<'b>,
        request: &'f PipelineRequest<'b>,
        wakeups: &'f Arc<WakerQueue>,
    ) -> LocalBoxFuture<'f, ItemVerdict<'b>> {
        Box::pin(async move {
            loop {
                begun = match begun {
                    EventStage::Finished(verdict) => return verdict,
                    EventStage::AwaitingReport(_) => {
                        let report = self.await_report(&mut begun, request).await;
                        self.on_report(begun, report, request)
                    }
                    EventStage::AwaitingClaim {
                        event,
                        received,
                        waiter: turn,
                    } => {
                        self.await_claim(event, received, turn, request, wakeups)
                            .await
                    }
                    EventStage::AwaitingSpool(unsent) => {
                        self.spool_event(unsent, request, wakeups).await
                    }
                    EventStage::Rejected(invalid, admitted) => {
                        return self.quarantine(*invalid, admitted, request, wakeups).await;
                    }
                };
            }
        })
    }

    /// Kafka's word on an event that was handed to it, waited for as long as it may take; `None`: there was none in time.
    async fn await_report(
        &self,
        begun: &mut EventStage<'_>,
        request: &PipelineRequest<'_>,
    ) -> Option<DeliveryReport> {
        let EventStage::AwaitingReport(sent) = begun else {
            return None;
        };
        let until = match &self.spool {
            None => request.deadline,
            Some(_) => self.confirm_deadline(sent.sent_at, request),
        };
        match timeout_at(until.into(), &mut sent.delivery).await {
            Ok(report) => Some(report),
            Err(_) if self.spool.is_some() => None,
            Err(_) => sent.delivery.abandon(),
        }
    }

    /// Until when Kafka is waited for, where there is a spool: the disk needs its time, too.
    fn confirm_deadline(&self, sent: Instant, request: &PipelineRequest<'_>) -> Instant {
        let latest = request.deadline.checked_sub(self.spool_reserve);
        (sent + self.confirm_within).min(latest.unwrap_or(sent))
    }

    /// Counts an event that was handed to Kafka out by its word; see [`Self::hear`].
    fn on_report<'b>(
        &self,
        begun: EventStage<'b>,
        report: Option<DeliveryReport>,
        request: &PipelineRequest<'_>,
    ) -> EventStage<'b> {
        let sent = match begun {
            EventStage::AwaitingReport(sent) => sent,
            other => return other,
        };
        let rejection = match report {
            Some(DeliveryReport::Stored(receipt)) => {
                let (event, topic) = (sent.event, sent.lane.topic());
                let stored = self.record_published(
                    &event,
                    topic,
                    receipt,
                    sent.marks,
                    sent.sent_at,
                    request,
                );
                sent.received.record(EventOutcome::Published);
                return EventStage::with_outcome(event, Ok(Acknowledgement::Published(stored)));
            }
            Some(DeliveryReport::Failed(code)) => {
                if code == RDKafkaErrorCode::TopicAuthorizationFailed {
                    sent.lane.deny();
                }
                rejection_for_code(code, sent.event.raw().len())
            }
            Some(DeliveryReport::ImplicitAck) | None => Rejection::KafkaUnconfirmed,
        };
        if self.is_spoolable(&rejection) {
            return self.on_unconfirmed(sent, request);
        }
        let InFlightEvent {
            event,
            received,
            delivery,
            ..
        } = sent;
        // A claim that came back with a failure is decided, before the answer.
        drop(delivery);
        EventStage::with_outcome(event, Err(self.refuse(received, rejection)))
    }

    /// Whether an event that Kafka did not take for this reason is kept on disk. Not one that it never will.
    fn is_spoolable(&self, rejection: &Rejection) -> bool {
        self.spool.is_some() && !matches!(rejection, Rejection::EventTooLarge { .. })
    }

    /// Waits for the verdict on an event.
    async fn await_claim<'b>(
        &'b self,
        event: Event<'b>,
        received: PendingOutcome<'b>,
        turn: Option<ClaimWaiter>,
        request: &PipelineRequest<'_>,
        wakeups: &Arc<WakerQueue>,
    ) -> EventStage<'b> {
        let deduplicator = self
            .deduplicator
            .as_ref()
            .expect("only a desk leaves undecided");
        let facts = self.build_facts(&event, request);
        let claimed = deduplicator.claim(&facts, turn, request.deadline);
        match claimed.await {
            Some(claimed) => self.on_claim(event, received, claimed, request, wakeups),
            None => {
                let rejection = self.refuse(received, Rejection::KafkaUnconfirmed);
                EventStage::with_outcome(event, Err(rejection))
            }
        }
    }

    /// Counts a refused event out, with the problem and each mistake by its code.
    fn refuse(&self, received: PendingOutcome<'_>, rejection: Rejection) -> Rejection {
        received.record(EventOutcome::Refused);
        self.count_rejection(&rejection);
        rejection
    }

    fn count_rejection(&self, rejection: &Rejection) {
        self.metrics.count_rejection(rejection.code());
        if let Rejection::InvalidEvent(mistakes) = rejection {
            for mistake in mistakes {
                self.metrics.count_field_error(mistake.code.as_str());
            }
        }
    }
}

/// An event between its two halves.
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the common one; boxing it would cost each good event an allocation"
)]
enum EventStage<'b> {
    /// Whether it is new is not known yet.
    AwaitingClaim {
        event: Event<'b>,
        received: PendingOutcome<'b>,
        waiter: Option<ClaimWaiter>,
    },
    /// Kafka has been handed it.
    AwaitingReport(InFlightEvent<'b>),
    /// Kafka does not take it now: it is to be kept on disk.
    AwaitingSpool(Box<UnpublishedEvent<'b>>),
    /// It is none that is valid; whether there was room for it.
    Rejected(Box<QuarantineCandidate<'b>>, Result<(), Rejection>),
    /// Nothing is left to wait for.
    Finished(ItemVerdict<'b>),
}

/// An event on its way to Kafka.
struct InFlightEvent<'b> {
    event: Event<'b>,
    received: PendingOutcome<'b>,
    lane: &'b Arc<TopicLane>,
    delivery: PendingDelivery,
    marks: MarkSet,
    sent_at: Instant,
}

impl<'b> EventStage<'b> {
    fn with_outcome(event: Event<'b>, outcome: Result<Acknowledgement<'b>, Rejection>) -> Self {
        EventStage::Finished(ItemVerdict {
            event: Some(event),
            outcome,
            quarantined: false,
        })
    }

    /// Whether it waits for something else than Kafka's word.
    fn is_slow(&self) -> bool {
        !matches!(
            self,
            EventStage::AwaitingReport(_) | EventStage::Finished(_)
        )
    }
}
