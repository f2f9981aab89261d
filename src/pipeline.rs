//! The path of an event: parse → route → claim → deliver → commit.
//!
//! Authentication comes before (the body of a stranger is not even read) and the answer after; both belong to HTTP.
//! The *claim* says whether an event is new; the delivery report commits it (see `kafka::report::Slot`).

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::future::{LocalBoxFuture, join_all};
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::timeout_at;

use crate::dedup::claim::{Claim, Turn};
use crate::dedup::desk::{Claimed, Desk};
use crate::dedup::{Duplicate, Facts, MarkSet};
use crate::event::{self, Event, EventType, Limits, Parsed, Refused};
use crate::http::gate::Permit;
use crate::kafka::lane::Lane;
use crate::kafka::producer::{Producer, rejection};
use crate::kafka::report::{Delivery, Report, Wakeups};
use crate::metrics::{Metrics, Outcome, Received};
use crate::record::{Record, Stamping};
use crate::rejection::Rejection;

/// What all requests share.
pub struct Pipeline {
    /// Counters of what comes in and what it ends as.
    pub metrics: Arc<Metrics>,
    /// Where it is asked whether an event is new; `None`: nowhere, and all events are published.
    pub desk: Option<Arc<Desk>>,
    /// The way to Kafka.
    pub producer: Arc<Producer>,
    /// One lane a topic, in the order of [`EventType::ALL`].
    pub lanes: Arc<[Arc<Lane>; 10]>,
    /// Which time records are stamped with.
    pub stamping: Stamping,
    /// How much a body may hold.
    pub limits: Limits,
}

/// A request that was authenticated and read.
pub struct Request<'b> {
    /// The body, decompressed.
    pub body: &'b [u8],
    /// The type that the route asks for.
    pub expected: Option<EventType>,
    /// When the body was complete.
    pub received_at: SystemTime,
    /// When the answer is due.
    pub deadline: Instant,
}

/// What became of a request.
pub enum Answer<'b> {
    /// The body was one event.
    One(Verdict<'b>),
    /// The body was an array; one verdict an item, in order.
    Many(Vec<Verdict<'b>>),
    /// The body as a whole was refused.
    Whole(Rejection),
}

/// What became of one event.
pub struct Verdict<'b> {
    /// The event, where it is one.
    pub event: Option<Event<'b>>,
    /// What is promised, or why nothing is.
    pub outcome: Result<Promise<'b>, Rejection>,
}

/// What a 2xx stands on.
pub enum Promise<'b> {
    /// The event is stored.
    Published(Stored<'b>),
    /// What it tells was stored before.
    Duplicate(Duplicate),
}

/// Where Kafka has an event, on all in-sync replicas.
pub struct Stored<'b> {
    /// Its topic.
    pub topic: &'b str,
    /// Its partition.
    pub partition: i32,
    /// Its offset; `None` where the broker did not tell.
    pub offset: Option<i64>,
}

impl Pipeline {
    /// Takes a request's events and answers when each of them is stored or refused, at the deadline at the latest.
    ///
    /// To be run to its end, whether the client waits or not: what was begun here is finished here.
    pub async fn process<'b>(
        &'b self,
        request: Request<'b>,
        permit: &mut Permit,
        wakeups: &Arc<Wakeups>,
    ) -> Answer<'b> {
        match event::parse(request.body, request.expected, self.limits) {
            Err(unreadable) => {
                let received = self.metrics.received(None, request.received_at);
                let rejection = Rejection::Unreadable(unreadable);
                Answer::Whole(self.refuse(received, rejection))
            }
            Ok(Parsed::One(parsed)) => {
                let admitted = permit.events(1);
                self.wait_until_known(std::slice::from_ref(&parsed), &request)
                    .await;
                let begun = self.begin(parsed, &admitted, &request, wakeups);
                Answer::One(self.finish(begun, &request, wakeups).await)
            }
            Ok(Parsed::Many(items)) => {
                let admitted = permit.events(items.len());
                Answer::Many(self.many(items, admitted, &request, wakeups).await)
            }
        }
    }

    /// An array's events. Boxed, as all is that few requests need: each request carries the future of [`Self::process`].
    fn many<'f, 'b: 'f>(
        &'b self,
        items: Vec<Result<Event<'b>, Refused>>,
        admitted: Result<(), Rejection>,
        request: &'f Request<'_>,
        wakeups: &'f Arc<Wakeups>,
    ) -> LocalBoxFuture<'f, Vec<Verdict<'b>>> {
        Box::pin(async move {
            self.wait_until_known(&items, request).await;
            let begun: Vec<_> = items
                .into_iter()
                .map(|parsed| self.begin(parsed, &admitted, request, wakeups))
                .collect();
            let waiting = begun.iter().any(|b| matches!(b, Begun::Undecided { .. }));
            let finished = begun
                .into_iter()
                .map(|begun| self.finish(begun, request, wakeups));
            if waiting {
                // Side by side: one that waits must not keep those behind it from being claimed and sent.
                return join_all(finished).await;
            }
            let mut verdicts = Vec::with_capacity(finished.len());
            for verdict in finished {
                verdicts.push(verdict.await);
            }
            verdicts
        })
    }

    /// Just after a start: until it is known what was stored before.
    async fn wait_until_known(&self, parsed: &[Result<Event<'_>, Refused>], request: &Request<'_>) {
        if let Some(desk) = self.desk.as_ref().filter(|desk| !desk.is_rebuilt()) {
            let types = parsed.iter().flatten().map(Event::event_type);
            Box::pin(desk.wait_until_known(types, request.deadline)).await;
        }
    }

    /// Counts an event in, claims it and hands it to Kafka; waits for nothing.
    fn begin<'b>(
        &'b self,
        parsed: Result<Event<'b>, Refused>,
        admitted: &Result<(), Rejection>,
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Begun<'b> {
        let event = match parsed {
            Ok(event) => event,
            Err(refused) => {
                let (claimed, rejection) = refused.into();
                let received = self.metrics.received(claimed, request.received_at);
                return Begun::Ended(Verdict {
                    event: None,
                    outcome: Err(self.refuse(received, rejection)),
                });
            }
        };
        let received = self
            .metrics
            .received(Some(event.event_type()), request.received_at);
        if let Err(rejection) = admitted {
            return Begun::ended(event, Err(self.refuse(received, rejection.clone())));
        }
        match &self.desk {
            None => self.send(event, received, None, MarkSet::default(), request, wakeups),
            Some(desk) => {
                let facts = self.facts(&event, request);
                match desk.try_claim(event.event_type(), &facts, Instant::now()) {
                    Ok(claimed) => self.proceed(event, received, claimed, request, wakeups),
                    Err(turn) => Begun::Undecided {
                        event,
                        received,
                        turn,
                    },
                }
            }
        }
    }

    fn facts<'e>(&self, event: &'e Event<'_>, request: &Request<'_>) -> Facts<'e> {
        let plausible = self
            .stamping
            .is_plausible(event.timestamp_ms(), request.received_at);
        Facts::of(event, plausible)
    }

    /// An event whose claim was decided.
    fn proceed<'b>(
        &'b self,
        event: Event<'b>,
        received: Received<'b>,
        claimed: Claimed,
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Begun<'b> {
        match claimed {
            Claimed::Publish { claim, unchecked } => {
                let marks = MarkSet {
                    unchecked,
                    ..claim.marks().into()
                };
                self.send(event, received, Some(claim), marks, request, wakeups)
            }
            Claimed::Duplicate(kind) => {
                self.metrics.duplicate(event.event_type(), kind);
                received.settle(Outcome::Duplicate);
                Begun::ended(event, Ok(Promise::Duplicate(kind)))
            }
        }
    }

    /// Hands an event to Kafka, or says why that cannot be.
    fn send<'b>(
        &'b self,
        event: Event<'b>,
        received: Received<'b>,
        claim: Option<Claim>,
        marks: MarkSet,
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Begun<'b> {
        let lane = &self.lanes[event.event_type().index()];
        let at = Instant::now();
        match self.try_send(&event, lane, claim, request.received_at, wakeups) {
            Ok(delivery) => Begun::Sent(Sent {
                event,
                received,
                lane,
                delivery,
                marks,
                at,
            }),
            Err(rejection) => Begun::ended(event, Err(self.refuse(received, rejection))),
        }
    }

    fn try_send(
        &self,
        event: &Event<'_>,
        lane: &Arc<Lane>,
        claim: Option<Claim>,
        received_at: SystemTime,
        wakeups: &Arc<Wakeups>,
    ) -> Result<Delivery, Rejection> {
        let permit = lane.enter(event.raw().len())?;
        // Published the moment it was received: an event never waits longer for another than an answer may take.
        let now = received_at;
        let marks = claim.as_ref().map(Claim::marks);
        let record = Record::of(event, lane.topic(), self.stamping, marks, received_at, now);
        let replaced = record.replaced;
        let delivery = self.producer.send(record, permit, claim, wakeups)?;
        if let Some(reason) = replaced {
            self.metrics.timestamp_replaced(event.event_type(), reason);
        }
        Ok(delivery)
    }

    /// Waits for what an event still needs and counts it out.
    async fn finish<'b>(
        &'b self,
        begun: Begun<'b>,
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Verdict<'b> {
        let mut sent = match begun {
            Begun::Sent(sent) => sent,
            Begun::Ended(verdict) => return verdict,
            Begun::Undecided {
                event,
                received,
                turn,
            } => match self.decide(event, received, turn, request, wakeups).await {
                Begun::Sent(sent) => sent,
                Begun::Ended(verdict) => return verdict,
                Begun::Undecided { .. } => unreachable!("it was decided just now"),
            },
        };
        let report = match timeout_at(request.deadline.into(), &mut sent.delivery).await {
            Ok(report) => Some(report),
            Err(_) => sent.delivery.abandon(),
        };
        self.settle(sent, report, request)
    }

    /// Counts an event out by Kafka's word; `None`: there was none in time.
    fn settle<'b>(
        &self,
        sent: Sent<'b>,
        report: Option<Report>,
        request: &Request<'_>,
    ) -> Verdict<'b> {
        let Sent {
            event,
            received,
            lane,
            marks,
            at,
            ..
        } = sent;
        let outcome = match report {
            Some(Report::Stored(receipt)) => {
                let event_type = event.event_type();
                self.metrics.published(
                    event_type,
                    event.timestamp_ms(),
                    request.received_at,
                    at.elapsed(),
                );
                self.metrics.marked(event_type, marks);
                received.settle(Outcome::Published);
                Ok(Promise::Published(Stored {
                    topic: lane.topic(),
                    partition: receipt.partition(),
                    offset: receipt.offset(),
                }))
            }
            Some(Report::Failed(code)) => {
                if code == RDKafkaErrorCode::TopicAuthorizationFailed {
                    lane.deny();
                }
                Err(self.refuse(received, rejection(code, event.raw().len())))
            }
            None => Err(self.refuse(received, Rejection::KafkaUnconfirmed)),
        };
        Verdict {
            event: Some(event),
            outcome,
        }
    }

    /// Waits for the verdict on an event. Boxed: few events wait, and all of them carry the future of [`Self::finish`].
    fn decide<'f, 'b: 'f>(
        &'b self,
        event: Event<'b>,
        received: Received<'b>,
        turn: Option<Turn>,
        request: &'f Request<'_>,
        wakeups: &'f Arc<Wakeups>,
    ) -> LocalBoxFuture<'f, Begun<'b>> {
        Box::pin(async move {
            let desk = self.desk.as_ref().expect("only a desk leaves undecided");
            let facts = self.facts(&event, request);
            let claimed = desk.claim(event.event_type(), &facts, turn, request.deadline);
            match claimed.await {
                Some(claimed) => self.proceed(event, received, claimed, request, wakeups),
                None => {
                    let rejection = self.refuse(received, Rejection::KafkaUnconfirmed);
                    Begun::ended(event, Err(rejection))
                }
            }
        })
    }

    /// Counts a refused event out, with the problem and each mistake by its code.
    fn refuse(&self, received: Received<'_>, rejection: Rejection) -> Rejection {
        received.settle(Outcome::Refused);
        self.metrics.rejection(rejection.code());
        if let Rejection::Invalid(mistakes) = &rejection {
            for mistake in mistakes {
                self.metrics.mistake(mistake.code.as_str());
            }
        }
        rejection
    }
}

/// An event between its two halves.
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the common one; boxing it would cost each good event an allocation"
)]
enum Begun<'b> {
    /// Whether it is new is not known yet.
    Undecided {
        event: Event<'b>,
        received: Received<'b>,
        turn: Option<Turn>,
    },
    /// Kafka has been handed it.
    Sent(Sent<'b>),
    /// Nothing is left to wait for.
    Ended(Verdict<'b>),
}

/// An event on its way to Kafka.
struct Sent<'b> {
    event: Event<'b>,
    received: Received<'b>,
    lane: &'b Arc<Lane>,
    delivery: Delivery,
    marks: MarkSet,
    at: Instant,
}

impl<'b> Begun<'b> {
    fn ended(event: Event<'b>, outcome: Result<Promise<'b>, Rejection>) -> Self {
        Begun::Ended(Verdict {
            event: Some(event),
            outcome,
        })
    }
}
