//! The verifier reads the topics and proves, record by record, everything that a run's journal lets
//! it prove.
//!
//! ```text
//!  Kafka ─ read ─→ checker  each record by itself: value; topic, key, partition, headers, timestamp
//!                     │     a digest of the record goes to one of 128 files
//!  journal ─────────→ join  file by file: attempts and records of the same (type, space, timestamp)
//!                     │
//!                  report   one line per property
//! ```
//!
//! The join asks the oracle which events are redeliveries, repeats, revisions or stale. It replays
//! the attempts of each reading in their order, and compares responses and marks with the oracle's
//! verdicts. An attempt of unknown outcome may have been stored or not; either explanation is
//! accepted. Kinds that the bridge never recognises, according to all responses and headers, are
//! not required (its `dedup` settings may be off): see [`DuplicatePolicy`].
//!
//! Marks for events out of order are checked in partitions that are read from their first record. A
//! marked record needs a newer one before it, or one after it that was received no later: a bridge
//! goes by what it has accepted, and an accepted event may be in the spool while others overtake
//! it. A record without a mark is wrong if a newer event was received long before it, provided that
//! [`Options::known_after`] says how long that is.
//!
//! The verifier is independent of the code that it verifies. They share only `EventType`, the KSUID
//! parser (`butlr_event::ksuid`, tested against vectors of the reference implementation), the clock
//! and librdkafka. Values are parsed by a typed pass of the verifier's own, partitions are computed
//! by its own murmur2, and headers are derived from the value.
//!
//! # Memory and disk
//! An attempt takes 59 bytes of disk and a record 76; 50 million events take 6.8 GB. Reading takes
//! as much memory as librdkafka prefetches, about 160 MiB for any number of records. Joining takes
//! one file of each at a time: with 50 million events 390,000 attempts and records, about 110 MiB.
//! The newest time of each type of each space and sensor takes about 40 bytes. Details of
//! violations are kept for the first 100,000 records.
//!
//! # Odds
//! Values are compared by XXH3, 64 bits, so one in 2^64 (1.8 · 10^19) changed values goes
//! unnoticed. The hash is compared only with those of values sent with the same id, so the number
//! of events does not matter.
//!
//! Readings, (type, space, timestamp), are identified by 64 bits, too. The odds that two of n
//! readings collide are n² / 2^65: with 50 million 7 in 100,000. Their values would be taken for
//! revisions of each other, and a repeat of one be judged by the other: reported as a violation
//! although it is none or, if the values are equal, accepted although it is one. Everything else is
//! found by id.
//!
//! # Limits
//! A repeat of a reading that no outcome of this run explains may refer to a record from before the
//! run: such repeats are counted but not judged. An event is published at an unknown time between
//! `ce_receivedat` and the time at which its record is read. If its own time was too far off for
//! only a part of that interval, both the original and a replaced timestamp are accepted.

mod checker;
mod collector;
mod consumed_record;
pub(super) mod contract;
mod error;
mod headers;
mod join;
mod murmur2;
mod options;
mod order;
mod parsed_value;
mod record_digest;
mod report;
#[cfg(test)]
mod samples;
mod topic_reader;
mod topics;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use butlr_event::PerType;
use checker::{CheckerSettings, MarkEvidence, RecordChecker};
use collector::{AwaitedRecords, TopicSource, check_unchanged, collect};
pub use error::Error;
use headers::HeaderExpectations;
pub use headers::TimestampBasis;
use join::{JournalJoin, TopicSet};
use options::JudgmentRules;
pub use options::{DuplicatePolicy, Options};
use order::OrderTracker;
pub use record_digest::RecordPosition;
pub use report::{
    CopyCounts, MarkCounts, Property, PropertyFinding, VerdictCounts, VerificationReport, Violation,
};
pub use topics::VerifierKafka;

use super::journal::buckets::{self, BucketWriter};
use super::journal::{ClosedJournal, RecordedOutcome, StartOffsets};
use butlr_event::clock::now_ms;

/// Assumed limit of the difference between the clocks of two machines, ms.
const MAX_CLOCK_SKEW_MS: i64 = 60_000;
/// Prefix of the temporary directory for record digests.
const RECORDS_PREFIX: &str = "records-";
/// A run that ended longer ago than this needs no wait for further records, ms.
const RECENT_RUN_MS: i64 = 600_000;

/// Returns the current end offsets of the topics. To be called before a run's first request.
///
/// # Errors
/// Kafka cannot be reached, or topics are missing.
pub fn fetch_start_offsets(kafka: &VerifierKafka, template: &str) -> Result<StartOffsets, Error> {
    let names = topics::topic_names(template)?;
    let consumer = topics::create_consumer(kafka)?;
    let partitions = topics::partition_counts(&consumer, &names)?;
    let (_, offsets) = topics::fetch_all_watermarks(&consumer, &names, &partitions)?;
    Ok(StartOffsets { offsets })
}

/// Reads the topics and compares them with the journal. `progress` is called several times a second
/// with the number of records read and the number expected.
///
/// # Errors
/// The verification has no result, good or bad.
pub fn verify(
    journal: &ClosedJournal,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<VerificationReport, Error> {
    let started = Instant::now();
    let run = journal.run();
    let copies = options.copy_topics.as_ref().filter(|t| **t != run.topics);
    let topic_set = if copies.is_some() {
        TopicSet::Copies
    } else {
        TopicSet::Originals
    };
    let names = topics::topic_names(copies.unwrap_or(&run.topics))?;
    let consumer = topics::create_consumer(&options.kafka)?;
    let partitions = topics::partition_counts(&consumer, &names)?;
    let (begins, ends) = topics::fetch_all_watermarks(&consumer, &names, &partitions)?;
    let from = match (copies, &run.starts) {
        (None, Some(starts)) => starts.offsets.clone(),
        _ => begins.clone(),
    };
    check_unchanged(&names, &begins, &ends, &from)?;

    let mut checker = create_checker(journal, options, topic_set, &names, partitions);
    if topic_set == TopicSet::Originals {
        checker.order.set_start_offsets(&from);
    }
    remove_leftovers(journal.path())?;
    // Next to the journal, because a disk with room for that probably has room for this.
    let dir = tempfile::Builder::new()
        .prefix(RECORDS_PREFIX)
        .tempdir_in(journal.path())?;
    let mut digests = BucketWriter::create(dir.path())?;
    let awaited = match topic_set {
        TopicSet::Originals => awaited_records(journal),
        TopicSet::Copies => AwaitedRecords::default(),
    };
    let source = TopicSource {
        consumer: &consumer,
        names: &names,
        partitions,
        from,
    };
    let totals = collect(source, awaited, &mut checker, &mut digests, progress)?;
    checker.finish();
    drop(consumer);
    let checksums = digests.close()?;

    let mut report = VerificationReport::new(names);
    report.records = totals.records;
    report.bytes = totals.bytes;
    report.gave_up_reason = totals.gave_up_reason;
    report.required_marks = checker.order.required_marks;
    let has_outcome = |outcome| journal.outcome_count(outcome) > 0;
    let evidence = MarkEvidence {
        redelivery: checker.evidence.redelivery || has_outcome(RecordedOutcome::Redelivery),
        repeat: checker.evidence.repeat || has_outcome(RecordedOutcome::Repeat),
        ..checker.evidence
    };
    let rules = JudgmentRules::new(options, evidence);
    let end = journal.end();
    let mut join = JournalJoin::new(report, &checker.issues, topic_set, rules, &end.truth);
    for (n, checksum) in checksums.into_iter().enumerate() {
        join.join_bucket(
            journal.read_bucket(n)?,
            buckets::read_bucket(dir.path(), n, checksum)?,
        );
    }
    let mut report = join.finish(&end.truth, end.traffic_complete);
    report.elapsed = started.elapsed();
    Ok(report)
}

fn create_checker(
    journal: &ClosedJournal,
    options: &Options,
    topic_set: TopicSet,
    names: &PerType<String>,
    partitions: PerType<usize>,
) -> RecordChecker {
    let settings = CheckerSettings {
        names: names.clone(),
        partitions,
        expected: HeaderExpectations {
            timestamps: options.timestamps,
            received_ms: (
                journal.started_ms() - MAX_CLOCK_SKEW_MS,
                journal.end().ended_ms + MAX_CLOCK_SKEW_MS,
            ),
            max_past_ms: to_ms(options.max_past),
            max_future_ms: to_ms(options.max_future),
        },
        // Topics that are read from their beginning can contain earlier records.
        skip_before_run: topic_set == TopicSet::Copies || journal.run().starts.is_none(),
    };
    let order = OrderTracker::new(options.known_after.map(to_ms), to_ms(options.clock_setback));
    RecordChecker::new(settings, order, &journal.end().truth)
}

fn awaited_records(journal: &ClosedJournal) -> AwaitedRecords {
    let [published, spooled, unknown] = [
        RecordedOutcome::Published,
        RecordedOutcome::Spooled,
        RecordedOutcome::Unknown,
    ]
    .map(|outcome| journal.outcome_count(outcome));
    let is_recent = now_ms() - journal.end().ended_ms < RECENT_RUN_MS;
    AwaitedRecords {
        min_records: if is_recent { published + spooled } else { 0 },
        spooled: spooled > 0,
        may_grow: spooled + unknown > 0,
    }
}

/// Removes the temporary directories of interrupted verifications.
fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let has_prefix = entry
            .file_name()
            .to_string_lossy()
            .starts_with(RECORDS_PREFIX);
        if has_prefix && entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn to_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_an_interrupted_verification_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["records-a1", "records", "other"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("bucket-000"), "x").unwrap();
        }
        std::fs::write(dir.path().join("records-file"), "x").unwrap();
        remove_leftovers(dir.path()).unwrap();
        assert!(!dir.path().join("records-a1").exists());
        for name in ["records", "other", "records-file"] {
            assert!(dir.path().join(name).exists(), "{name}");
        }
    }
}
