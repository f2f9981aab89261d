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

mod check;
mod entry;
mod error;
mod gather;
mod headers;
mod join;
mod murmur2;
pub(super) mod names;
mod options;
mod order;
mod read;
mod report;
#[cfg(test)]
mod samples;
mod told;
mod topics;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use check::{Checker, Signs};
pub use entry::Position;
pub use error::Error;
use gather::{Awaited, Source, gather, unaltered};
use headers::Expected;
pub use headers::Timestamps;
use join::Join;
use options::Judging;
pub use options::{Duplicates, Options};
use order::Order;
pub use report::{Copies, Finding, Marked, Property, Report, Verdicts, Violation};
pub use topics::Kafka;

use super::journal::buckets::{self, Buckets};
use super::journal::{Answer, ClosedJournal, Starts};
use butlr_event::clock::now_ms;

/// Clocks of different machines may differ by so much, ms.
const CLOCKS: i64 = 60_000;
/// The directory for what is kept of records until it is joined.
const RECORDS: &str = "records-";
/// After so long nobody waits for records any more, ms.
const LONG_OVER: i64 = 600_000;

/// Where the topics end now: what a run notes before its first request.
///
/// # Errors
/// Kafka cannot be reached, or topics are missing.
pub fn start_offsets(kafka: &Kafka, template: &str) -> Result<Starts, Error> {
    let names = topics::names(template)?;
    let consumer = topics::consumer(kafka)?;
    let partitions = topics::partitions(&consumer, &names)?;
    let (_, offsets) = topics::bounds(&consumer, &names, &partitions)?;
    Ok(Starts { offsets })
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
) -> Result<Report, Error> {
    let begun = Instant::now();
    let run = journal.run();
    let copies = options.copies.as_ref().filter(|t| **t != run.topics);
    let names = topics::names(copies.unwrap_or(&run.topics))?;
    let consumer = topics::consumer(&options.kafka)?;
    let partitions = topics::partitions(&consumer, &names)?;
    let (begins, ends) = topics::bounds(&consumer, &names, &partitions)?;
    let from = match (copies, &run.starts) {
        (None, Some(starts)) => starts.offsets.clone(),
        _ => begins.clone(),
    };
    unaltered(&names, &begins, &ends, &from)?;

    let truth = &journal.end().truth;
    let expected = Expected {
        timestamps: options.timestamps,
        received_ms: (
            journal.started_ms() - CLOCKS,
            journal.end().ended_ms + CLOCKS,
        ),
        max_past_ms: ms(options.max_past),
        max_future_ms: ms(options.max_future),
    };
    // From their beginning topics hold records of before, too.
    let whole = copies.is_some() || run.starts.is_none();
    let mut order = Order::new(options.known_after.map(ms), ms(options.put_back));
    if copies.is_none() {
        order.reads_from(&from);
    }
    let mut checker = Checker::new(names.clone(), partitions, expected, whole, order, truth);
    clear(journal.path())?;
    // Beside the journal: there is room for it, as there was for the journal.
    let dir = tempfile::Builder::new()
        .prefix(RECORDS)
        .tempdir_in(journal.path())?;
    let mut entries = Buckets::create(dir.path())?;
    let awaited = match copies {
        None => awaited(journal),
        Some(_) => Awaited::default(),
    };
    let source = Source {
        consumer: &consumer,
        names: &names,
        partitions,
    };
    let gathered = gather(&source, from, awaited, &mut checker, &mut entries, progress)?;
    checker.finish();
    drop(consumer);
    let entries = entries.close()?;

    let mut report = Report::new(names);
    report.records = gathered.records;
    report.bytes = gathered.bytes;
    report.gave_up = gathered.gave_up;
    report.long_older = checker.order.long_older;
    let signs = Signs {
        redelivery: checker.signs.redelivery || journal.answered(Answer::Redelivery) > 0,
        repeat: checker.signs.repeat || journal.answered(Answer::Repeat) > 0,
        ..checker.signs
    };
    let judging = Judging::of(
        options.duplicates,
        options.restarted,
        options.overtaken,
        signs,
    );
    let mut join = Join::new(report, &checker.aside, copies.is_none(), judging, truth);
    for (n, sum) in entries.into_iter().enumerate() {
        join.bucket(journal.bucket(n)?, buckets::read(dir.path(), n, sum)?);
    }
    let mut report = join.end(truth, journal.end().traffic_complete);
    report.took = begun.elapsed();
    Ok(report)
}

fn awaited(journal: &ClosedJournal) -> Awaited {
    let [published, spooled, unknown] =
        [Answer::Published, Answer::Spooled, Answer::Unknown].map(|a| journal.answered(a));
    let recent = now_ms() - journal.end().ended_ms < LONG_OVER;
    Awaited {
        least: if recent { published + spooled } else { 0 },
        spooled: spooled > 0,
        unsettled: spooled + unknown > 0,
    }
}

/// Removes what a verification left behind that was interrupted.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let left = entry.file_name().to_string_lossy().starts_with(RECORDS);
        if left && entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn ms(duration: Duration) -> i64 {
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
        clear(dir.path()).unwrap();
        assert!(!dir.path().join("records-a1").exists());
        for name in ["records", "other", "records-file"] {
            assert!(dir.path().join(name).exists(), "{name}");
        }
    }
}
