//! What the drain hears from other threads: from librdkafka's, from the writer's, from those that look.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::delivery::DeliveryObserver;
use crate::kafka::report::DeliveryOutcome;
use crate::spool::in_doubt::SearchOutcome;
use crate::spool::lock;
use butlr_event::destination::Destination;

/// One message.
#[derive(Debug)]
pub(in crate::spool) enum DrainMessage {
    /// The outcome of an entry that was handed over.
    Reported {
        to: Destination,
        seq: u64,
        outcome: DeliveryOutcome,
        took: Duration,
    },
    /// The final word on the record that an entry doubts.
    InDoubtResolved {
        to: Destination,
        seq: u64,
        stored: bool,
    },
    /// Those of before were looked for.
    SearchFinished {
        to: Destination,
        found: InDoubtSearchResult,
    },
}

/// What came of looking.
#[derive(Debug)]
pub(in crate::spool) struct InDoubtSearchResult {
    pub in_doubt: usize,
    pub outcome: SearchOutcome,
}

/// Messages wait here; bounded by what is in flight.
#[derive(Debug, Default)]
pub(in crate::spool) struct Mailbox {
    state: Mutex<MailboxState>,
    not_empty: Condvar,
}

#[derive(Debug, Default)]
struct MailboxState {
    messages: Vec<DrainMessage>,
    is_woken: bool,
}

impl Mailbox {
    pub fn push(&self, message: DrainMessage) {
        let mut state = lock(&self.state);
        state.messages.push(message);
        if state.messages.len() == 1 {
            self.not_empty.notify_one();
        }
    }

    /// There is something to look at.
    pub fn wake(&self) {
        lock(&self.state).is_woken = true;
        self.not_empty.notify_one();
    }

    /// What has come, after at most `patience`.
    pub fn take(&self, patience: Duration) -> Vec<DrainMessage> {
        let state = lock(&self.state);
        let idle = |words: &mut MailboxState| words.messages.is_empty() && !words.is_woken;
        let waited = self.not_empty.wait_timeout_while(state, patience, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_woken = false;
        std::mem::take(&mut state.messages)
    }
}

/// An entry whose record librdkafka was handed.
#[derive(Debug)]
pub(super) struct DrainedEntryObserver {
    pub mailbox: Arc<Mailbox>,
    pub to: Destination,
    pub seq: u64,
    pub sent_at: Instant,
}

impl DeliveryObserver for DrainedEntryObserver {
    fn on_outcome(self: Box<Self>, outcome: DeliveryOutcome) {
        self.mailbox.push(DrainMessage::Reported {
            to: self.to,
            seq: self.seq,
            outcome,
            took: self.sent_at.elapsed(),
        });
    }
}
