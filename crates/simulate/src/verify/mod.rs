//! The verifier: reads the topics back and proves, record by record, what the journal of a run lets it prove.
//!
//! ```text
//!  Kafka ─ read ─→ check   each record by itself: what its value tells; topic, key, partition, headers, timestamp
//!                    │     what the join needs of it goes to one of 128 files
//!  journal ────────→ join  file by file: tries and records of the same (type, space, timestamp)
//!                    │
//!                  report  one line a property
//! ```
//!
//! What the bridge should have told apart, redeliveries, repeats, revisions and stale ones, the join asks the oracle: it
//! lets the tries of each reading pass in their order, and holds answers and marks against its verdicts. A try whose answer
//! is not known may have been stored or not; then all is right that either explains. What no answer and no header shows
//! that the bridge recognises at all (its `dedup` settings may be off) is not asked for: see [`Duplicates`].
//!
//! That a record came out of order is checked where its partition was read from its first record on: one that says so needs
//! a newer one before it, or one after it that was received no later: a bridge goes by what it has accepted, which may wait
//! on its disk while others pass it by. That one says nothing is wrong where something newer was received long before it, if it is told
//! how long that is: see [`Options::known_after`].
//!
//! With what it examines it shares `EventType`, the reading of KSUIDs (`butlr_event::ksuid`, held to vectors of the reference
//! implementation by its tests) and librdkafka, and no other code: values are read by a typed pass of its own, partitions
//! come from a murmur2 of its own, headers are derived from the value.
//!
//! # Memory and disk
//! A try takes 59 bytes of disk and a record 76; at 50 million events that is 6.8 GB. Reading takes as much memory as
//! librdkafka prefetches, about 160 MiB whatever the number of records; joining takes one file of each at a time, 390,000
//! tries and records at 50 million events, about 110 MiB; the newest time is kept for each type of each space and sensor,
//! about 40 bytes. Details of what is wrong with single records are kept for the
//! first 100,000 of them.
//!
//! # Odds
//! Values are compared by XXH3, 64 bits: a changed value goes unnoticed once in 2^64 (1.8 · 10^19) changed values. The
//! hash is only ever compared with those of values sent under the same id, so the number of events does not matter.
//!
//! Readings, (type, space, timestamp), are told apart by 64 bits, too: two of n readings are taken for one with odds of
//! n² / 2^65: at 50 million 7 in 100,000. Their values would then be taken for revisions of one another, and a repeat of
//! the one be judged by the other: as violated where it is not, or, where both are equal, as right where it is not. All else
//! is found by id.
//!
//! # What is taken on trust
//! A repeat of a reading of which no answer of this run tells may rest on a record from before the run: such ones are
//! counted and not judged. The moment of publishing lies between `ce_receivedat` and the moment at which a record is read
//! back: an event's time that is too far off only at a moment in between may be replaced or not.

mod checker;
mod collector;
mod error;
mod headers;
mod join;
mod murmur2;
pub(super) mod names;
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

use checker::{MarkEvidence, RecordChecker};
use collector::{AwaitedRecords, TopicSource, check_unchanged, collect};
pub use error::Error;
use headers::HeaderExpectations;
pub use headers::TimestampBasis;
use join::JournalJoin;
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

/// Clocks of different machines may differ by so much, ms.
const MAX_CLOCK_SKEW_MS: i64 = 60_000;
/// The directory for what is kept of records until it is joined.
const RECORDS_PREFIX: &str = "records-";
/// After so long nobody waits for records any more, ms.
const RECENT_RUN_MS: i64 = 600_000;

/// Where the topics end now: what a run notes before its first request.
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

/// Reads the topics and compares them with the journal. `progress` is shown how many records were read, of how many, a
/// few times a second.
///
/// # Errors
/// Nothing could be proved, one way or the other.
pub fn verify(
    journal: &ClosedJournal,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<VerificationReport, Error> {
    let begun = Instant::now();
    let run = journal.run();
    let copies = options.copy_topics.as_ref().filter(|t| **t != run.topics);
    let names = topics::topic_names(copies.unwrap_or(&run.topics))?;
    let consumer = topics::create_consumer(&options.kafka)?;
    let partitions = topics::partition_counts(&consumer, &names)?;
    let (begins, ends) = topics::fetch_all_watermarks(&consumer, &names, &partitions)?;
    let from = match (copies, &run.starts) {
        (None, Some(starts)) => starts.offsets.clone(),
        _ => begins.clone(),
    };
    check_unchanged(&names, &begins, &ends, &from)?;

    let truth = &journal.end().truth;
    let expected = HeaderExpectations {
        timestamps: options.timestamps,
        received_ms: (
            journal.started_ms() - MAX_CLOCK_SKEW_MS,
            journal.end().ended_ms + MAX_CLOCK_SKEW_MS,
        ),
        max_past_ms: to_ms(options.max_past),
        max_future_ms: to_ms(options.max_future),
    };
    // From their beginning topics hold records of before, too.
    let whole = copies.is_some() || run.starts.is_none();
    let mut order = OrderTracker::new(options.known_after.map(to_ms), to_ms(options.clock_setback));
    if copies.is_none() {
        order.set_start_offsets(&from);
    }
    let mut checker = RecordChecker::new(names.clone(), partitions, expected, whole, order, truth);
    remove_leftovers(journal.path())?;
    // Beside the journal: there is room for it, as there was for the journal.
    let dir = tempfile::Builder::new()
        .prefix(RECORDS_PREFIX)
        .tempdir_in(journal.path())?;
    let mut entries = BucketWriter::create(dir.path())?;
    let awaited = match copies {
        None => awaited_records(journal),
        Some(_) => AwaitedRecords::default(),
    };
    let source = TopicSource {
        consumer: &consumer,
        names: &names,
        partitions,
    };
    let gathered = collect(&source, from, awaited, &mut checker, &mut entries, progress)?;
    checker.finish();
    drop(consumer);
    let entries = entries.close()?;

    let mut report = VerificationReport::new(names);
    report.records = gathered.records;
    report.bytes = gathered.bytes;
    report.gave_up_reason = gathered.gave_up_reason;
    report.required_marks = checker.order.required_marks;
    let signs = MarkEvidence {
        redelivery: checker.evidence.redelivery
            || journal.outcome_count(RecordedOutcome::Redelivery) > 0,
        repeat: checker.evidence.repeat || journal.outcome_count(RecordedOutcome::Repeat) > 0,
        ..checker.evidence
    };
    let judging = JudgmentRules::from_policy(
        options.duplicates,
        options.restarted,
        options.concurrent_drain,
        signs,
    );
    let mut join = JournalJoin::new(report, &checker.issues, copies.is_none(), judging, truth);
    for (n, sum) in entries.into_iter().enumerate() {
        join.join_bucket(
            journal.read_bucket(n)?,
            buckets::read_bucket(dir.path(), n, sum)?,
        );
    }
    let mut report = join.finish(truth, journal.end().traffic_complete);
    report.elapsed = begun.elapsed();
    Ok(report)
}

fn awaited_records(journal: &ClosedJournal) -> AwaitedRecords {
    let [published, spooled, unknown] = [
        RecordedOutcome::Published,
        RecordedOutcome::Spooled,
        RecordedOutcome::Unknown,
    ]
    .map(|a| journal.outcome_count(a));
    let recent = now_ms() - journal.end().ended_ms < RECENT_RUN_MS;
    AwaitedRecords {
        min_records: if recent { published + spooled } else { 0 },
        spooled: spooled > 0,
        may_grow: spooled + unknown > 0,
    }
}

/// Removes what a verification left behind that was interrupted.
fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let left = entry
            .file_name()
            .to_string_lossy()
            .starts_with(RECORDS_PREFIX);
        if left && entry.file_type()?.is_dir() {
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
    fn what_an_interrupted_verification_left_goes() {
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
