//! Delivery reports: waits for them and acts on their outcomes.

use std::time::Instant;

use rdkafka::types::RDKafkaErrorCode;
use tokio::time::timeout_at;

use super::publish::{PublishError, SentRecord, UnpublishedRecord};
use super::{Acknowledgement, EventStage, InFlightEvent, RequestScope, StoredPosition};
use crate::delivery::DeliveryEnd;
use crate::kafka::producer::rejection_for_code;
use crate::kafka::report::{DeliveryOutcome, Receipt};
use crate::metrics::EventOutcome;
use crate::rejection::Rejection;

impl<'b> RequestScope<'_, 'b> {
    /// Waits for the delivery report of an event that was handed to Kafka. Takes an event's stage;
    /// `await_outcome` takes a record.
    pub(super) async fn await_report(self, stage: &mut EventStage<'b>) -> DeliveryOutcome {
        match stage {
            EventStage::AwaitingReport(event) => self.await_outcome(&mut event.sent).await,
            // Unused for other stages: `on_report` returns them unchanged.
            _ => DeliveryOutcome::Unknown(None),
        }
    }

    /// Waits for a record's delivery report. Takes any record, also a quarantined item's;
    /// `await_report` takes an event. The outcome is unknown if none arrives in time.
    pub(super) async fn await_outcome(self, sent: &mut SentRecord<'b>) -> DeliveryOutcome {
        let until = self.confirm_deadline(sent.sent_at);
        match timeout_at(until.into(), &mut sent.delivery).await {
            Ok(outcome) => outcome,
            Err(_) if self.pipeline.spool.is_some() => DeliveryOutcome::Unknown(None),
            Err(_) => {
                let outcome = sent.delivery.abandon();
                outcome.unwrap_or(DeliveryOutcome::Unknown(None))
            }
        }
    }

    /// Latest time to wait for a delivery report. With a spool, the disk needs part of the time
    /// until the response deadline.
    pub(super) fn confirm_deadline(self, sent_at: Instant) -> Instant {
        let deadline = self.request.deadline;
        if self.pipeline.spool.is_none() {
            return deadline;
        }
        let latest = deadline.checked_sub(self.pipeline.spool_reserve);
        (sent_at + self.pipeline.confirm_within).min(latest.unwrap_or(sent_at))
    }

    /// Acts on the outcome of an event that was handed to Kafka. Takes an event's stage;
    /// `on_outcome` takes a record.
    pub(super) fn on_report(
        self,
        stage: EventStage<'b>,
        outcome: DeliveryOutcome,
    ) -> EventStage<'b> {
        let InFlightEvent {
            event,
            received,
            marks,
            sent,
        } = match stage {
            EventStage::AwaitingReport(event) => event,
            other => return other,
        };
        let (topic, sent_at) = (sent.lane.topic(), sent.sent_at);
        match self.on_outcome(sent, outcome) {
            Ok(receipt) => {
                let (event_type, time) = (event.event_type(), event.timestamp_ms());
                let metrics = &self.pipeline.metrics;
                let received_at = self.request.received_at;
                metrics.record_published(event_type, time, received_at, sent_at.elapsed());
                metrics.count_marks(event_type, marks);
                received.record(EventOutcome::Published);
                let stored = StoredPosition {
                    topic,
                    partition: receipt.partition(),
                    offset: receipt.offset(),
                };
                EventStage::with_outcome(event, Ok(Acknowledgement::Published(stored)))
            }
            Err(error) => self.on_publish_error(event, received, marks, error),
        }
    }

    /// Acts on the outcome of a delivery. Takes any record, also a quarantined item's; `on_report`
    /// takes an event.
    pub(super) fn on_outcome(
        self,
        sent: SentRecord<'b>,
        outcome: DeliveryOutcome,
    ) -> Result<Receipt, PublishError> {
        let rejection = match outcome {
            DeliveryOutcome::Stored(receipt) => return Ok(receipt),
            DeliveryOutcome::Rejected(code) | DeliveryOutcome::Unknown(Some(code)) => {
                if code == RDKafkaErrorCode::TopicAuthorizationFailed {
                    sent.lane.mark_forbidden();
                }
                rejection_for_code(code, sent.value_bytes)
            }
            DeliveryOutcome::Unknown(None) => Rejection::KafkaUnconfirmed,
        };
        if !self.is_spoolable(&rejection) {
            // Decides a claim that came back with a failure, before the response.
            drop(sent.delivery);
            return Err(PublishError::Refused(rejection));
        }
        let (claim, in_doubt) = match sent.delivery.end() {
            // Reported at the last moment.
            DeliveryEnd::Stored(receipt) => return Ok(receipt),
            DeliveryEnd::Rejected(claim) => (claim, None),
            DeliveryEnd::InDoubt(record, claim) => {
                sent.lane.open_circuit();
                (claim, Some(record))
            }
        };
        Err(PublishError::Unpublished(Box::new(UnpublishedRecord {
            claim,
            in_doubt,
            backlog_cleared: None,
        })))
    }
}
