//! The path of an event: parse → route → claim → deliver → commit.
//!
//! Authentication comes before (the body of a stranger is not even read) and the answer after; both belong to HTTP.
//! One step has no work yet: a *claim* will say whether an event is new, and be committed with the delivery's report.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rdkafka::types::RDKafkaErrorCode;
use tokio::time::timeout_at;

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
    /// Where it is stored, or why it is not.
    pub outcome: Result<Stored<'b>, Rejection>,
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
                let begun = self.begin(parsed, &admitted, &request, wakeups);
                Answer::One(self.finish(begun, &request).await)
            }
            Ok(Parsed::Many(items)) => {
                let admitted = permit.events(items.len());
                let mut begun = Vec::with_capacity(items.len());
                for parsed in items {
                    begun.push(self.begin(parsed, &admitted, &request, wakeups));
                }
                let mut verdicts = Vec::with_capacity(begun.len());
                for one in begun {
                    verdicts.push(self.finish(one, &request).await);
                }
                Answer::Many(verdicts)
            }
        }
    }

    /// Counts an event in, routes it and hands it to Kafka; waits for nothing.
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
        let lane = &self.lanes[event.event_type().index()];
        let sent = Instant::now();
        let delivery = admitted
            .clone()
            .and_then(|()| self.send(&event, lane, request.received_at, wakeups));
        match delivery {
            Ok(delivery) => Begun::Pending {
                event,
                received,
                lane,
                delivery,
                sent,
            },
            Err(rejection) => Begun::Ended(Verdict {
                event: Some(event),
                outcome: Err(self.refuse(received, rejection)),
            }),
        }
    }

    fn send(
        &self,
        event: &Event<'_>,
        lane: &Arc<Lane>,
        received_at: SystemTime,
        wakeups: &Arc<Wakeups>,
    ) -> Result<Delivery, Rejection> {
        let permit = lane.enter(event.raw().len())?;
        // Published the moment it was received: there is nothing yet that an event waits in between.
        let now = received_at;
        let record = Record::of(event, lane.topic(), self.stamping, received_at, now);
        let delivery = self.producer.send(&record, permit, wakeups)?;
        if let Some(reason) = record.replaced {
            self.metrics.timestamp_replaced(event.event_type(), reason);
        }
        Ok(delivery)
    }

    /// Waits for Kafka's word on an event and counts it out.
    async fn finish<'b>(&'b self, begun: Begun<'b>, request: &Request<'_>) -> Verdict<'b> {
        let (event, received, lane, mut delivery, sent) = match begun {
            Begun::Ended(verdict) => return verdict,
            Begun::Pending {
                event,
                received,
                lane,
                delivery,
                sent,
            } => (event, received, lane, delivery, sent),
        };
        let report = match timeout_at(request.deadline.into(), &mut delivery).await {
            Ok(report) => Some(report),
            Err(_) => delivery.abandon(),
        };
        let outcome = match report {
            Some(Report::Stored { partition, offset }) => {
                self.metrics.published(
                    event.event_type(),
                    event.timestamp_ms(),
                    request.received_at,
                    sent.elapsed(),
                );
                received.settle(Outcome::Published);
                Ok(Stored {
                    topic: lane.topic(),
                    partition,
                    offset,
                })
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
    Pending {
        event: Event<'b>,
        received: Received<'b>,
        lane: &'b Arc<Lane>,
        delivery: Delivery,
        sent: Instant,
    },
    Ended(Verdict<'b>),
}
