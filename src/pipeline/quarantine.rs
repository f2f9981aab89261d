//! What is no valid event may be the sender's new format of tomorrow: it is published to a topic of its own before it is
//! refused.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::timeout_at;

use super::{Pipeline, Promise, Request, Verdict};
use crate::config::{QuarantineAnswer, RECORD_OVERHEAD};
use crate::dedup::claim::Claim;
use crate::dedup::desk::Claimed;
use crate::kafka::producer::rejection;
use crate::kafka::report::{Ended, Report, Slot, Wakeups, is_certain};
use crate::metrics::EventOutcome;
use crate::provenance::Quarantined;
use crate::record::{ProducerRecord, PublishContext};
use crate::rejection::Rejection;
use crate::spool::entry::Content;
use crate::spool::{Route, Spool};
use butlr_event::destination::Destination;
use butlr_event::{EventType, RejectedItem, UnreadableBody};

/// Larger than this nothing is kept: what librdkafka takes for one record, less key and headers.
const MAX_KEPT: usize = 1_000_000 - RECORD_OVERHEAD;

/// What a header of a record may say of the mistakes, bytes.
const MAX_DETAIL: usize = 2048;

/// A longer type than this is none, bytes.
const MAX_CLAIMED: usize = 256;

/// What is no valid event.
pub(super) struct Invalid<'b> {
    /// Its bytes as they were received; `None`: it is too large to be kept.
    raw: Option<&'b [u8]>,
    /// The type it claims to have.
    claimed: Option<EventType>,
    /// What is wrong with it.
    rejection: Rejection,
}

impl<'b> Invalid<'b> {
    /// A body that cannot be taken apart.
    pub fn whole(body: &'b [u8], unreadable: UnreadableBody) -> Self {
        Self {
            raw: Some(body),
            claimed: None,
            rejection: Rejection::UnreadableBody(unreadable),
        }
    }

    /// A body's only item, or one of them.
    pub fn item(refused: RejectedItem<'b>) -> Self {
        let raw = match &refused {
            RejectedItem::Invalid { raw, .. } => Some(raw.as_bytes()),
            RejectedItem::TooLarge { .. } => None,
        };
        let (claimed, rejection) = Rejection::of_item(refused);
        Self {
            raw,
            claimed,
            rejection,
        }
    }

    /// Also where it is none of the ten: a new type of the sender's is to be told apart.
    fn claimed_type(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Claiming<'c> {
            #[serde(borrow)]
            r#type: Cow<'c, str>,
        }
        if let Some(claimed) = self.claimed {
            return Some(claimed.name().to_owned());
        }
        let claiming: Claiming<'_> = serde_json::from_slice(self.raw?).ok()?;
        let claimed = claiming.r#type;
        let is_decent = claimed.len() <= MAX_CLAIMED && !claimed.contains(char::is_control);
        is_decent.then(|| claimed.into_owned())
    }

    fn told(&self, request: &Request<'_>) -> Quarantined {
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
        Quarantined {
            codes,
            detail: shortened(detail),
            path: request.sender.path(),
            credential: request.sender.credential(),
            claimed_type: self.claimed_type(),
            content_type: request.sender.content_type(),
        }
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_DETAIL {
        let end = (0..=MAX_DETAIL).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

impl Pipeline {
    /// Counts what is no valid event in, keeps it aside, and counts it out.
    pub(super) fn quarantine<'f, 'b: 'f>(
        &'b self,
        invalid: Invalid<'b>,
        admitted: Result<(), Rejection>,
        request: &'f Request<'b>,
        wakeups: &'f Arc<Wakeups>,
    ) -> LocalBoxFuture<'f, Verdict<'b>> {
        let received = self.metrics.count_received(invalid.claimed, request.received_at);
        let refused = |rejection| Verdict {
            event: None,
            outcome: Err(rejection),
            quarantined: false,
        };
        Box::pin(async move {
            let keeps = self.quarantine.keep;
            let fits = |raw: &&[u8]| keeps && raw.len() <= MAX_KEPT;
            let Some(raw) = invalid.raw.filter(fits) else {
                return refused(self.refuse(received, invalid.rejection));
            };
            let kept = match admitted {
                Ok(()) => self.keep_aside(&invalid, raw, request, wakeups).await,
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
            self.count(&invalid.rejection);
            Verdict {
                event: None,
                outcome: match self.quarantine.answer {
                    QuarantineAnswer::Reject => Err(invalid.rejection),
                    QuarantineAnswer::Accept => {
                        Ok(Promise::Quarantined(Box::new(invalid.rejection)))
                    }
                },
                quarantined: true,
            }
        })
    }

    /// Publishes or spools it; the same bytes only once.
    async fn keep_aside(
        &self,
        invalid: &Invalid<'_>,
        raw: &[u8],
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Result<(), Rejection> {
        let claim = match &self.desk {
            None => None,
            Some(desk) => match desk.claim_bytes(raw, request.deadline).await {
                None => return Err(Rejection::KafkaUnconfirmed),
                Some(Claimed::Duplicate { .. }) => return Ok(()),
                Some(Claimed::Publish { claim, .. }) => Some(claim),
            },
        };
        let told = invalid.told(request);
        let unsent = match self
            .publish_aside(&told, raw, claim, request, wakeups)
            .await
        {
            Aside::Stored => return Ok(()),
            Aside::Unsent(unsent) => unsent,
        };
        if !self.is_to_be_kept(&unsent.rejection) {
            if let Some(slot) = unsent.doubt {
                slot.give_back(unsent.claim);
            }
            return Err(unsent.rejection);
        }
        let (to, content) = (Destination::Quarantine, Content::Quarantined(told));
        self.spooled(to, content, raw, unsent.claim, unsent.doubt, request)
            .await
    }

    async fn publish_aside(
        &self,
        told: &Quarantined,
        raw: &[u8],
        claim: Option<Claim>,
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Aside {
        let to = Destination::Quarantine;
        let unsent = |rejection, claim| {
            Aside::Unsent(Box::new(Unsent {
                rejection,
                claim,
                doubt: None,
            }))
        };
        let is_direct = |spool: &Arc<Spool>| matches!(spool.route(to), Route::Direct);
        if !self.spool.as_ref().is_none_or(is_direct) {
            return unsent(Rejection::KafkaUnconfirmed, claim);
        }
        let lane = &self.lanes[to.index()];
        let permit = match lane.enter(raw.len()) {
            Ok(permit) => permit,
            Err(rejection) => return unsent(rejection, claim),
        };
        let context = PublishContext {
            topic: lane.topic(),
            policy: self.stamping,
            received_at: request.received_at,
            now: request.received_at,
            is_spooled: false,
            replayed_from: None,
        };
        let record = ProducerRecord::from_quarantined(told, raw, context);
        // It is this function that decides the claim of a record that failed.
        let sent = self.producer.send(record, permit, claim, true, wakeups);
        let mut delivery = match sent {
            Ok(delivery) => delivery,
            Err(unqueued) => return unsent(unqueued.why, unqueued.claim),
        };
        let until = match &self.spool {
            None => request.deadline,
            Some(_) => self.confirm_until(Instant::now(), request),
        };
        let _ = timeout_at(until.into(), &mut delivery).await;
        match delivery.end() {
            Ended::Reported(Report::Stored(_), ..) => Aside::Stored,
            Ended::Reported(Report::Failed(code), slot, claim) => {
                if code == RDKafkaErrorCode::TopicAuthorizationFailed {
                    lane.deny();
                }
                let doubt = (!is_certain(code)).then_some(slot);
                if doubt.is_some() {
                    lane.open_circuit();
                }
                Aside::Unsent(Box::new(Unsent {
                    rejection: rejection(code, raw.len()),
                    claim,
                    doubt,
                }))
            }
            Ended::Reported(Report::Presumed, slot, claim) | Ended::InDoubt(slot, claim) => {
                lane.open_circuit();
                Aside::Unsent(Box::new(Unsent {
                    rejection: Rejection::KafkaUnconfirmed,
                    claim,
                    doubt: Some(slot),
                }))
            }
        }
    }
}

/// What came of publishing it.
enum Aside {
    Stored,
    Unsent(Box<Unsent>),
}

/// Kafka does not take it now.
struct Unsent {
    rejection: Rejection,
    claim: Option<Claim>,
    doubt: Option<Arc<Slot>>,
}
