//! The journal: every request of a run and its outcome, on disk.
//!
//! A journal is a directory with `journal.json` (the run, and the checksum of each file) and 128
//! files of fixed-size items, one per request that got a response or was given up (59 bytes: 3 GB
//! for 50 million). Items are partitioned by the hash of (type, space, timestamp), so that all
//! computations of one reading are in the same file. Writing needs 4 MiB of buffers and nothing
//! else. `journal.json` records the end only after everything else is written, so a run that was
//! killed leaves a journal that is visibly unfinished.

mod attempt;
pub mod buckets;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub use attempt::{AttemptCause, DeliveryAttempt, RecordedOutcome, ReportedPosition};
use buckets::{BUCKET_COUNT, BucketChecksum, BucketWriter};

use crate::city::GroundTruth;
use butlr_event::clock::now_ms;

/// Version of the on-disk format.
const FORMAT_VERSION: u32 = 2;
const JOURNAL_FILE: &str = "journal.json";

/// End offsets of the topics before the run's first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOffsets {
    /// One entry per type, in the order of [`butlr_event::EventType::ALL`], with the end offset of
    /// each partition.
    pub offsets: Vec<Vec<i64>>,
}

/// Facts about a run that are known before its first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHeader {
    /// Template of the topic names; `{type}` stands for the type in kebab case.
    pub topics: String,
    /// Start offsets; `None` if Kafka was not asked, and the topics are read from their beginning.
    pub starts: Option<StartOffsets>,
}

/// Contents of `journal.json`.
#[derive(Debug, Serialize, Deserialize)]
struct JournalContents {
    #[serde(rename = "form")]
    format: u32,
    run: RunHeader,
    started_ms: i64,
    end: Option<RunEnd>,
}

#[derive(Deserialize)]
struct FormatVersion {
    #[serde(rename = "form")]
    format: u32,
}

/// Facts about a run that are known at its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunEnd {
    /// End time, ms since 1970.
    pub ended_ms: i64,
    /// Number of attempts per outcome, in the order of [`RecordedOutcome::ALL`].
    #[serde(rename = "answers")]
    pub outcomes: [u64; RecordedOutcome::ALL.len()],
    /// The people in each space at the end, according to the model.
    pub truth: GroundTruth,
    /// `true` if every TRAFFIC event up to that moment was accepted.
    pub traffic_complete: bool,
    buckets: Vec<BucketChecksum>,
}

/// Directory of the files.
#[derive(Debug)]
enum JournalDir {
    Permanent(PathBuf),
    /// Deleted on drop.
    Temporary(TempDir),
}

impl JournalDir {
    fn path(&self) -> &Path {
        match self {
            JournalDir::Permanent(path) => path,
            JournalDir::Temporary(dir) => dir.path(),
        }
    }
}

/// Writes a journal.
pub struct JournalWriter {
    dir: JournalDir,
    contents: JournalContents,
    attempts: BucketWriter<DeliveryAttempt>,
    outcomes: [u64; RecordedOutcome::ALL.len()],
}

impl JournalWriter {
    /// Creates a journal in `dir`. The directory is created if necessary and must not hold a
    /// journal yet. Without `dir`, the journal is a temporary directory (in `TMPDIR`), deleted on
    /// drop.
    ///
    /// # Errors
    /// The files cannot be created.
    pub fn create(dir: Option<&Path>, run: RunHeader) -> io::Result<Self> {
        let journal_dir = match dir {
            None => JournalDir::Temporary(
                tempfile::Builder::new()
                    .prefix("butlr-journal-")
                    .tempdir()?,
            ),
            Some(dir) => {
                fs::create_dir_all(dir).map_err(|e| with_path(dir, &e))?;
                if fs::exists(dir.join(JOURNAL_FILE)).map_err(|e| with_path(dir, &e))? {
                    let text = format!("{}: already holds a journal", dir.display());
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
                }
                JournalDir::Permanent(dir.to_owned())
            }
        };
        let contents = JournalContents {
            format: FORMAT_VERSION,
            run,
            started_ms: now_ms(),
            end: None,
        };
        let attempts = BucketWriter::create(journal_dir.path())
            .map_err(|e| with_path(journal_dir.path(), &e))?;
        write_contents(journal_dir.path(), &contents)?;
        Ok(Self {
            dir: journal_dir,
            contents,
            attempts,
            outcomes: [0; RecordedOutcome::ALL.len()],
        })
    }

    /// Adds a request that got a response or was given up.
    ///
    /// # Errors
    /// The disk is full or broken. The journal then proves nothing.
    pub fn record_attempt(&mut self, attempt: &DeliveryAttempt) -> io::Result<()> {
        self.outcomes[attempt.outcome as usize] += 1;
        let pushed = self.attempts.push(attempt);
        pushed.map_err(|e| with_path(self.dir.path(), &e))
    }

    /// Completes the journal. `traffic_complete`: TRAFFIC was sent, and none of its events was
    /// dropped, refused or left out.
    ///
    /// # Errors
    /// As in [`record_attempt`](Self::record_attempt).
    pub fn finish(self, truth: GroundTruth, traffic_complete: bool) -> io::Result<ClosedJournal> {
        let dir = self.dir.path();
        let end = RunEnd {
            ended_ms: now_ms(),
            outcomes: self.outcomes,
            truth,
            traffic_complete,
            buckets: self.attempts.close().map_err(|e| with_path(dir, &e))?,
        };
        let contents = JournalContents {
            end: Some(end.clone()),
            ..self.contents
        };
        write_contents(dir, &contents)?;
        Ok(ClosedJournal {
            dir: self.dir,
            run: contents.run,
            started_ms: contents.started_ms,
            end,
        })
    }
}

/// A complete journal.
#[derive(Debug)]
pub struct ClosedJournal {
    dir: JournalDir,
    run: RunHeader,
    started_ms: i64,
    end: RunEnd,
}

/// Error of [`ClosedJournal::open`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory has no `journal.json`.
    #[error("{}: no journal ({JOURNAL_FILE}) here; `butlr-bridge simulate --journal DIR` writes one", .0.display())]
    NotFound(PathBuf),
    /// `journal.json` is something else, or has another version.
    #[error("{}: not a readable journal: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// The end is missing.
    #[error("{}: the run that wrote this journal was interrupted, so the journal is incomplete", .0.display())]
    Unfinished(PathBuf),
}

impl ClosedJournal {
    /// Opens the journal of an earlier run.
    ///
    /// # Errors
    /// The directory holds no journal, or an incomplete one. The other files are checked when they
    /// are read.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(JOURNAL_FILE);
        let unreadable = |reason: String| Error::Unreadable {
            path: path.clone(),
            reason,
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotFound(dir.to_owned()));
            }
            Err(e) => return Err(unreadable(e.to_string())),
        };
        // In another version only the number has to be readable.
        let FormatVersion { format } =
            serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
        if format != FORMAT_VERSION {
            return Err(unreadable(format!(
                "its format is {format}, this version reads {FORMAT_VERSION}"
            )));
        }
        let contents: JournalContents =
            serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
        let end = contents
            .end
            .ok_or_else(|| Error::Unfinished(dir.to_owned()))?;
        if end.buckets.len() != BUCKET_COUNT {
            return Err(unreadable(format!(
                "it lists {} files instead of {BUCKET_COUNT}",
                end.buckets.len()
            )));
        }
        Ok(Self {
            dir: JournalDir::Permanent(dir.to_owned()),
            run: contents.run,
            started_ms: contents.started_ms,
            end,
        })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the facts that were known before the first request.
    pub fn run(&self) -> &RunHeader {
        &self.run
    }

    /// Returns the time at which the journal was created, ms since 1970.
    pub fn started_ms(&self) -> i64 {
        self.started_ms
    }

    /// Returns the facts that were known at the end of the run.
    pub fn end(&self) -> &RunEnd {
        &self.end
    }

    /// Returns the number of attempts with this outcome.
    pub fn outcome_count(&self, outcome: RecordedOutcome) -> u64 {
        self.end.outcomes[outcome as usize]
    }

    /// Returns the number of attempts.
    pub fn attempt_count(&self) -> u64 {
        self.end.outcomes.iter().sum()
    }

    /// Reads the attempts of one of the [`BUCKET_COUNT`] files, in the order in which they were
    /// added.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn read_bucket(&self, n: usize) -> io::Result<Vec<DeliveryAttempt>> {
        buckets::read_bucket(self.path(), n, self.end.buckets[n])
    }
}

/// Writes a new file and renames it, so that a reader never sees a part of it.
fn write_contents(dir: &Path, contents: &JournalContents) -> io::Result<()> {
    let new_file = dir.join("journal.json.new");
    let text = serde_json::to_vec_pretty(contents).map_err(io::Error::other)?;
    let written =
        fs::write(&new_file, text).and_then(|()| fs::rename(&new_file, dir.join(JOURNAL_FILE)));
    written.map_err(|e| with_path(dir, &e))
}

fn with_path(dir: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", dir.display()))
}

#[cfg(test)]
mod tests;
