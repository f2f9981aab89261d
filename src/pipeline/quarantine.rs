//! What is no valid event may be the sender's new format of tomorrow: it is published to a topic of its own before it is
//! refused.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::timeout_at;

use super::{Acknowledgement, ItemVerdict, Pipeline, PipelineRequest};
use crate::config::{QuarantineAnswer, RECORD_OVERHEAD};
use crate::dedup::claim::Claim;
use crate::dedup::deduplicator::Decision;
use crate::kafka::producer::rejection_for_code;
use crate::kafka::report::{
    DeliveryEnd, DeliveryReport, InFlightRecord, WakerQueue, is_certain_rejection,
};
use crate::metrics::EventOutcome;
use crate::provenance::QuarantineDetails;
use crate::record::ProducerRecord;
use crate::rejection::Rejection;
use crate::spool::entry::EntryContent;
use crate::spool::{Route, Spool};
use butlr_event::destination::Destination;
use butlr_event::{EventType, RejectedItem, UnreadableBody};

/// Larger than this nothing is kept: what librdkafka takes for one record, less key and headers.
const MAX_QUARANTINED_BYTES: usize = 1_000_000 - RECORD_OVERHEAD;

/// What a header of a record may say of the mistakes, bytes.
const MAX_DETAIL_BYTES: usize = 2048;

/// A longer type than this is none, bytes.
const MAX_TYPE_BYTES: usize = 256;

/// What is no valid event.
pub(super) struct QuarantineCandidate<'b> {
    /// Its bytes as they were received; `None`: it is too large to be kept.
    raw: Option<&'b [u8]>,
    /// The type it claims to have.
    event_type: Option<EventType>,
    /// What is wrong with it.
    rejection: Rejection,
}

impl<'b> QuarantineCandidate<'b> {
    /// A body that cannot be taken apart.
    pub fn from_body(body: &'b [u8], unreadable: UnreadableBody) -> Self {
        Self {
            raw: Some(body),
            event_type: None,
            rejection: Rejection::UnreadableBody(unreadable),
        }
    }

    /// A body's only item, or one of them.
    pub fn from_item(refused: RejectedItem<'b>) -> Self {
        let raw = match &refused {
            RejectedItem::Invalid { raw, .. } => Some(raw.as_bytes()),
            RejectedItem::TooLarge { .. } => None,
        };
        let (claimed, rejection) = Rejection::of_item(refused);
        Self {
            raw,
            event_type: claimed,
            rejection,
        }
    }

    /// Also where it is none of the ten: a new type of the sender's is to be told apart.
    fn claimed_type(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct TypeField<'c> {
            #[serde(borrow)]
            r#type: Cow<'c, str>,
        }
        if let Some(claimed) = self.event_type {
            return Some(claimed.name().to_owned());
        }
        let claiming: TypeField<'_> = serde_json::from_slice(self.raw?).ok()?;
        let claimed = claiming.r#type;
        let is_decent = claimed.len() <= MAX_TYPE_BYTES && !claimed.contains(char::is_control);
        is_decent.then(|| claimed.into_owned())
    }

    fn build_details(&self, request: &PipelineRequest<'_>) -> QuarantineDetails {
        let (codes, detail) = match &self.rejection {
            Rejection::InvalidEvent(mistakes) => {
                let mut codes: Vec<String> = Vec::new();
                for code in mistakes.iter().map(|mistake| mistake.code.as_str()) {
                    if !codes.iter().any(|known| known == code) {
                        codes.push(code.to_owned());
                    }
                }
                let details: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
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

impl Pipeline {
    /// Counts what is no valid event in, keeps it aside, and counts it out.
    pub(super) fn quarantine<'f, 'b: 'f>(
        &'b self,
        invalid: QuarantineCandidate<'b>,
        admitted: Result<(), Rejection>,
        request: &'f PipelineRequest<'b>,
        wakeups: &'f Arc<WakerQueue>,
    ) -> LocalBoxFuture<'f, ItemVerdict<'b>> {
        let received = self
            .metrics
            .count_received(invalid.event_type, request.received_at);
        let refused = |rejection| ItemVerdict {
            event: None,
            outcome: Err(rejection),
            quarantined: false,
        };
        Box::pin(async move {
            let keeps = self.quarantine.keep;
            let fits = |raw: &&[u8]| keeps && raw.len() <= MAX_QUARANTINED_BYTES;
            let Some(raw) = invalid.raw.filter(fits) else {
                return refused(self.refuse(received, invalid.rejection));
            };
            let kept = match admitted {
                Ok(()) => {
                    self.store_quarantined(&invalid, raw, request, wakeups)
                        .await
                }
                Err(rejection) => Err(rejection),
            };
            match kept {
                Ok(()) => {}
                // To try that again would be of no use.
                Err(Rejection::EventTooLarge { .. }) => {
                    return refused(self.refuse(received, invalid.rejection));
                }
                // It may be tried again; what is wrong with it is told once it is kept.
                Err(rejection) => return refused(self.refuse(received, rejection)),
            }
            received.record(EventOutcome::Quarantined);
            self.count_rejection(&invalid.rejection);
            ItemVerdict {
                event: None,
                outcome: match self.quarantine.answer {
                    QuarantineAnswer::Reject => Err(invalid.rejection),
                    QuarantineAnswer::Accept => {
                        Ok(Acknowledgement::Quarantined(Box::new(invalid.rejection)))
                    }
                },
                quarantined: true,
            }
        })
    }

    /// Publishes or spools it; the same bytes only once.
    async fn store_quarantined(
        &self,
        invalid: &QuarantineCandidate<'_>,
        raw: &[u8],
        request: &PipelineRequest<'_>,
        wakeups: &Arc<WakerQueue>,
    ) -> Result<(), Rejection> {
        let claim = match &self.deduplicator {
            None => None,
            Some(deduplicator) => match deduplicator
                .claim_rejected_item(raw, request.deadline)
                .await
            {
                None => return Err(Rejection::KafkaUnconfirmed),
                Some(Decision::Duplicate { .. }) => return Ok(()),
                Some(Decision::Publish(claim)) => Some(claim),
            },
        };
        let details = invalid.build_details(request);
        let unsent = match self
            .publish_quarantined(&details, raw, claim, request, wakeups)
            .await
        {
            QuarantineOutcome::Stored => return Ok(()),
            QuarantineOutcome::Unpublished(unsent) => unsent,
        };
        if !self.is_spoolable(&unsent.rejection) {
            if let Some(slot) = unsent.in_doubt {
                slot.return_claim(unsent.claim);
            }
            return Err(unsent.rejection);
        }
        let (to, content) = (Destination::Quarantine, EntryContent::Quarantined(details));
        self.append_to_spool(to, content, raw, unsent.claim, unsent.in_doubt, request)
            .await
    }

    async fn publish_quarantined(
        &self,
        details: &QuarantineDetails,
        raw: &[u8],
        claim: Option<Claim>,
        request: &PipelineRequest<'_>,
        wakeups: &Arc<WakerQueue>,
    ) -> QuarantineOutcome {
        let to = Destination::Quarantine;
        let unsent = |rejection, claim| {
            QuarantineOutcome::Unpublished(Box::new(UnpublishedItem {
                rejection,
                claim,
                in_doubt: None,
            }))
        };
        let is_direct = |spool: &Arc<Spool>| matches!(spool.route(to), Route::Direct);
        if !self.spool.as_ref().is_none_or(is_direct) {
            return unsent(Rejection::KafkaUnconfirmed, claim);
        }
        let lane = &self.lanes[to.index()];
        let permit = match lane.acquire_permit(raw.len()) {
            Ok(permit) => permit,
            Err(rejection) => return unsent(rejection, claim),
        };
        let (topic, received_at) = (lane.topic(), request.received_at);
        let now = received_at;
        let record = ProducerRecord::from_quarantined(
            details,
            raw,
            topic,
            self.stamping,
            received_at,
            now,
            false,
        );
        // It is this function that decides the claim of a record that failed.
        let sent = self.producer.send(record, permit, claim, true, wakeups);
        let mut delivery = match sent {
            Ok(delivery) => delivery,
            Err(unqueued) => return unsent(unqueued.reason, unqueued.claim),
        };
        let until = match &self.spool {
            None => request.deadline,
            Some(_) => self.confirm_deadline(Instant::now(), request),
        };
        let _ = timeout_at(until.into(), &mut delivery).await;
        match delivery.end() {
            DeliveryEnd::Reported(DeliveryReport::Stored(_), ..) => QuarantineOutcome::Stored,
            DeliveryEnd::Reported(DeliveryReport::Failed(code), slot, claim) => {
                if code == RDKafkaErrorCode::TopicAuthorizationFailed {
                    lane.deny();
                }
                let doubt = (!is_certain_rejection(code)).then_some(slot);
                if doubt.is_some() {
                    lane.open_circuit();
                }
                QuarantineOutcome::Unpublished(Box::new(UnpublishedItem {
                    rejection: rejection_for_code(code, raw.len()),
                    claim,
                    in_doubt: doubt,
                }))
            }
            DeliveryEnd::Reported(DeliveryReport::ImplicitAck, slot, claim)
            | DeliveryEnd::InDoubt(slot, claim) => {
                lane.open_circuit();
                QuarantineOutcome::Unpublished(Box::new(UnpublishedItem {
                    rejection: Rejection::KafkaUnconfirmed,
                    claim,
                    in_doubt: Some(slot),
                }))
            }
        }
    }
}

/// What came of publishing it.
enum QuarantineOutcome {
    Stored,
    Unpublished(Box<UnpublishedItem>),
}

/// Kafka does not take it now.
struct UnpublishedItem {
    rejection: Rejection,
    claim: Option<Claim>,
    in_doubt: Option<Arc<InFlightRecord>>,
}
