//! Publishing: hands a record to Kafka, for events and quarantined items alike.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::spool_fallback::UnpublishedEvent;
use super::{EventStage, InFlightEvent, RequestScope};
use crate::dedup::claim::Claim;
use crate::delivery::{InFlightRecord, OnFailure, PendingDelivery};
use crate::kafka::lane::TopicLane;
use crate::marks::{MarkSet, Marks};
use crate::metrics::PendingOutcome;
use crate::record::{ProducerRecord, PublishContext};
use crate::rejection::Rejection;
use crate::spool::{BacklogCleared, Route};
use butlr_event::Event;
use butlr_event::destination::Destination;

/// A record that was handed to Kafka.
pub(super) struct SentRecord<'b> {
    pub lane: &'b Arc<TopicLane>,
    pub delivery: PendingDelivery,
    pub sent_at: Instant,
    pub value_bytes: usize,
}

/// Reason why Kafka does not have a record.
pub(super) enum PublishError {
    /// Kafka does not take the record now, so it goes to the spool.
    Unpublished(Box<UnpublishedRecord>),
    /// The record is refused.
    Refused(Rejection),
}

/// A record that Kafka does not take now.
pub(super) struct UnpublishedRecord {
    pub claim: Option<Claim>,
    /// The delivery of the record, which Kafka may still store.
    pub in_doubt: Option<Arc<InFlightRecord>>,
    /// End of a backlog that is almost drained; the record can then be sent after all.
    pub backlog_cleared: Option<BacklogCleared>,
}

impl PublishError {
    fn unpublished(claim: Option<Claim>, backlog_cleared: Option<BacklogCleared>) -> Self {
        PublishError::Unpublished(Box::new(UnpublishedRecord {
            claim,
            in_doubt: None,
            backlog_cleared,
        }))
    }
}

impl<'b> RequestScope<'_, 'b> {
    /// Hands an event to Kafka or decides that it goes to the spool.
    pub(super) fn publish(
        self,
        event: Event<'b>,
        received: PendingOutcome<'b>,
        claim: Option<Claim>,
        marks: MarkSet,
    ) -> EventStage<'b> {
        let to = Destination::Events(event.event_type());
        let sent = self.send(to, event.raw().len(), claim, |topic, marks| {
            self.build_record(&event, topic, marks)
        });
        match sent {
            Ok(sent) => EventStage::AwaitingReport(InFlightEvent {
                event,
                received,
                marks,
                sent,
            }),
            Err(error) => self.on_publish_error(event, received, marks, error),
        }
    }

    pub(super) fn on_publish_error(
        self,
        event: Event<'b>,
        received: PendingOutcome<'b>,
        marks: MarkSet,
        error: PublishError,
    ) -> EventStage<'b> {
        match error {
            PublishError::Unpublished(record) => {
                EventStage::AwaitingSpool(Box::new(UnpublishedEvent {
                    event,
                    received,
                    marks,
                    record,
                }))
            }
            PublishError::Refused(rejection) => self.refuse_event(event, received, rejection),
        }
    }

    fn build_record<'e>(
        self,
        event: &'e Event<'_>,
        topic: &'e str,
        marks: Option<&Marks>,
    ) -> ProducerRecord<'e> {
        let received_at = self.request.received_at;
        let replayed_from = self.request.replayed_from;
        // Publishing an event takes no longer than a response may, so the time of receipt serves as
        // the time of publishing, except for a replayed event.
        let now = match replayed_from {
            None => received_at,
            Some(_) => SystemTime::now(),
        };
        let context = PublishContext {
            topic,
            policy: self.pipeline.timestamp_policy,
            received_at,
            now,
            is_spooled: false,
            replayed_from,
        };
        ProducerRecord::from_event(event, marks, context)
    }

    /// Hands a record to Kafka, unless older entries of its destination wait in the spool.
    pub(super) fn send<'r>(
        self,
        to: Destination,
        value_bytes: usize,
        claim: Option<Claim>,
        build: impl FnOnce(&'b str, Option<&Marks>) -> ProducerRecord<'r>,
    ) -> Result<SentRecord<'b>, PublishError> {
        let pipeline = self.pipeline;
        let spool = pipeline.spool.as_ref();
        match spool.map_or(Route::Direct, |spool| spool.route(to)) {
            Route::Direct => {}
            Route::Spool => return Err(PublishError::unpublished(claim, None)),
            Route::Wait(cleared) => return Err(PublishError::unpublished(claim, Some(cleared))),
        }
        let lane = &pipeline.lanes[to.index()];
        let sent_at = Instant::now();
        let permit = match lane.acquire_permit(value_bytes) {
            Ok(permit) => permit,
            Err(rejection) => return Err(self.unqueued(rejection, claim)),
        };
        let record = build(lane.topic(), claim.as_ref().map(Claim::marks));
        let timestamp_replacement = record.timestamp_replacement;
        let on_failure = match spool {
            Some(_) => OnFailure::ReturnClaim,
            None => OnFailure::ResolveClaim,
        };
        let producer = &pipeline.producer;
        let delivery = producer
            .send(record, permit, claim, on_failure, self.wakers)
            .map_err(|error| self.unqueued(error.reason, error.claim))?;
        if let (Some(reason), Destination::Events(event_type)) = (timestamp_replacement, to) {
            pipeline
                .metrics
                .count_timestamp_replacement(event_type, reason);
        }
        Ok(SentRecord {
            lane,
            delivery,
            sent_at,
            value_bytes,
        })
    }

    /// Classifies a record that could not be queued.
    fn unqueued(self, rejection: Rejection, claim: Option<Claim>) -> PublishError {
        if self.is_spoolable(&rejection) {
            PublishError::unpublished(claim, None)
        } else {
            // Release the claim before the response, so that a waiting copy can be published.
            drop(claim);
            PublishError::Refused(rejection)
        }
    }

    /// Returns `true` if a record that Kafka did not take for this reason goes to the spool. A
    /// record that Kafka will never take does not.
    pub(super) fn is_spoolable(self, rejection: &Rejection) -> bool {
        self.pipeline.spool.is_some() && !matches!(rejection, Rejection::EventTooLarge { .. })
    }
}
