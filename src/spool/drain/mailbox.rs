//! Messages to the drain from other threads: librdkafka's, the writer's, and searches.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::delivery::DeliveryObserver;
use crate::kafka::report::DeliveryOutcome;
use crate::spool::in_doubt::SearchOutcome;
use crate::sync::lock;
use butlr_event::destination::Destination;

#[derive(Debug)]
pub(in crate::spool) enum DrainMessage {
    /// The outcome of an entry that was sent.
    Reported {
        to: Destination,
        seq: u64,
        outcome: DeliveryOutcome,
        took: Duration,
    },
    /// The final report on the earlier record of an entry in doubt.
    InDoubtResolved {
        to: Destination,
        seq: u64,
        stored: bool,
    },
    /// The search for entries of the previous run has ended.
    SearchFinished {
        to: Destination,
        result: InDoubtSearchResult,
    },
}

#[derive(Debug, Default)]
pub(in crate::spool) struct InDoubtSearchResult {
    /// Number of entries that were searched for.
    pub in_doubt: usize,
    pub outcome: SearchOutcome,
}

/// Queue of messages, bounded by the entries in flight.
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

    /// Wakes the drain without a message.
    pub fn wake(&self) {
        lock(&self.state).is_woken = true;
        self.not_empty.notify_one();
    }

    /// Waits for messages, or a wake-up, for at most `patience`.
    pub fn take(&self, patience: Duration) -> Vec<DrainMessage> {
        let state = lock(&self.state);
        let is_idle = |state: &mut MailboxState| state.messages.is_empty() && !state.is_woken;
        let waited = self.not_empty.wait_timeout_while(state, patience, is_idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_woken = false;
        std::mem::take(&mut state.messages)
    }
}

/// Passes the delivery report of an entry to the mailbox.
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
