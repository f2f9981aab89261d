//! What the drain hears from other threads: from librdkafka's, from the writer's, from those that look.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::kafka::report::{Report, Settle};
use crate::spool::lock;
use crate::spool::suspects::Outcome;
use butlr_event::destination::Destination;

/// One message.
#[derive(Debug)]
pub(in crate::spool) enum Word {
    /// The final word on an entry that was handed over; `None`: none will come.
    Handed {
        to: Destination,
        seq: u64,
        report: Option<Report>,
        took: Duration,
    },
    /// The final word on the record that an entry doubts.
    Doubt {
        to: Destination,
        seq: u64,
        stored: bool,
    },
    /// Those of before were looked for.
    Looked { to: Destination, found: Found },
}

/// What came of looking.
#[derive(Debug)]
pub(in crate::spool) struct Found {
    pub suspects: usize,
    pub outcome: Outcome,
}

/// Messages wait here; bounded by what is in flight.
#[derive(Debug, Default)]
pub(in crate::spool) struct Mailbox {
    words: Mutex<Words>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Words {
    waiting: Vec<Word>,
    roused: bool,
}

impl Mailbox {
    pub fn push(&self, word: Word) {
        let mut words = lock(&self.words);
        words.waiting.push(word);
        if words.waiting.len() == 1 {
            self.came.notify_one();
        }
    }

    /// There is something to look at.
    pub fn rouse(&self) {
        lock(&self.words).roused = true;
        self.came.notify_one();
    }

    /// What has come, after at most `patience`.
    pub fn take(&self, patience: Duration) -> Vec<Word> {
        let words = lock(&self.words);
        let idle = |words: &mut Words| words.waiting.is_empty() && !words.roused;
        let waited = self.came.wait_timeout_while(words, patience, idle);
        let (mut words, _) = waited.unwrap_or_else(PoisonError::into_inner);
        words.roused = false;
        std::mem::take(&mut words.waiting)
    }
}

/// An entry whose record librdkafka was handed.
#[derive(Debug)]
pub(super) struct Handed {
    pub mailbox: Arc<Mailbox>,
    pub to: Destination,
    pub seq: u64,
    pub at: Instant,
}

impl Settle for Handed {
    fn settle(self: Box<Self>, report: Option<Report>) {
        self.mailbox.push(Word::Handed {
            to: self.to,
            seq: self.seq,
            report,
            took: self.at.elapsed(),
        });
    }
}
