//! The path of an event: parse → route → claim → deliver → commit.
//!
//! Authentication comes before (the body of a stranger is not even read) and the answer after; both belong to HTTP.
//! The *claim* says whether an event is new; the delivery report commits it (see `kafka::report::Slot`). What Kafka does not
//! confirm in time is kept on disk (`keep`), and what is no valid event is kept aside (`quarantine`).

mod keep;
mod quarantine;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{LocalBoxFuture, join_all};
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::timeout_at;

use crate::config::QuarantineConfig;
use crate::dedup::Facts;
use crate::dedup::claim::{Claim, Turn};
use crate::dedup::desk::{Claimed, Desk};
use crate::http::gate::Permit;
use crate::kafka::contact::Contact;
use crate::kafka::lane::Lane;
use crate::kafka::producer::{Producer, Unqueued, rejection};
use crate::kafka::report::{Delivery, Report, Wakeups};
use crate::marks::{Duplicate, MarkSet};
use crate::metrics::{Metrics, EventOutcome, PendingOutcome};
use crate::provenance::ReplayedFrom;
use crate::record::{ProducerRecord, PublishContext, TimestampPolicy};
use crate::rejection::Rejection;
use crate::spool::{Route, Spool};
use butlr_event::destination::Destination;
use butlr_event::{Event, EventType, ParseLimits, ParsedBody, RejectedItem};
use keep::Unsent;
use quarantine::Invalid;

/// So long after a start events wait for what is read back from Kafka, although that was not reached yet.
const FIRST_CONTACT: Duration = Duration::from_secs(2);

/// What all requests share.
pub struct Pipeline {
    /// Counters of what comes in and what it ends as.
    pub metrics: Arc<Metrics>,
    /// Where it is asked whether an event is new; `None`: nowhere, and all events are published.
    pub desk: Option<Arc<Desk>>,
    /// The way to Kafka.
    pub producer: Arc<Producer>,
    /// When Kafka was last heard of.
    pub contact: Arc<Contact>,
    /// Since when Kafka is looked for.
    pub started: Instant,
    /// One lane a topic, in the order of [`Destination::index`].
    pub lanes: Arc<[Arc<Lane>; Destination::COUNT]>,
    /// Where events wait that Kafka does not confirm in time; `None`: nowhere, and they are refused.
    pub spool: Option<Arc<Spool>>,
    /// `kafka.confirm_within`; counts where there is a spool.
    pub confirm_within: Duration,
    /// What of an answer's time is left to the disk.
    pub reserve: Duration,
    /// What becomes of what is no valid event.
    pub quarantine: QuarantineConfig,
    /// Which time records are stamped with.
    pub stamping: TimestampPolicy,
    /// How much a body may hold.
    pub limits: ParseLimits,
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
    /// Who sent it, and how: told of what is kept aside.
    pub sender: &'b dyn Sender,
    /// Where it was kept aside before.
    pub replayed_from: Option<&'b ReplayedFrom>,
}

/// What is told of the request behind what is kept aside.
pub trait Sender {
    /// The path of the URL.
    fn path(&self) -> String;
    /// The name of the credential.
    fn credential(&self) -> String;
    /// What the request says that its body is.
    fn content_type(&self) -> Option<String>;
}

/// What became of a request.
pub enum Answer<'b> {
    /// The body was one event, or none that can be read.
    One(Verdict<'b>),
    /// The body was an array; one verdict an item, in order.
    Many(Vec<Verdict<'b>>),
}

/// What became of one event.
pub struct Verdict<'b> {
    /// The event, where it is one.
    pub event: Option<Event<'b>>,
    /// What is promised, or why nothing is.
    pub outcome: Result<Promise<'b>, Rejection>,
    /// What was refused is kept aside all the same.
    pub quarantined: bool,
}

/// What a 2xx stands on.
pub enum Promise<'b> {
    /// The event is stored.
    Published(Stored<'b>),
    /// What it tells was stored before.
    Duplicate {
        /// In which way.
        kind: Duplicate,
        /// On disk, and Kafka does not have it yet.
        spooled: bool,
    },
    /// The event is on disk, and Kafka gets it later.
    Spooled,
    /// It is no valid event, for this reason, and was kept aside.
    Quarantined(Box<Rejection>),
}

impl Promise<'_> {
    /// The HTTP status: 200 where Kafka has it.
    pub fn status(&self) -> u16 {
        match self {
            Promise::Published(_) | Promise::Duplicate { spooled: false, .. } => 200,
            Promise::Duplicate { spooled: true, .. }
            | Promise::Spooled
            | Promise::Quarantined(_) => 202,
        }
    }
}

/// Where Kafka has an event, on all in-sync replicas.
pub struct Stored<'b> {
    /// Its topic.
    pub topic: &'b str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

impl Pipeline {
    /// Takes a request's events and answers when each of them is stored or refused, at the deadline at the latest.
    ///
    /// To be run to its end, whether the client waits or not: what was begun here is finished here.
    pub async fn process<'b>(
        &'b self,
        request: &Request<'b>,
        permit: &mut Permit,
        wakeups: &Arc<Wakeups>,
    ) -> Answer<'b> {
        match butlr_event::parse(request.body, request.expected, self.limits) {
            Err(unreadable) => {
                let admitted = permit.events(1);
                let invalid = Invalid::whole(request.body, unreadable);
                let verdict = self.quarantine(invalid, admitted, request, wakeups).await;
                Answer::One(verdict)
            }
            Ok(ParsedBody::Single(parsed)) => {
                let admitted = permit.events(1);
                self.wait_until_known(std::slice::from_ref(&parsed), request)
                    .await;
                let mut begun = self.begin(parsed, &admitted, request, wakeups);
                let report = self.hear(&mut begun, request).await;
                // Most are sent, and confirmed: each request carries no more than it needs for that.
                Answer::One(match self.settle(begun, report, request) {
                    Begun::Ended(verdict) => verdict,
                    slow => self.finish(slow, request, wakeups).await,
                })
            }
            Ok(ParsedBody::Array(items)) => {
                let admitted = permit.events(items.len());
                Answer::Many(self.many(items, admitted, request, wakeups).await)
            }
        }
    }

    /// An array's events. Boxed, as all is that few requests need: each request carries the future of [`Self::process`].
    fn many<'f, 'b: 'f>(
        &'b self,
        items: Vec<Result<Event<'b>, RejectedItem<'b>>>,
        admitted: Result<(), Rejection>,
        request: &'f Request<'b>,
        wakeups: &'f Arc<Wakeups>,
    ) -> LocalBoxFuture<'f, Vec<Verdict<'b>>> {
        Box::pin(async move {
            self.wait_until_known(&items, request).await;
            let begun: Vec<_> = items
                .into_iter()
                .map(|parsed| self.begin(parsed, &admitted, request, wakeups))
                .collect();
            if begun.iter().any(Begun::is_slow) {
                // Side by side: one that waits must not keep those behind it from being claimed and sent.
                let finished = begun.into_iter().map(|b| self.finish(b, request, wakeups));
                return join_all(finished).await;
            }
            let mut confirmed = Vec::with_capacity(begun.len());
            for mut begun in begun {
                let report = self.hear(&mut begun, request).await;
                confirmed.push(self.settle(begun, report, request));
            }
            if confirmed.iter().any(Begun::is_slow) {
                let finished = confirmed.into_iter();
                return join_all(finished.map(|b| self.finish(b, request, wakeups))).await;
            }
            let verdicts = confirmed.into_iter().map(|begun| match begun {
                Begun::Ended(verdict) => verdict,
                _ => unreachable!("nothing is slow"),
            });
            verdicts.collect()
        })
    }

    /// Just after a start: until it is known what was stored before.
    async fn wait_until_known(
        &self,
        parsed: &[Result<Event<'_>, RejectedItem<'_>>],
        request: &Request<'_>,
    ) {
        if let Some(desk) = self.desk.as_ref().filter(|desk| !desk.is_rebuilt()) {
            let types = parsed.iter().flatten().map(Event::event_type);
            let out_of_reach = self.is_kafka_out_of_reach();
            let types = types.filter(|_| !out_of_reach);
            Box::pin(desk.wait_until_known(types, request.deadline)).await;
        }
    }

    /// Whether Kafka was never heard of since the start: what is to go to the spool need not wait for what cannot be read.
    fn is_kafka_out_of_reach(&self) -> bool {
        self.spool.is_some()
            && self.contact.age().is_none()
            && self.started.elapsed() >= FIRST_CONTACT
    }

    /// Counts an event in, claims it and hands it to Kafka; waits for nothing.
    fn begin<'b>(
        &'b self,
        parsed: Result<Event<'b>, RejectedItem<'b>>,
        admitted: &Result<(), Rejection>,
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Begun<'b> {
        let event = match parsed {
            Ok(event) => event,
            Err(refused) => {
                let invalid = Box::new(Invalid::item(refused));
                return Begun::Invalid(invalid, admitted.clone());
            }
        };
        let received = self
            .metrics
            .count_received(Some(event.event_type()), request.received_at);
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
        received: PendingOutcome<'b>,
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
            Claimed::Duplicate { kind, spooled } => {
                self.metrics.count_duplicate(event.event_type(), kind);
                received.record(EventOutcome::Duplicate);
                Begun::ended(event, Ok(Promise::Duplicate { kind, spooled }))
            }
        }
    }

    /// Hands an event to Kafka, or says why that cannot be. Where there is a spool, that is where it goes then.
    fn send<'b>(
        &'b self,
        event: Event<'b>,
        received: PendingOutcome<'b>,
        claim: Option<Claim>,
        marks: MarkSet,
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Begun<'b> {
        let destination = Destination::Events(event.event_type());
        if let Some(spool) = &self.spool {
            match spool.route(destination) {
                Route::Direct => {}
                Route::Spool => return Unsent::begun(event, received, claim, marks, None),
                Route::Wait(passage) => {
                    return Unsent::begun(event, received, claim, marks, Some(passage));
                }
            }
        }
        let lane = &self.lanes[destination.index()];
        let at = Instant::now();
        match self.try_send(&event, lane, claim, request, wakeups) {
            Ok(delivery) => Begun::Sent(Sent {
                event,
                received,
                lane,
                delivery,
                marks,
                at,
            }),
            Err(unqueued) if self.is_to_be_kept(&unqueued.why) => {
                Unsent::begun(event, received, unqueued.claim, marks, None)
            }
            Err(unqueued) => {
                // Whoever waits for the event takes its place, and before the answer.
                drop(unqueued.claim);
                Begun::ended(event, Err(self.refuse(received, unqueued.why)))
            }
        }
    }

    fn try_send(
        &self,
        event: &Event<'_>,
        lane: &Arc<Lane>,
        claim: Option<Claim>,
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Result<Delivery, Box<Unqueued>> {
        let permit = match lane.enter(event.raw().len()) {
            Ok(permit) => permit,
            Err(why) => return Err(Box::new(Unqueued { why, claim })),
        };
        // Published the moment it was received, but for what was kept aside before: an event never waits longer for another
        // than an answer may take.
        let received_at = request.received_at;
        let now = match request.replayed_from {
            None => received_at,
            Some(_) => SystemTime::now(),
        };
        let marks = claim.as_ref().map(Claim::marks);
        let context = PublishContext {
            topic: lane.topic(),
            policy: self.stamping,
            received_at,
            now,
            is_spooled: false,
            replayed_from: request.replayed_from,
        };
        let record = ProducerRecord::from_event(event, marks, context);
        let replaced = record.timestamp_replacement;
        let keeping = self.spool.is_some();
        let delivery = self
            .producer
            .send(record, permit, claim, keeping, wakeups)?;
        if let Some(reason) = replaced {
            self.metrics.count_timestamp_replacement(event.event_type(), reason);
        }
        Ok(delivery)
    }

    /// Waits for what an event still needs and counts it out. Boxed: few events need more than Kafka's word.
    fn finish<'f, 'b: 'f>(
        &'b self,
        mut begun: Begun<'b>,
        request: &'f Request<'b>,
        wakeups: &'f Arc<Wakeups>,
    ) -> LocalBoxFuture<'f, Verdict<'b>> {
        Box::pin(async move {
            loop {
                begun = match begun {
                    Begun::Ended(verdict) => return verdict,
                    Begun::Sent(_) => {
                        let report = self.hear(&mut begun, request).await;
                        self.settle(begun, report, request)
                    }
                    Begun::Undecided {
                        event,
                        received,
                        turn,
                    } => self.decide(event, received, turn, request, wakeups).await,
                    Begun::Unsent(unsent) => self.keep(unsent, request, wakeups).await,
                    Begun::Invalid(invalid, admitted) => {
                        return self.quarantine(*invalid, admitted, request, wakeups).await;
                    }
                };
            }
        })
    }

    /// Kafka's word on an event that was handed to it, waited for as long as it may take; `None`: there was none in time.
    async fn hear(&self, begun: &mut Begun<'_>, request: &Request<'_>) -> Option<Report> {
        let Begun::Sent(sent) = begun else {
            return None;
        };
        let until = match &self.spool {
            None => request.deadline,
            Some(_) => self.confirm_until(sent.at, request),
        };
        match timeout_at(until.into(), &mut sent.delivery).await {
            Ok(report) => Some(report),
            Err(_) if self.spool.is_some() => None,
            Err(_) => sent.delivery.abandon(),
        }
    }

    /// Until when Kafka is waited for, where there is a spool: the disk needs its time, too.
    fn confirm_until(&self, sent: Instant, request: &Request<'_>) -> Instant {
        let latest = request.deadline.checked_sub(self.reserve);
        (sent + self.confirm_within).min(latest.unwrap_or(sent))
    }

    /// Counts an event that was handed to Kafka out by its word; see [`Self::hear`].
    fn settle<'b>(
        &self,
        begun: Begun<'b>,
        report: Option<Report>,
        request: &Request<'_>,
    ) -> Begun<'b> {
        let sent = match begun {
            Begun::Sent(sent) => sent,
            other => return other,
        };
        let rejection = match report {
            Some(Report::Stored(receipt)) => {
                let (event, topic) = (sent.event, sent.lane.topic());
                let stored = self.published(&event, topic, receipt, sent.marks, sent.at, request);
                sent.received.record(EventOutcome::Published);
                return Begun::ended(event, Ok(Promise::Published(stored)));
            }
            Some(Report::Failed(code)) => {
                if code == RDKafkaErrorCode::TopicAuthorizationFailed {
                    sent.lane.deny();
                }
                rejection(code, sent.event.raw().len())
            }
            Some(Report::Presumed) | None => Rejection::KafkaUnconfirmed,
        };
        if self.is_to_be_kept(&rejection) {
            return self.unsent(sent, request);
        }
        let Sent {
            event,
            received,
            delivery,
            ..
        } = sent;
        // A claim that came back with a failure is decided, before the answer.
        drop(delivery);
        Begun::ended(event, Err(self.refuse(received, rejection)))
    }

    /// Whether an event that Kafka did not take for this reason is kept on disk. Not one that it never will.
    fn is_to_be_kept(&self, rejection: &Rejection) -> bool {
        self.spool.is_some() && !matches!(rejection, Rejection::EventTooLarge { .. })
    }

    /// Waits for the verdict on an event.
    async fn decide<'b>(
        &'b self,
        event: Event<'b>,
        received: PendingOutcome<'b>,
        turn: Option<Turn>,
        request: &Request<'_>,
        wakeups: &Arc<Wakeups>,
    ) -> Begun<'b> {
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
    }

    /// Counts a refused event out, with the problem and each mistake by its code.
    fn refuse(&self, received: PendingOutcome<'_>, rejection: Rejection) -> Rejection {
        received.record(EventOutcome::Refused);
        self.count(&rejection);
        rejection
    }

    fn count(&self, rejection: &Rejection) {
        self.metrics.count_rejection(rejection.code());
        if let Rejection::InvalidEvent(mistakes) = rejection {
            for mistake in mistakes {
                self.metrics.count_field_error(mistake.code.as_str());
            }
        }
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
        received: PendingOutcome<'b>,
        turn: Option<Turn>,
    },
    /// Kafka has been handed it.
    Sent(Sent<'b>),
    /// Kafka does not take it now: it is to be kept on disk.
    Unsent(Box<Unsent<'b>>),
    /// It is none that is valid; whether there was room for it.
    Invalid(Box<Invalid<'b>>, Result<(), Rejection>),
    /// Nothing is left to wait for.
    Ended(Verdict<'b>),
}

/// An event on its way to Kafka.
struct Sent<'b> {
    event: Event<'b>,
    received: PendingOutcome<'b>,
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
            quarantined: false,
        })
    }

    /// Whether it waits for something else than Kafka's word.
    fn is_slow(&self) -> bool {
        !matches!(self, Begun::Sent(_) | Begun::Ended(_))
    }
}
