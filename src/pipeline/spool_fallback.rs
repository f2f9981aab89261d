//! What Kafka does not take now is kept on disk; the spool hands it over later.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use tokio::time::timeout_at;

use super::{
    Acknowledgement, EventStage, InFlightEvent, Pipeline, PipelineRequest, StoredPosition,
};
use crate::dedup::claim::Claim;
use crate::kafka::report::{
    DeliveryEnd, DeliveryReport, InFlightRecord, Receipt, WakerQueue, is_certain_rejection,
};
use crate::marks::MarkSet;
use crate::metrics::{EventOutcome, PendingOutcome};
use crate::rejection::Rejection;
use crate::spool::entry::{EntryContent, SpoolEntry};
use crate::spool::{AppendError, BacklogCleared, NewEntry};
use butlr_event::Event;
use butlr_event::clock::unix_ms;
use butlr_event::destination::Destination;

/// An event that Kafka does not take now.
pub(super) struct UnpublishedEvent<'b> {
    event: Event<'b>,
    received: PendingOutcome<'b>,
    claim: Option<Claim>,
    marks: MarkSet,
    /// What it waits for is nearly over: then it can be sent.
    backlog_cleared: Option<BacklogCleared>,
    /// It was handed to Kafka, and may be stored any time.
    in_doubt: Option<Arc<InFlightRecord>>,
}

impl<'b> UnpublishedEvent<'b> {
    pub fn new_stage(
        event: Event<'b>,
        received: PendingOutcome<'b>,
        claim: Option<Claim>,
        marks: MarkSet,
        passage: Option<BacklogCleared>,
    ) -> EventStage<'b> {
        EventStage::AwaitingSpool(Box::new(Self {
            event,
            received,
            claim,
            marks,
            backlog_cleared: passage,
            in_doubt: None,
        }))
    }
}

impl Pipeline {
    /// An event that Kafka did not confirm.
    pub(super) fn on_unconfirmed<'b>(
        &self,
        sent: InFlightEvent<'b>,
        request: &PipelineRequest<'_>,
    ) -> EventStage<'b> {
        let InFlightEvent {
            event,
            received,
            lane,
            delivery,
            marks,
            sent_at: at,
        } = sent;
        let (claim, doubt) = match delivery.end() {
            // In the last moment.
            DeliveryEnd::Reported(DeliveryReport::Stored(receipt), ..) => {
                let stored =
                    self.record_published(&event, lane.topic(), receipt, marks, at, request);
                received.record(EventOutcome::Published);
                return EventStage::with_outcome(event, Ok(Acknowledgement::Published(stored)));
            }
            DeliveryEnd::Reported(DeliveryReport::Failed(code), _, claim)
                if is_certain_rejection(code) =>
            {
                (claim, None)
            }
            // It failed, and may be stored all the same.
            DeliveryEnd::Reported(
                DeliveryReport::Failed(_) | DeliveryReport::ImplicitAck,
                slot,
                claim,
            ) => {
                lane.open_circuit();
                (claim, Some(slot))
            }
            DeliveryEnd::InDoubt(slot, claim) => {
                lane.open_circuit();
                (claim, Some(slot))
            }
        };
        EventStage::AwaitingSpool(Box::new(UnpublishedEvent {
            event,
            received,
            claim,
            marks,
            backlog_cleared: None,
            in_doubt: doubt,
        }))
    }

    /// Counts what Kafka has stored, all but its outcome.
    pub(super) fn record_published<'t>(
        &self,
        event: &Event<'_>,
        topic: &'t str,
        receipt: Receipt,
        marks: MarkSet,
        sent: Instant,
        request: &PipelineRequest<'_>,
    ) -> StoredPosition<'t> {
        let event_type = event.event_type();
        let (time, received) = (event.timestamp_ms(), request.received_at);
        self.metrics
            .record_published(event_type, time, received, sent.elapsed());
        self.metrics.count_marks(event_type, marks);
        StoredPosition {
            topic,
            partition: receipt.partition(),
            offset: receipt.offset(),
        }
    }

    /// Stores an event on disk, or hands it to Kafka after all, if that takes events again in a moment.
    pub(super) fn spool_event<'f, 'b: 'f>(
        &'b self,
        unsent: Box<UnpublishedEvent<'b>>,
        request: &'f PipelineRequest<'b>,
        wakeups: &'f Arc<WakerQueue>,
    ) -> LocalBoxFuture<'f, EventStage<'b>> {
        Box::pin(async move {
            let UnpublishedEvent {
                event,
                received,
                claim,
                marks,
                backlog_cleared: passage,
                in_doubt: doubt,
            } = *unsent;
            if let Some(passage) = passage {
                let until = self.confirm_deadline(Instant::now(), request);
                if timeout_at(until.into(), passage).await.is_ok() && Instant::now() < until {
                    return self.publish(event, received, claim, marks, request, wakeups);
                }
            }
            let stored = claim.as_ref().map(|claim| claim.marks().clone());
            let content = EntryContent::Event {
                marks: stored.unwrap_or_default(),
                replayed_from: request.replayed_from.cloned(),
            };
            let to = Destination::Events(event.event_type());
            let raw = event.raw();
            let kept = self
                .append_to_spool(to, content, raw, claim, doubt, request)
                .await;
            let outcome = match kept {
                Ok(()) => {
                    self.metrics.count_marks(event.event_type(), marks);
                    received.record(EventOutcome::Spooled);
                    Ok(Acknowledgement::Spooled)
                }
                Err(rejection) => Err(self.refuse(received, rejection)),
            };
            EventStage::with_outcome(event, outcome)
        })
    }

    /// Waits until an entry is on disk. Its claim is the spool's from here on.
    pub(super) async fn append_to_spool(
        &self,
        to: Destination,
        content: EntryContent,
        value: &[u8],
        claim: Option<Claim>,
        doubt: Option<Arc<InFlightRecord>>,
        request: &PipelineRequest<'_>,
    ) -> Result<(), Rejection> {
        let spool = self.spool.as_ref().expect("asked for only where it is");
        let entry = SpoolEntry {
            received_ms: unix_ms(request.received_at),
            in_doubt: doubt.is_some(),
            content,
            value: Cow::Borrowed(value),
        };
        let entry = NewEntry {
            to,
            bytes: entry.encode(),
        };
        let append = spool.append(entry, claim, doubt);
        match timeout_at(request.deadline.into(), append).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(AppendError::Full { .. })) => Err(Rejection::SpoolFull),
            Ok(Err(AppendError::Unwritable { .. } | AppendError::Ending)) => {
                Err(Rejection::SpoolUnwritable)
            }
            Err(_) => Err(Rejection::SpoolUnconfirmed),
        }
    }
}
