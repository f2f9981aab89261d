//! The journal: what was sent and what was answered, on disk.
//!
//! A directory with `journal.json` (the run, and what each file must hold) and 128 files of fixed-size items, one for each
//! answered or given-up request (59 bytes: 3 GB for 50 million), put there by the hash of (type, space, timestamp) so that
//! all computations of one reading lie together. While it is written it takes 4 MiB of buffers and nothing else.
//! `journal.json` tells the end only once everything else is written: a run that was killed leaves a journal that says so.

mod attempt;
pub mod buckets;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub use attempt::{AttemptCause, DeliveryAttempt, RecordedOutcome};
use buckets::{BUCKET_COUNT, BucketChecksum, BucketWriter};

use crate::city::GroundTruth;
use butlr_event::clock::now_ms;

/// The version of the files' form.
const FORMAT_VERSION: u32 = 2;
const JOURNAL_FILE: &str = "journal.json";

/// Where a run's topics stood before its first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOffsets {
    /// One entry a type, in the order of [`butlr_event::EventType::ALL`]; in it the end offset of each partition.
    pub offsets: Vec<Vec<i64>>,
}

/// What is known of a run before its first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHeader {
    /// What the topics' names are made of; `{type}` stands for the type in kebab case.
    pub topics: String,
    /// `None` where Kafka was not asked: the topics are then read from their beginning.
    pub starts: Option<StartOffsets>,
}

/// `journal.json`.
#[derive(Debug, Serialize, Deserialize)]
struct JournalContents {
    form: u32,
    run: RunHeader,
    started_ms: i64,
    end: Option<RunEnd>,
}

#[derive(Deserialize)]
struct FormatVersion {
    form: u32,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunEnd {
    /// When, ms since 1970.
    pub ended_ms: i64,
    /// Tries by answer, in the order of [`Answer::ALL`].
    pub answers: [u64; RecordedOutcome::ALL.len()],
    /// The model's truth at the end.
    pub truth: GroundTruth,
    /// Whether every TRAFFIC event up to the truth's moment was taken.
    pub traffic_complete: bool,
    buckets: Vec<BucketChecksum>,
}

/// Where the files are: for good, or until it is dropped.
#[derive(Debug)]
enum JournalDir {
    Permanent(PathBuf),
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

/// A journal being written.
pub struct JournalWriter {
    dir: JournalDir,
    contents: JournalContents,
    attempts: BucketWriter<DeliveryAttempt>,
    answers: [u64; RecordedOutcome::ALL.len()],
}

impl JournalWriter {
    /// Begins a journal in `dir`, which is made where it does not exist and must not hold one yet; without `dir` in the
    /// system's directory for temporary files (`TMPDIR`), from where it goes when it is dropped.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn create(dir: Option<&Path>, run: RunHeader) -> io::Result<Self> {
        let place = match dir {
            None => JournalDir::Temporary(
                tempfile::Builder::new()
                    .prefix("butlr-journal-")
                    .tempdir()?,
            ),
            Some(dir) => {
                fs::create_dir_all(dir).map_err(|e| with_path(dir, &e))?;
                if fs::exists(dir.join(JOURNAL_FILE)).map_err(|e| with_path(dir, &e))? {
                    let text = format!("{}: holds a journal already", dir.display());
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
                }
                JournalDir::Permanent(dir.to_owned())
            }
        };
        let contents = JournalContents {
            form: FORMAT_VERSION,
            run,
            started_ms: now_ms(),
            end: None,
        };
        let attempts =
            BucketWriter::create(place.path()).map_err(|e| with_path(place.path(), &e))?;
        write_contents(place.path(), &contents)?;
        Ok(Self {
            dir: place,
            contents,
            attempts,
            answers: [0; RecordedOutcome::ALL.len()],
        })
    }

    /// Notes a request that was answered or given up.
    ///
    /// # Errors
    /// The disk is full or broken: what is written then proves nothing.
    pub fn record_attempt(&mut self, attempt: &DeliveryAttempt) -> io::Result<()> {
        self.answers[attempt.outcome as usize] += 1;
        let noted = self.attempts.push(attempt);
        noted.map_err(|e| with_path(self.dir.path(), &e))
    }

    /// Ends it. `traffic_complete`: TRAFFIC was sent, and no event of it dropped, refused or left out.
    ///
    /// # Errors
    /// As in [`Journal::note`].
    pub fn finish(self, truth: GroundTruth, traffic_complete: bool) -> io::Result<ClosedJournal> {
        let dir = self.dir.path();
        let end = RunEnd {
            ended_ms: now_ms(),
            answers: self.answers,
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

/// A journal that is complete.
#[derive(Debug)]
pub struct ClosedJournal {
    dir: JournalDir,
    run: RunHeader,
    started_ms: i64,
    end: RunEnd,
}

/// Why a directory is no journal that proves anything.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `journal.json` is not there.
    #[error("{}: holds no journal ({JOURNAL_FILE}); `butlr-bridge simulate --journal DIR` writes one", .0.display())]
    NotFound(PathBuf),
    /// It is something else, or of another version.
    #[error("{}: cannot be read as a journal: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Its end is missing.
    #[error("{}: the run that wrote this journal did not come to its end, so that not all of its answers are there", .0.display())]
    Unfinished(PathBuf),
}

impl ClosedJournal {
    /// Opens the journal of an earlier run.
    ///
    /// # Errors
    /// The directory holds none, or not all of one. Its other files are looked at when they are read.
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
        // Of another form nothing but its number need be readable.
        let FormatVersion { form } =
            serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
        if form != FORMAT_VERSION {
            return Err(unreadable(format!(
                "its form is {form}, this version reads {FORMAT_VERSION}"
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What was known before the first request.
    pub fn run(&self) -> &RunHeader {
        &self.run
    }

    /// When it was begun, ms since 1970.
    pub fn started_ms(&self) -> i64 {
        self.started_ms
    }

    /// How the run ended.
    pub fn end(&self) -> &RunEnd {
        &self.end
    }

    /// How many tries were answered so.
    pub fn outcome_count(&self, answer: RecordedOutcome) -> u64 {
        self.end.answers[answer as usize]
    }

    /// How many requests were noted.
    pub fn attempt_count(&self) -> u64 {
        self.end.answers.iter().sum()
    }

    /// The tries of one of the [`BUCKETS`], in the order in which they were noted.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn read_bucket(&self, n: usize) -> io::Result<Vec<DeliveryAttempt>> {
        buckets::read_bucket(self.path(), n, self.end.buckets[n])
    }
}

/// Written beside and renamed, so that it is there whole or not at all.
fn write_contents(dir: &Path, contents: &JournalContents) -> io::Result<()> {
    let beside = dir.join("journal.json.new");
    let text = serde_json::to_vec_pretty(contents).map_err(io::Error::other)?;
    let written =
        fs::write(&beside, text).and_then(|()| fs::rename(&beside, dir.join(JOURNAL_FILE)));
    written.map_err(|e| with_path(dir, &e))
}

fn with_path(dir: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", dir.display()))
}

#[cfg(test)]
mod tests;
