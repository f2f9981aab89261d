//! The quarantine: a rejected item may be a new format of the sender, so it is published to a topic
//! of its own before the request is refused.

use std::borrow::Cow;

use futures_util::future::LocalBoxFuture;

use super::publish::PublishError;
use super::{Acknowledgement, ItemVerdict, PipelineRequest, RequestScope};
use crate::config::{QuarantineAnswer, RECORD_OVERHEAD};
use crate::dedup::deduplicator::Decision;
use crate::metrics::EventOutcome;
use crate::provenance::QuarantineDetails;
use crate::record::{ProducerRecord, PublishContext};
use crate::rejection::Rejection;
use crate::spool::entry::EntryContent;
use butlr_event::destination::Destination;
use butlr_event::{EventType, RejectedItem, UnreadableBody};

/// Largest quarantined item: librdkafka's limit for one record, less key and headers.
const MAX_QUARANTINED_BYTES: usize = 1_000_000 - RECORD_OVERHEAD;

/// Largest description of the field errors in a record header.
const MAX_DETAIL_BYTES: usize = 2048;

/// Longest claimed type that is recorded.
const MAX_TYPE_BYTES: usize = 256;

/// An item, or a whole body, that is not a valid event.
pub(super) struct QuarantineCandidate<'b> {
    /// Its bytes as received; `None` if it is too large.
    raw: Option<&'b [u8]>,
    /// Known event type that it claims to have.
    event_type: Option<EventType>,
    rejection: Rejection,
}

impl<'b> QuarantineCandidate<'b> {
    /// A body that cannot be parsed.
    pub fn from_body(body: &'b [u8], unreadable: UnreadableBody) -> Self {
        Self {
            raw: Some(body),
            event_type: None,
            rejection: Rejection::UnreadableBody(unreadable),
        }
    }

    /// An item of a body.
    pub fn from_item(item: RejectedItem<'b>) -> Self {
        let raw = match &item {
            RejectedItem::Invalid { raw, .. } => Some(raw.as_bytes()),
            RejectedItem::TooLarge { .. } => None,
        };
        let (event_type, rejection) = Rejection::of_item(item);
        Self {
            raw,
            event_type,
            rejection,
        }
    }

    /// Type that the item claims to have, even if unknown: the sender may have a new one.
    fn claimed_type(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct TypeField<'c> {
            #[serde(borrow)]
            r#type: Cow<'c, str>,
        }
        if let Some(claimed) = self.event_type {
            return Some(claimed.name().to_owned());
        }
        let claimed: TypeField<'_> = serde_json::from_slice(self.raw?).ok()?;
        let claimed = claimed.r#type;
        let is_recorded = claimed.len() <= MAX_TYPE_BYTES && !claimed.contains(char::is_control);
        is_recorded.then(|| claimed.into_owned())
    }

    fn build_details(&self, request: &PipelineRequest<'_>) -> QuarantineDetails {
        let (codes, detail) = match &self.rejection {
            Rejection::InvalidEvent(errors) => {
                let mut codes: Vec<String> = Vec::new();
                for code in errors.iter().map(|error| error.code.as_str()) {
                    if !codes.iter().any(|known| known == code) {
                        codes.push(code.to_owned());
                    }
                }
                let details: Vec<_> = errors.iter().map(ToString::to_string).collect();
                (codes, details.join("; "))
            }
            other => (vec![other.code().to_owned()], other.detail()),
        };
        QuarantineDetails {
            codes,
            detail: truncate_detail(detail),
            path: request.details.path(),
            credential: request.details.credential(),
            claimed_type: self.claimed_type(),
            content_type: request.details.content_type(),
        }
    }
}

fn truncate_detail(mut text: String) -> String {
    if text.len() > MAX_DETAIL_BYTES {
        let end = (0..=MAX_DETAIL_BYTES)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

impl<'s, 'b> RequestScope<'s, 'b> {
    /// Counts a rejected item as received, quarantines it and counts its outcome.
    pub(super) fn quarantine(
        self,
        candidate: QuarantineCandidate<'b>,
        admission: Result<(), Rejection>,
    ) -> LocalBoxFuture<'s, ItemVerdict<'b>> {
        let pipeline = self.pipeline;
        let received = pipeline
            .metrics
            .count_received(candidate.event_type, self.request.received_at);
        let verdict = |outcome, quarantined| ItemVerdict {
            event: None,
            outcome,
            quarantined,
        };
        Box::pin(async move {
            let is_enabled = pipeline.quarantine.keep;
            let fits = |raw: &&[u8]| is_enabled && raw.len() <= MAX_QUARANTINED_BYTES;
            let Some(raw) = candidate.raw.filter(fits) else {
                let rejection = self.refuse(received, candidate.rejection);
                return verdict(Err(rejection), false);
            };
            let stored = match admission {
                Ok(()) => self.store_quarantined(&candidate, raw).await,
                Err(rejection) => Err(rejection),
            };
            if let Err(error) = stored {
                let rejection = match error {
                    // A retry would be of no use.
                    Rejection::EventTooLarge { .. } => candidate.rejection,
                    // The sender may retry; it learns what is wrong with the item once that is
                    // stored.
                    retriable => retriable,
                };
                return verdict(Err(self.refuse(received, rejection)), false);
            }
            received.record(EventOutcome::Quarantined);
            self.count_rejection(&candidate.rejection);
            let outcome = match pipeline.quarantine.answer {
                QuarantineAnswer::Reject => Err(candidate.rejection),
                QuarantineAnswer::Accept => {
                    Ok(Acknowledgement::Quarantined(Box::new(candidate.rejection)))
                }
            };
            verdict(outcome, true)
        })
    }

    /// Publishes or spools a rejected item; the same bytes only once.
    async fn store_quarantined(
        self,
        candidate: &QuarantineCandidate<'_>,
        raw: &[u8],
    ) -> Result<(), Rejection> {
        let PipelineRequest {
            received_at,
            deadline,
            ..
        } = *self.request;
        let claim = match &self.pipeline.deduplicator {
            None => None,
            Some(deduplicator) => match deduplicator.claim_rejected_item(raw, deadline).await {
                None => return Err(Rejection::KafkaUnconfirmed),
                Some(Decision::Duplicate { .. }) => return Ok(()),
                Some(Decision::Publish(claim)) => Some(claim),
            },
        };
        let details = candidate.build_details(self.request);
        let to = Destination::Quarantine;
        let policy = self.pipeline.timestamp_policy;
        let sent = self.send(to, raw.len(), claim, |topic, _| {
            let context = PublishContext {
                topic,
                policy,
                received_at,
                now: received_at,
                is_spooled: false,
                replayed_from: None,
            };
            ProducerRecord::from_quarantined(&details, raw, context)
        });
        let published = match sent {
            Ok(mut sent) => {
                let outcome = self.await_outcome(&mut sent).await;
                self.on_outcome(sent, outcome)
            }
            Err(error) => Err(error),
        };
        match published {
            Ok(_) => Ok(()),
            Err(PublishError::Refused(rejection)) => Err(rejection),
            Err(PublishError::Unpublished(record)) => {
                let content = EntryContent::Quarantined(details);
                self.append_to_spool(to, content, raw, *record).await
            }
        }
    }
}
