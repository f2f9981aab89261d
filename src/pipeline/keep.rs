//! What Kafka does not take now is kept on disk; the spool hands it over later.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use tokio::time::timeout_at;

use super::{Begun, Pipeline, Promise, Request, Sent, Stored};
use crate::dedup::claim::Claim;
use crate::kafka::report::{Ended, Receipt, Report, Slot, Wakeups, is_certain};
use crate::marks::MarkSet;
use crate::metrics::{EventOutcome, PendingOutcome};
use crate::rejection::Rejection;
use crate::spool::entry::{Content, Entry};
use crate::spool::{NewEntry, NotKept, Passage};
use butlr_event::Event;
use butlr_event::clock::unix_ms;
use butlr_event::destination::Destination;

/// An event that Kafka does not take now.
pub(super) struct Unsent<'b> {
    event: Event<'b>,
    received: PendingOutcome<'b>,
    claim: Option<Claim>,
    marks: MarkSet,
    /// What it waits for is nearly over: then it can be sent.
    passage: Option<Passage>,
    /// It was handed to Kafka, and may be stored any time.
    doubt: Option<Arc<Slot>>,
}

impl<'b> Unsent<'b> {
    pub fn begun(
        event: Event<'b>,
        received: PendingOutcome<'b>,
        claim: Option<Claim>,
        marks: MarkSet,
        passage: Option<Passage>,
    ) -> Begun<'b> {
        Begun::Unsent(Box::new(Self {
            event,
            received,
            claim,
            marks,
            passage,
            doubt: None,
        }))
    }
}

impl Pipeline {
    /// An event that Kafka did not confirm.
    pub(super) fn unsent<'b>(&self, sent: Sent<'b>, request: &Request<'_>) -> Begun<'b> {
        let Sent {
            event,
            received,
            lane,
            delivery,
            marks,
            at,
        } = sent;
        let (claim, doubt) = match delivery.end() {
            // In the last moment.
            Ended::Reported(Report::Stored(receipt), ..) => {
                let stored = self.published(&event, lane.topic(), receipt, marks, at, request);
                received.record(EventOutcome::Published);
                return Begun::ended(event, Ok(Promise::Published(stored)));
            }
            Ended::Reported(Report::Failed(code), _, claim) if is_certain(code) => (claim, None),
            // It failed, and may be stored all the same.
            Ended::Reported(Report::Failed(_) | Report::Presumed, slot, claim) => {
                lane.open_circuit();
                (claim, Some(slot))
            }
            Ended::InDoubt(slot, claim) => {
                lane.open_circuit();
                (claim, Some(slot))
            }
        };
        Begun::Unsent(Box::new(Unsent {
            event,
            received,
            claim,
            marks,
            passage: None,
            doubt,
        }))
    }

    /// Counts what Kafka has stored, all but its outcome.
    pub(super) fn published<'t>(
        &self,
        event: &Event<'_>,
        topic: &'t str,
        receipt: Receipt,
        marks: MarkSet,
        sent: Instant,
        request: &Request<'_>,
    ) -> Stored<'t> {
        let event_type = event.event_type();
        let (time, received) = (event.timestamp_ms(), request.received_at);
        self.metrics
            .record_published(event_type, time, received, sent.elapsed());
        self.metrics.count_marks(event_type, marks);
        Stored {
            topic,
            partition: receipt.partition(),
            offset: receipt.offset(),
        }
    }

    /// Stores an event on disk, or hands it to Kafka after all, if that takes events again in a moment.
    pub(super) fn keep<'f, 'b: 'f>(
        &'b self,
        unsent: Box<Unsent<'b>>,
        request: &'f Request<'b>,
        wakeups: &'f Arc<Wakeups>,
    ) -> LocalBoxFuture<'f, Begun<'b>> {
        Box::pin(async move {
            let Unsent {
                event,
                received,
                claim,
                marks,
                passage,
                doubt,
            } = *unsent;
            if let Some(passage) = passage {
                let until = self.confirm_until(Instant::now(), request);
                if timeout_at(until.into(), passage).await.is_ok() && Instant::now() < until {
                    return self.send(event, received, claim, marks, request, wakeups);
                }
            }
            let stored = claim.as_ref().map(|claim| claim.marks().clone());
            let content = Content::Event {
                marks: stored.unwrap_or_default(),
                replayed_from: request.replayed_from.cloned(),
            };
            let to = Destination::Events(event.event_type());
            let raw = event.raw();
            let kept = self.spooled(to, content, raw, claim, doubt, request).await;
            let outcome = match kept {
                Ok(()) => {
                    self.metrics.count_marks(event.event_type(), marks);
                    received.record(EventOutcome::Spooled);
                    Ok(Promise::Spooled)
                }
                Err(rejection) => Err(self.refuse(received, rejection)),
            };
            Begun::ended(event, outcome)
        })
    }

    /// Waits until an entry is on disk. Its claim is the spool's from here on.
    pub(super) async fn spooled(
        &self,
        to: Destination,
        content: Content,
        value: &[u8],
        claim: Option<Claim>,
        doubt: Option<Arc<Slot>>,
        request: &Request<'_>,
    ) -> Result<(), Rejection> {
        let spool = self.spool.as_ref().expect("asked for only where it is");
        let entry = Entry {
            received_ms: unix_ms(request.received_at),
            in_doubt: doubt.is_some(),
            content,
            value: Cow::Borrowed(value),
        };
        let entry = NewEntry {
            to,
            bytes: entry.encode(),
        };
        let keeping = spool.keep(entry, claim, doubt);
        match timeout_at(request.deadline.into(), keeping).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotKept::Full { .. })) => Err(Rejection::SpoolFull),
            Ok(Err(NotKept::Unwritable { .. } | NotKept::Ending)) => {
                Err(Rejection::SpoolUnwritable)
            }
            Err(_) => Err(Rejection::SpoolUnconfirmed),
        }
    }
}
