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

pub use attempt::{Answer, Attempt, Cause};
use buckets::{BUCKETS, Buckets, Sum};

use crate::city::Truth;
use butlr_event::clock::now_ms;

/// The version of the files' form.
const FORM: u32 = 2;
const FILE: &str = "journal.json";

/// Where a run's topics stood before its first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    /// One entry a type, in the order of [`butlr_event::EventType::ALL`]; in it the end offset of each partition.
    pub offsets: Vec<Vec<i64>>,
}

/// What is known of a run before its first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What the topics' names are made of; `{type}` stands for the type in kebab case.
    pub topics: String,
    /// `None` where Kafka was not asked: the topics are then read from their beginning.
    pub starts: Option<Starts>,
}

/// `journal.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    form: u32,
    run: Run,
    started_ms: i64,
    end: Option<End>,
}

#[derive(Deserialize)]
struct Form {
    form: u32,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// When, ms since 1970.
    pub ended_ms: i64,
    /// Tries by answer, in the order of [`Answer::ALL`].
    pub answers: [u64; Answer::ALL.len()],
    /// The model's truth at the end.
    pub truth: Truth,
    /// Whether every TRAFFIC event up to the truth's moment was taken.
    pub traffic_complete: bool,
    buckets: Vec<Sum>,
}

/// Where the files are: for good, or until it is dropped.
#[derive(Debug)]
enum Place {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Place::Kept(path) => path,
            Place::Temporary(dir) => dir.path(),
        }
    }
}

/// A journal being written.
pub struct Journal {
    place: Place,
    contents: Contents,
    attempts: Buckets<Attempt>,
    answers: [u64; Answer::ALL.len()],
}

impl Journal {
    /// Begins a journal in `dir`, which is made where it does not exist and must not hold one yet; without `dir` in the
    /// system's directory for temporary files (`TMPDIR`), from where it goes when it is dropped.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn create(dir: Option<&Path>, run: Run) -> io::Result<Self> {
        let place = match dir {
            None => Place::Temporary(
                tempfile::Builder::new()
                    .prefix("butlr-journal-")
                    .tempdir()?,
            ),
            Some(dir) => {
                fs::create_dir_all(dir).map_err(|e| told(dir, &e))?;
                if fs::exists(dir.join(FILE)).map_err(|e| told(dir, &e))? {
                    let text = format!("{}: holds a journal already", dir.display());
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
                }
                Place::Kept(dir.to_owned())
            }
        };
        let contents = Contents {
            form: FORM,
            run,
            started_ms: now_ms(),
            end: None,
        };
        let attempts = Buckets::create(place.path()).map_err(|e| told(place.path(), &e))?;
        write(place.path(), &contents)?;
        Ok(Self {
            place,
            contents,
            attempts,
            answers: [0; Answer::ALL.len()],
        })
    }

    /// Notes a request that was answered or given up.
    ///
    /// # Errors
    /// The disk is full or broken: what is written then proves nothing.
    pub fn note(&mut self, attempt: &Attempt) -> io::Result<()> {
        self.answers[attempt.answer as usize] += 1;
        let noted = self.attempts.push(attempt);
        noted.map_err(|e| told(self.place.path(), &e))
    }

    /// Ends it. `traffic_complete`: TRAFFIC was sent, and no event of it dropped, refused or left out.
    ///
    /// # Errors
    /// As in [`Journal::note`].
    pub fn finish(self, truth: Truth, traffic_complete: bool) -> io::Result<ClosedJournal> {
        let dir = self.place.path();
        let end = End {
            ended_ms: now_ms(),
            answers: self.answers,
            truth,
            traffic_complete,
            buckets: self.attempts.close().map_err(|e| told(dir, &e))?,
        };
        let contents = Contents {
            end: Some(end.clone()),
            ..self.contents
        };
        write(dir, &contents)?;
        Ok(ClosedJournal {
            place: self.place,
            run: contents.run,
            started_ms: contents.started_ms,
            end,
        })
    }
}

/// A journal that is complete.
#[derive(Debug)]
pub struct ClosedJournal {
    place: Place,
    run: Run,
    started_ms: i64,
    end: End,
}

/// Why a directory is no journal that proves anything.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `journal.json` is not there.
    #[error("{}: holds no journal ({FILE}); `butlr-bridge simulate --journal DIR` writes one", .0.display())]
    None(PathBuf),
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
        let path = dir.join(FILE);
        let unreadable = |reason: String| Error::Unreadable {
            path: path.clone(),
            reason,
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::None(dir.to_owned()));
            }
            Err(e) => return Err(unreadable(e.to_string())),
        };
        // Of another form nothing but its number need be readable.
        let Form { form } = serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
        if form != FORM {
            return Err(unreadable(format!(
                "its form is {form}, this version reads {FORM}"
            )));
        }
        let contents: Contents =
            serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
        let end = contents
            .end
            .ok_or_else(|| Error::Unfinished(dir.to_owned()))?;
        if end.buckets.len() != BUCKETS {
            return Err(unreadable(format!(
                "it lists {} files instead of {BUCKETS}",
                end.buckets.len()
            )));
        }
        Ok(Self {
            place: Place::Kept(dir.to_owned()),
            run: contents.run,
            started_ms: contents.started_ms,
            end,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// What was known before the first request.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// When it was begun, ms since 1970.
    pub fn started_ms(&self) -> i64 {
        self.started_ms
    }

    /// How the run ended.
    pub fn end(&self) -> &End {
        &self.end
    }

    /// How many tries were answered so.
    pub fn answered(&self, answer: Answer) -> u64 {
        self.end.answers[answer as usize]
    }

    /// How many requests were noted.
    pub fn attempts(&self) -> u64 {
        self.end.answers.iter().sum()
    }

    /// The tries of one of the [`BUCKETS`], in the order in which they were noted.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn bucket(&self, n: usize) -> io::Result<Vec<Attempt>> {
        buckets::read(self.path(), n, self.end.buckets[n])
    }
}

/// Written beside and renamed, so that it is there whole or not at all.
fn write(dir: &Path, contents: &Contents) -> io::Result<()> {
    let beside = dir.join("journal.json.new");
    let text = serde_json::to_vec_pretty(contents).map_err(io::Error::other)?;
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, dir.join(FILE)));
    written.map_err(|e| told(dir, &e))
}

fn told(dir: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", dir.display()))
}

#[cfg(test)]
mod tests;
