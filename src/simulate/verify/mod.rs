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
//! It shares no code with what it examines but `EventType` and librdkafka: values are read by a typed pass of its own,
//! partitions come from a murmur2 of its own, headers are derived from the value.
//!
//! # Memory and disk
//! A try takes 59 bytes of disk and a record 67; in memory, while their file is joined, 72 and 80. At 50 million events that
//! is 6.3 GB on disk, 390,000 of each a file, and 100 MB at a time. Reading takes as much as librdkafka prefetches: 160 MB,
//! whatever the number of records (measured with 5 million of 750 bytes, join included). Details of what is wrong with
//! single records are kept for the first 100,000 of them.
//!
//! # Odds
//! Values are compared by XXH3, 64 bits: a changed value goes unnoticed once in 2^64 (1.8 · 10^19) changed values. The
//! hash is only ever compared with those of values sent under the same id, so the number of events does not matter. A
//! (type, space, timestamp) hashed alike with another only shares a file with it; an equal reading is found where there is
//! none with odds of 2^-128 a pair.

mod check;
mod entry;
mod gather;
mod headers;
mod join;
mod murmur2;
mod read;
mod report;
#[cfg(test)]
mod samples;
mod told;
mod topics;

use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use check::Checker;
pub use entry::Position;
use gather::{Source, gather, unaltered};
use headers::Expected;
pub use headers::Timestamps;
use join::Join;
pub use report::{Copies, Finding, Property, Report, Violation};
pub use topics::Kafka;

use super::journal::buckets::{self, Buckets};
use super::journal::{Answer, ClosedJournal, Starts};

/// Clocks of different machines may differ by so much, ms.
const CLOCKS: i64 = 60_000;

/// How to verify.
#[derive(Clone)]
pub struct Options {
    /// Where the topics are.
    pub kafka: Kafka,
    /// Copies of the run's topics, to be read from their beginning, instead of the originals.
    pub copies: Option<String>,
    /// Which time records are stamped with.
    pub timestamps: Timestamps,
}

/// Why nothing could be proved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a template.
    #[error(
        "{0:?} is not what topics' names are made of: it must contain {{type}} once, as in butlr.event.{{type}}.v1"
    )]
    Template(String),
    /// librdkafka does not take it.
    #[error("{name}: {text}")]
    Property {
        /// The property.
        name: String,
        /// What librdkafka says.
        text: String,
    },
    /// Kafka did not do what it was asked.
    #[error("Kafka was asked about {what}: {text}")]
    Kafka {
        /// What it was asked about.
        what: String,
        /// What it said.
        text: String,
    },
    /// Topics do not exist.
    #[error("these topics do not exist: {}; `butlr-bridge topics --apply` makes the bridge's topics, `--topics` names others", .0.join(", "))]
    Missing(Vec<String>),
    /// The topics are not those of the run any more.
    #[error(
        "{topic} is not as it was when the run began ({what}), so that nothing can be proved from it"
    )]
    Altered {
        /// The topic.
        topic: String,
        /// What is different.
        what: String,
    },
    /// Nothing came.
    #[error(
        "no record came for {seconds} s: {first}, {further} further partitions are unread{trouble}"
    )]
    Stalled {
        /// How long was waited.
        seconds: u64,
        /// The first partition that is unread.
        first: String,
        /// How many more are.
        further: usize,
        /// The last thing that librdkafka complained of.
        trouble: String,
    },
    /// The journal is damaged, or the disk full.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl Error {
    fn kafka(what: String, text: &dyn std::fmt::Display) -> Self {
        let text = text.to_string();
        Self::Kafka { what, text }
    }

    /// Whether other arguments would help.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Template(_) | Error::Property { .. })
    }
}

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
        published_until_ms: now_ms() + CLOCKS,
    };
    let mut checker = Checker::new(names.clone(), partitions, expected, truth);
    // Beside the journal: there is room for it, as there was for the journal.
    let dir = tempfile::Builder::new()
        .prefix("records-")
        .tempdir_in(journal.path())?;
    let mut entries = Buckets::create(dir.path())?;
    let unsettled = journal.answered(Answer::Unknown) + journal.answered(Answer::Spooled) > 0;
    let source = Source {
        consumer: &consumer,
        names: &names,
        partitions,
    };
    let gathered = gather(
        &source,
        from,
        unsettled,
        &mut checker,
        &mut entries,
        progress,
    )?;
    drop(consumer);
    let entries = entries.close()?;

    let mut report = Report::new(names);
    report.records = gathered.records;
    report.bytes = gathered.bytes;
    let mut join = Join::new(report, &checker.aside, copies.is_none(), truth);
    for (n, sum) in entries.into_iter().enumerate() {
        join.bucket(journal.bucket(n)?, buckets::read(dir.path(), n, sum)?);
    }
    let mut report = join.end(truth, journal.end().traffic_complete);
    report.took = begun.elapsed();
    Ok(report)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
