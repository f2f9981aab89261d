//! Spool fallback: stores on disk what Kafka does not take now. The spool publishes it later.

use std::borrow::Cow;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use tokio::time::timeout_at;

use super::publish::UnpublishedRecord;
use super::{Acknowledgement, EventStage, RequestScope};
use crate::marks::MarkSet;
use crate::metrics::{EventOutcome, PendingOutcome};
use crate::rejection::Rejection;
use crate::spool::entry::{EntryContent, SpoolEntry};
use crate::spool::{AppendError, NewEntry};
use butlr_event::Event;
use butlr_event::clock::unix_ms;
use butlr_event::destination::Destination;

/// An event that Kafka does not take now.
pub(super) struct UnpublishedEvent<'b> {
    pub event: Event<'b>,
    pub received: PendingOutcome<'b>,
    pub marks: MarkSet,
    pub record: Box<UnpublishedRecord>,
}

impl<'s, 'b> RequestScope<'s, 'b> {
    /// Stores an event on disk, or publishes it after all if the backlog before it clears in time.
    pub(super) fn spool(
        self,
        unpublished: Box<UnpublishedEvent<'b>>,
    ) -> LocalBoxFuture<'s, EventStage<'b>> {
        Box::pin(async move {
            let UnpublishedEvent {
                event,
                received,
                marks,
                mut record,
            } = *unpublished;
            if let Some(cleared) = record.backlog_cleared.take() {
                let until = self.confirm_deadline(Instant::now());
                if timeout_at(until.into(), cleared).await.is_ok() && Instant::now() < until {
                    return self.publish(event, received, record.claim, marks);
                }
            }
            let claim_marks = record.claim.as_ref().map(|claim| claim.marks().clone());
            let content = EntryContent::Event {
                marks: claim_marks.unwrap_or_default(),
                replayed_from: self.request.replayed_from.cloned(),
            };
            let to = Destination::Events(event.event_type());
            match self
                .append_to_spool(to, content, event.raw(), *record)
                .await
            {
                Ok(()) => {
                    self.pipeline.metrics.count_marks(event.event_type(), marks);
                    received.record(EventOutcome::Spooled);
                    EventStage::with_outcome(event, Ok(Acknowledgement::Spooled))
                }
                Err(rejection) => self.refuse_event(event, received, rejection),
            }
        })
    }

    /// Waits until an entry is on disk. The spool decides the claim from here on.
    pub(super) async fn append_to_spool(
        self,
        to: Destination,
        content: EntryContent,
        value: &[u8],
        record: UnpublishedRecord,
    ) -> Result<(), Rejection> {
        let spool = self.pipeline.spool.as_ref();
        let spool = spool.expect("a record is unpublished only if there is a spool");
        let entry = SpoolEntry {
            received_ms: unix_ms(self.request.received_at),
            in_doubt: record.in_doubt.is_some(),
            content,
            value: Cow::Borrowed(value),
        };
        let entry = NewEntry {
            to,
            bytes: entry.encode(),
        };
        let append = spool.append(entry, record.claim, record.in_doubt);
        match timeout_at(self.request.deadline.into(), append).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(AppendError::Full { .. })) => Err(Rejection::SpoolFull),
            Ok(Err(AppendError::Unwritable { .. } | AppendError::Ending)) => {
                Err(Rejection::SpoolUnwritable)
            }
            Err(_) => Err(Rejection::SpoolUnconfirmed),
        }
    }
}
