//! Delivery reports: what librdkafka reports about a record, and what that proves.

use std::sync::atomic::{AtomicI64, Ordering};

use rdkafka::Message;
use rdkafka::message::DeliveryResult;
use rdkafka::types::RDKafkaErrorCode;

/// Outcome of a record's delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// Stored on all in-sync replicas.
    Stored(Receipt),
    /// Certainly not stored.
    Rejected(RDKafkaErrorCode),
    /// May be stored: the delivery failed with a code that proves nothing. Without a code, either
    /// no broker confirmed the record (see [`Receipt`]) or there is no report.
    Unknown(Option<RDKafkaErrorCode>),
}

impl DeliveryOutcome {
    /// Interprets a delivery report. Must see every report of its producer, in order.
    pub(super) fn from_report(report: &DeliveryResult<'_>, filter: &OffsetFilter) -> Self {
        match report {
            Ok(message) => filter
                .next_receipt(message.partition(), message.offset())
                .map_or(DeliveryOutcome::Unknown(None), DeliveryOutcome::Stored),
            Err((error, _)) => {
                let code = error.rdkafka_error_code();
                Self::from_error_code(code.unwrap_or(RDKafkaErrorCode::Unknown))
            }
        }
    }

    /// Outcome of a delivery that ended with `code`.
    pub(crate) fn from_error_code(code: RDKafkaErrorCode) -> Self {
        if proves_not_stored(code) {
            DeliveryOutcome::Rejected(code)
        } else {
            DeliveryOutcome::Unknown(Some(code))
        }
    }

    /// Returns `true` if the record is stored.
    pub fn is_stored(&self) -> bool {
        matches!(self, DeliveryOutcome::Stored(_))
    }

    /// Error code of a delivery that failed.
    pub fn error_code(&self) -> Option<RDKafkaErrorCode> {
        match self {
            DeliveryOutcome::Stored(_) => None,
            DeliveryOutcome::Rejected(code) => Some(*code),
            DeliveryOutcome::Unknown(code) => *code,
        }
    }
}

/// Returns `true` if a record whose delivery ended with `code` is certainly not stored.
///
/// These codes concern the record or its batch itself. The broker checks for them before it appends
/// anything, and any earlier attempt at the same batch got the same response. librdkafka retries by
/// itself and reports only the last error, so an error that depends on the moment (a missing or
/// forbidden topic, too few replicas) proves nothing: an earlier attempt may have been appended and
/// its response lost. The same holds for timeouts, lost connections, purges, sequence errors, fatal
/// errors and every code that is not listed.
fn proves_not_stored(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::*;
    matches!(
        code,
        MessageSizeTooLarge
            | InvalidMessageSize
            | MessageBatchTooLarge
            | InvalidRecord
            | InvalidDifferentRecord
            | InvalidTimestamp
            | InvalidTopic
            | InvalidRequiredAcks
            | UnsupportedForMessageFormat
            | PolicyViolation
            // Never sent to a broker.
            | QueueFull
    )
}

/// Proof that a record is stored, with its position. Only a delivery report creates one.
///
/// Only a broker knows the position. librdkafka also reports a record as stored because a later
/// record of the same partition is ("implicit acknowledgement"), on the assumption that the broker
/// would have refused the later one otherwise. But a broker that has no state for a producer (a new
/// partition, or a producer that was silent for a day) accepts any first sequence number, even
/// right after it refused the preceding records with a retriable error. librdkafka does not retry
/// those, and they are in no topic; its users know this as message loss around leader elections.
///
/// A record without an offset therefore has no receipt, and its outcome is unknown. The same holds
/// for an offset that librdkafka made up (`OffsetFilter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    partition: i32,
    offset: i64,
}

impl Receipt {
    /// Receipt for a record at this position; `None` for a negative offset, which no broker
    /// assigns.
    fn new(partition: i32, offset: i64) -> Option<Self> {
        (offset >= 0).then_some(Self { partition, offset })
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self {
            partition: 0,
            offset: 0,
        }
    }

    /// Partition of the record.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Offset of the record.
    pub fn offset(&self) -> i64 {
        self.offset
    }
}

/// Filter that separates a broker's offsets from those that librdkafka made up.
///
/// If a broker rejects a batch as a duplicate, librdkafka treats the batch as stored and numbers
/// its records upwards from the -1 in that response. (Apache Kafka does not send this error: it
/// responds with the offsets of the first attempt.) A filter belongs to one producer, whose reports
/// arrive on one thread, batch by batch.
#[derive(Debug)]
pub(super) struct OffsetFilter {
    /// Offset that the next record of such a batch would get; negative outside such a batch.
    next_synthetic: AtomicI64,
}

impl Default for OffsetFilter {
    fn default() -> Self {
        Self {
            next_synthetic: AtomicI64::new(Self::NONE),
        }
    }
}

impl OffsetFilter {
    const NONE: i64 = -1;

    /// Receipt of the record that is reported next; `None` if no broker assigned `offset`.
    pub fn next_receipt(&self, partition: i32, offset: i64) -> Option<Receipt> {
        let expected = self.next_synthetic.load(Ordering::Relaxed);
        let is_synthetic = offset == -1 || expected != Self::NONE && offset == expected;
        if is_synthetic {
            self.next_synthetic.store(offset + 1, Ordering::Relaxed);
            return None;
        }
        if expected != Self::NONE {
            self.next_synthetic.store(Self::NONE, Ordering::Relaxed);
        }
        Receipt::new(partition, offset)
    }
}

/// Value that travels with a record through librdkafka and receives the outcome of its delivery.
pub trait OutcomeReceiver: Send + Sync + 'static {
    /// Receives the outcome; called once, on librdkafka's thread. Returns `false` if the outcome is
    /// late because nobody waits for it any more.
    fn complete(&self, outcome: DeliveryOutcome) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_that_no_broker_assigned_give_no_receipts() {
        let filter = OffsetFilter::default();
        let has_receipt = |offsets: &[i64]| -> Vec<bool> {
            let receipts = offsets.iter().map(|o| filter.next_receipt(0, *o));
            receipts.map(|r| r.is_some()).collect()
        };
        assert_eq!(has_receipt(&[0, 1, 7]), [true; 3]);
        // Two implicit acknowledgements, then the record that implied them.
        assert_eq!(has_receipt(&[-1001, -1001, 0]), [false, false, true]);
        // A batch that the broker called a duplicate, and the batch after it.
        assert_eq!(
            has_receipt(&[-1, 0, 1, 2, 40, 3]),
            [false, false, false, false, true, true]
        );
        assert_eq!(has_receipt(&[-1, -1, 0, 5]), [false, false, false, true]);
    }
}
