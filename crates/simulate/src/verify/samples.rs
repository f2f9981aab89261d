//! Test support: sample events as attempts and as records, and their verification without Kafka.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use super::checker::{CheckerSettings, MarkEvidence, RecordChecker};
use super::consumed_record::ConsumedRecord;
use super::headers::{HeaderExpectations, TimestampBasis};
use super::join::{JournalJoin, TopicSet};
use super::murmur2;
use super::options::JudgmentRules;
use super::order::OrderTracker;
use super::record_digest::{RecordDigest, RecordPosition};
use super::report::VerificationReport;
use super::{DuplicatePolicy, Options, VerifierKafka};
use crate::city::GroundTruth;
use crate::hash;
use crate::journal::buckets::bucket_index;
use crate::journal::{AttemptCause, DeliveryAttempt, RecordedOutcome, ReportedPosition};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

pub const NOW: i64 = 1_800_000_000_000;
pub const PARTITIONS: usize = 6;

/// An event about a room.
#[derive(Clone)]
pub struct SampleEvent {
    pub id: Ksuid,
    pub event_type: EventType,
    pub room: String,
    pub timestamp_ms: i64,
    pub data: &'static str,
}

impl SampleEvent {
    /// Creates an event with an id of its own, generated at [`NOW`].
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

    /// Returns an attempt to deliver it.
    pub fn attempt(
        &self,
        cause: AttemptCause,
        outcome: RecordedOutcome,
        position: Option<RecordPosition>,
    ) -> DeliveryAttempt {
        DeliveryAttempt {
            reading_key: hash::reading_key(self.event_type, &self.room, self.timestamp_ms),
            id: self.id,
            value_hash: hash::hash_bytes(self.value().as_bytes()),
            data_hash: hash::hash_bytes(self.data.as_bytes()),
            event_type: self.event_type,
            cause,
            outcome,
            late: false,
            contradictory: false,
            reported_position: position.map(|p| ReportedPosition {
                partition: p.partition,
                offset: p.offset,
            }),
        }
    }

    /// Returns its record according to the contract, at this offset of its partition.
    pub fn record(&self, offset: i64) -> SampleRecord {
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
        SampleRecord {
            position: RecordPosition {
                topic: self.event_type,
                partition: murmur2::partition_for_key(self.room.as_bytes(), PARTITIONS) as i32,
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

/// A record as stored in Kafka.
#[derive(Clone)]
pub struct SampleRecord {
    pub position: RecordPosition,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl SampleRecord {
    pub fn header(&mut self, name: &str) -> &mut Vec<u8> {
        let mut headers = self.headers.iter_mut();
        &mut headers.find(|(n, _)| n == name).unwrap().1
    }

    /// Replaces a part that occurs once in the value.
    pub fn replace_in_value(&mut self, from: &str, to: &str) {
        let value = String::from_utf8(self.value.take().unwrap()).unwrap();
        assert_eq!(value.matches(from).count(), 1, "{value}");
        self.value = Some(value.replace(from, to).into_bytes());
    }
}

pub fn new_checker(truth: &GroundTruth) -> RecordChecker {
    checker_with(truth, false)
}

fn checker_with(truth: &GroundTruth, skip_before_run: bool) -> RecordChecker {
    let expected = HeaderExpectations {
        timestamps: TimestampBasis::Event,
        received_ms: (NOW - 60_000, NOW),
        max_past_ms: 3 * 86_400_000,
        max_future_ms: 60_000,
    };
    let settings = CheckerSettings {
        names: EventType::ALL.map(|t| format!("t.{}", t.kebab_name())),
        partitions: [PARTITIONS; 10],
        expected,
        skip_before_run,
    };
    RecordChecker::new(settings, OrderTracker::new(None, 0), truth)
}

pub fn check_record(checker: &mut RecordChecker, record: &SampleRecord) -> Option<RecordDigest> {
    let headers = record.headers.iter();
    let headers: Vec<_> = headers.map(|(n, v)| (n.as_str(), Some(&v[..]))).collect();
    checker.check(&ConsumedRecord {
        position: record.position,
        timestamp_ms: record.timestamp_ms,
        latest_publish_ms: NOW,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: Some(&headers),
    })
}

/// A run: the attempts of the sender, and the records in Kafka.
#[derive(Clone)]
pub struct SampleRun {
    pub attempts: Vec<DeliveryAttempt>,
    pub records: Vec<SampleRecord>,
    pub truth: GroundTruth,
    pub topics: TopicSet,
    pub duplicates: DuplicatePolicy,
    pub restarted: bool,
    pub concurrent_drain: bool,
    pub skip_before_run: bool,
    /// Partitions are read from their first record.
    pub read_from_start: bool,
    pub traffic_complete: bool,
}

impl SampleRun {
    pub fn empty() -> Self {
        Self {
            attempts: Vec::new(),
            records: Vec::new(),
            truth: GroundTruth {
                at_ms: NOW,
                spaces: Vec::new(),
            },
            topics: TopicSet::Originals,
            duplicates: DuplicatePolicy::Detect,
            restarted: true,
            concurrent_drain: false,
            skip_before_run: false,
            read_from_start: false,
            traffic_complete: true,
        }
    }

    /// Adds an event's record, and a published attempt with this cause.
    pub fn publish(&mut self, sample: &SampleEvent, cause: AttemptCause) -> RecordPosition {
        let record = sample.record(self.records.len() as i64);
        let position = record.position;
        self.records.push(record);
        let attempt = sample.attempt(cause, RecordedOutcome::Published, Some(position));
        self.attempts.push(attempt);
        position
    }

    /// Adds an attempt without a record.
    pub fn add_attempt(
        &mut self,
        sample: &SampleEvent,
        cause: AttemptCause,
        outcome: RecordedOutcome,
    ) {
        self.attempts.push(sample.attempt(cause, outcome, None));
    }

    /// Adds a record without an attempt.
    pub fn add_record(&mut self, sample: &SampleEvent) {
        self.records.push(sample.record(self.records.len() as i64));
    }

    fn options(&self) -> Options {
        Options {
            duplicates: self.duplicates,
            restarted: self.restarted,
            concurrent_drain: self.concurrent_drain,
            ..Options::new(VerifierKafka {
                bootstrap_servers: String::new(),
                properties: Vec::new(),
            })
        }
    }

    pub fn verify(&self) -> VerificationReport {
        let mut checker = checker_with(&self.truth, self.skip_before_run);
        if self.read_from_start {
            let from = vec![vec![0; PARTITIONS]; EventType::ALL.len()];
            checker.order.set_start_offsets(&from);
        }
        let mut buckets: BTreeMap<usize, (Vec<DeliveryAttempt>, Vec<RecordDigest>)> =
            BTreeMap::new();
        for attempt in &self.attempts {
            let bucket = buckets
                .entry(bucket_index(attempt.reading_key))
                .or_default();
            bucket.0.push(*attempt);
        }
        for record in &self.records {
            if let Some(digest) = check_record(&mut checker, record) {
                buckets
                    .entry(bucket_index(digest.reading_key))
                    .or_default()
                    .1
                    .push(digest);
            }
        }
        checker.finish();
        let names = EventType::ALL.map(|t| format!("t.{}", t.kebab_name()));
        let report = VerificationReport::new(names);
        let has_outcome = |outcome| self.attempts.iter().any(|a| a.outcome == outcome);
        let evidence = MarkEvidence {
            redelivery: checker.evidence.redelivery || has_outcome(RecordedOutcome::Redelivery),
            repeat: checker.evidence.repeat || has_outcome(RecordedOutcome::Repeat),
            ..checker.evidence
        };
        let rules = JudgmentRules::new(&self.options(), evidence);
        let mut join = JournalJoin::new(report, &checker.issues, self.topics, rules, &self.truth);
        for (attempts, digests) in buckets.into_values() {
            join.join_bucket(attempts, digests);
        }
        join.finish(&self.truth, self.traffic_complete)
    }
}
