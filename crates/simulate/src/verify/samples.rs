//! For the tests of this module: events as tries and as records, and the two brought together without a Kafka.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use super::Duplicates;
use super::check::{Checker, Record, Signs};
use super::entry::{Entry, Position};
use super::headers::{Expected, Timestamps};
use super::join::Join;
use super::murmur2;
use super::options::Judging;
use super::order::Order;
use super::report::Report;
use crate::city::Truth;
use crate::hash;
use crate::journal::buckets::bucket_of;
use crate::journal::{Answer, Attempt, Cause};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

pub const NOW: i64 = 1_800_000_000_000;
pub const PARTITIONS: usize = 6;

/// An event of a room.
#[derive(Clone)]
pub struct Sample {
    pub id: Ksuid,
    pub event_type: EventType,
    pub room: String,
    pub timestamp_ms: i64,
    pub data: &'static str,
}

impl Sample {
    /// With an id of its own, that was made at [`NOW`].
    pub fn new(n: u64, event_type: EventType, data: &'static str) -> Self {
        let mut payload = [7; 16];
        payload[..8].copy_from_slice(&n.to_be_bytes());
        Self {
            id: Ksuid::new(NOW, payload),
            event_type,
            room: format!("room_ü{}", n % 7),
            timestamp_ms: NOW - 1_000 * n as i64,
            data,
        }
    }

    pub fn value(&self) -> String {
        let Self {
            id,
            event_type,
            room,
            timestamp_ms,
            data,
        } = self;
        let event_type = event_type.name();
        format!(
            r#"{{"id":"event_{id}","type":"{event_type}","timestamp":{timestamp_ms},"version":"v1.0.0","metadata":{{"org_id":"org_1","floor_id":"space_1","room_id":"{room}"}},"data":{data}}}"#
        )
    }

    /// A try of it.
    pub fn answered(&self, cause: Cause, answer: Answer, at: Option<Position>) -> Attempt {
        Attempt {
            key: hash::reading_key(self.event_type, &self.room, self.timestamp_ms),
            id: self.id,
            value: hash::bytes(self.value().as_bytes()),
            data: hash::bytes(self.data.as_bytes()),
            event_type: self.event_type,
            cause,
            answer,
            late: false,
            contradictory: false,
            at: at.map(|p| (p.partition, p.offset)),
        }
    }

    /// Its record as the contract says, at the next offset of its partition.
    pub fn record(&self, offset: i64) -> Stored {
        let time = |ms: i64| {
            let time = UNIX_EPOCH + Duration::from_millis(ms as u64);
            humantime::format_rfc3339_millis(time).to_string()
        };
        let kebab = self.event_type.kebab_name();
        let headers = [
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", format!("event_{}", self.id)),
            ("ce_source", "/butlr/org_1".to_owned()),
            ("ce_type", format!("io.butlr.{kebab}.v1")),
            ("ce_time", time(self.timestamp_ms)),
            ("ce_subject", self.room.clone()),
            ("ce_receivedat", time(NOW - 5)),
            ("content-type", "application/json".to_owned()),
        ];
        let headers = headers.into_iter();
        Stored {
            position: Position {
                topic: self.event_type.index() as u8,
                partition: murmur2::partition(self.room.as_bytes(), PARTITIONS) as i32,
                offset,
            },
            timestamp_ms: Some(self.timestamp_ms),
            key: Some(self.room.clone().into_bytes()),
            value: Some(self.value().into_bytes()),
            headers: headers
                .map(|(n, v)| (n.to_owned(), v.into_bytes()))
                .collect(),
        }
    }
}

/// A record as it lies in Kafka.
#[derive(Clone)]
pub struct Stored {
    pub position: Position,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Stored {
    pub fn header(&mut self, name: &str) -> &mut Vec<u8> {
        let mut headers = self.headers.iter_mut();
        &mut headers.find(|(n, _)| n == name).unwrap().1
    }

    /// Replaces a part of the value that is there once.
    pub fn change(&mut self, from: &str, to: &str) {
        let value = String::from_utf8(self.value.take().unwrap()).unwrap();
        assert_eq!(value.matches(from).count(), 1, "{value}");
        self.value = Some(value.replace(from, to).into_bytes());
    }
}

pub fn checker(truth: &Truth) -> Checker {
    checker_that(truth, false)
}

fn checker_that(truth: &Truth, skip_earlier: bool) -> Checker {
    let expected = Expected {
        timestamps: Timestamps::Event,
        received_ms: (NOW - 60_000, NOW),
        max_past_ms: 3 * 86_400_000,
        max_future_ms: 60_000,
    };
    let names = EventType::ALL.map(|t| format!("t.{}", t.kebab_name()));
    let order = Order::new(None, 0);
    Checker::new(
        names,
        [PARTITIONS; 10],
        expected,
        skip_earlier,
        order,
        truth,
    )
}

pub fn look(checker: &mut Checker, stored: &Stored) -> Option<Entry> {
    let headers = stored.headers.iter();
    let headers: Vec<_> = headers.map(|(n, v)| (n.as_str(), Some(&v[..]))).collect();
    checker.look(&Record {
        position: stored.position,
        timestamp_ms: stored.timestamp_ms,
        published_until_ms: NOW,
        key: stored.key.as_deref(),
        value: stored.value.as_deref(),
        headers: Some(&headers),
    })
}

/// What was sent and what is there.
#[derive(Clone)]
pub struct World {
    pub attempts: Vec<Attempt>,
    pub records: Vec<Stored>,
    pub truth: Truth,
    pub originals: bool,
    pub duplicates: Duplicates,
    pub restarted: bool,
    pub overtaken: bool,
    pub skip_earlier: bool,
    /// Partitions are read from their first records on.
    pub whole: bool,
    pub traffic_complete: bool,
}

impl World {
    pub fn empty() -> Self {
        Self {
            attempts: Vec::new(),
            records: Vec::new(),
            truth: Truth {
                at_ms: NOW,
                spaces: Vec::new(),
            },
            originals: true,
            duplicates: Duplicates::Detect,
            restarted: true,
            overtaken: false,
            skip_earlier: false,
            whole: false,
            traffic_complete: true,
        }
    }

    /// Stores an event, as a try with this cause that was answered `published`.
    pub fn publish(&mut self, sample: &Sample, cause: Cause) -> Position {
        let record = sample.record(self.records.len() as i64);
        let at = record.position;
        self.records.push(record);
        let attempt = sample.answered(cause, Answer::Published, Some(at));
        self.attempts.push(attempt);
        at
    }

    /// Notes a try, and nothing else.
    pub fn note(&mut self, sample: &Sample, cause: Cause, answer: Answer) {
        self.attempts.push(sample.answered(cause, answer, None));
    }

    /// Stores a record without a try.
    pub fn store(&mut self, sample: &Sample) {
        self.records.push(sample.record(self.records.len() as i64));
    }

    pub fn verify(&self) -> Report {
        let mut checker = checker_that(&self.truth, self.skip_earlier);
        if self.whole {
            let from = vec![vec![0; PARTITIONS]; EventType::ALL.len()];
            checker.order.reads_from(&from);
        }
        let mut buckets: BTreeMap<usize, (Vec<Attempt>, Vec<Entry>)> = BTreeMap::new();
        for attempt in &self.attempts {
            let bucket = buckets.entry(bucket_of(attempt.key)).or_default();
            bucket.0.push(*attempt);
        }
        for record in &self.records {
            if let Some(entry) = look(&mut checker, record) {
                buckets
                    .entry(bucket_of(entry.key))
                    .or_default()
                    .1
                    .push(entry);
            }
        }
        checker.finish();
        let names = EventType::ALL.map(|t| format!("t.{}", t.kebab_name()));
        let report = Report::new(names);
        let answered = |answer| self.attempts.iter().any(|a| a.answer == answer);
        let signs = Signs {
            redelivery: checker.signs.redelivery || answered(Answer::Redelivery),
            repeat: checker.signs.repeat || answered(Answer::Repeat),
            ..checker.signs
        };
        let judging = Judging::of(self.duplicates, self.restarted, self.overtaken, signs);
        let mut join = Join::new(report, &checker.aside, self.originals, judging, &self.truth);
        for (attempts, entries) in buckets.into_values() {
            join.bucket(attempts, entries);
        }
        join.end(&self.truth, self.traffic_complete)
    }
}
