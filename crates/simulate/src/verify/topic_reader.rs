//! Reads the topics from one set of offsets to another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::consumed_record::ConsumedRecord;
use super::record_digest::RecordPosition;
use super::topics::{self, TopicOffsets, is_transient};
use super::{Error, MAX_CLOCK_SKEW_MS};
use butlr_event::EventType;
use butlr_event::PerType;
use butlr_event::clock::now_ms;

/// Reading fails after this time without progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_TIMEOUT: Duration = Duration::from_millis(200);

/// Reads each partition from one offset to another (exclusive) and passes every record to `visit`,
/// in partition order. Reads topic by topic, because librdkafka reports the end of a partition
/// without its topic.
///
/// # Errors
/// Kafka fails, no expected record arrives for 30 s, or `visit` fails.
pub fn read_topics(
    consumer: &BaseConsumer,
    names: &PerType<String>,
    from: &TopicOffsets,
    to: &TopicOffsets,
    mut visit: impl FnMut(&ConsumedRecord<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    for (topic, name) in EventType::ALL.into_iter().zip(names) {
        let reader = OffsetRangeReader {
            consumer,
            name,
            topic,
            next: from[topic.index()].clone(),
            to: &to[topic.index()],
        };
        reader.read_all(&mut visit)?;
    }
    Ok(())
}

/// Reads one topic.
struct OffsetRangeReader<'r> {
    consumer: &'r BaseConsumer,
    name: &'r str,
    topic: EventType,
    next: Vec<i64>,
    to: &'r [i64],
}

impl OffsetRangeReader<'_> {
    fn read_all(
        mut self,
        visit: &mut impl FnMut(&ConsumedRecord<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut list = TopicPartitionList::new();
        for partition in self.unread_partitions() {
            let from = Offset::Offset(self.next[partition]);
            let added = list.add_partition_offset(self.name, partition as i32, from);
            added.map_err(|e| self.topic_error(&e))?;
        }
        if list.count() == 0 {
            return Ok(());
        }
        let assigned = self.consumer.assign(&list);
        assigned.map_err(|e| self.topic_error(&e))?;
        let (mut last, mut trouble) = (Instant::now(), None);
        while self.unread_partitions().next().is_some() {
            // Checked in every iteration: records beyond `to` and errors are not progress.
            if last.elapsed() > STALL_TIMEOUT {
                return Err(self.stalled_error(trouble));
            }
            let progressed = match self.consumer.poll(POLL_TIMEOUT) {
                Some(Ok(message)) => self.handle_message(&message, visit)?,
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.handle_partition_eof(partition)?
                }
                Some(Err(error)) if is_transient(&error) => {
                    trouble = Some(error.to_string());
                    false
                }
                Some(Err(error)) => return Err(Error::kafka("records".to_owned(), &error)),
                None => false,
            };
            if progressed {
                last = Instant::now();
            }
        }
        let done = self.consumer.assign(&TopicPartitionList::new());
        done.map_err(|e| self.topic_error(&e))
    }

    fn unread_partitions(&self) -> impl Iterator<Item = usize> + '_ {
        let partitions = self.next.iter().zip(self.to).enumerate();
        partitions
            .filter(|(_, (next, to))| next < to)
            .map(|(partition, _)| partition)
    }

    /// Visits a record that is in range. Returns `true` if its partition made progress.
    fn handle_message(
        &mut self,
        message: &BorrowedMessage<'_>,
        visit: &mut impl FnMut(&ConsumedRecord<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let (partition, offset) = (message.partition() as usize, message.offset());
        if message.topic() != self.name
            || !is_expected_offset(&self.next, self.to, partition, offset)
        {
            return Ok(false);
        }
        let to = self.to[partition];
        if offset < to {
            visit_message(message, self.topic, visit)?;
        }
        // A record beyond `to` ends the partition too: offsets have gaps, so `to - 1` may not
        // exist.
        self.next[partition] = (offset + 1).min(to);
        if self.next[partition] == to {
            self.unassign(partition)?;
        }
        Ok(true)
    }

    /// Finishes a partition at its end: the missing offsets before `to` are not records but
    /// transaction markers, or were compacted away. Ignores the end if the broker that reported it
    /// does not know all records yet. Returns `true` if the partition made progress.
    fn handle_partition_eof(&mut self, partition: i32) -> Result<bool, Error> {
        let index = partition as usize;
        if self.next.get(index) >= self.to.get(index) {
            return Ok(false);
        }
        let (_, end) = topics::fetch_watermarks(self.consumer, self.name, partition)?;
        let is_done = end >= self.to[index];
        if is_done {
            self.next[index] = self.to[index];
            self.unassign(index)?;
        }
        Ok(is_done)
    }

    /// Stops fetching a partition.
    fn unassign(&self, partition: usize) -> Result<(), Error> {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.name, partition as i32);
        let unassigned = self.consumer.incremental_unassign(&list);
        unassigned.map_err(|e| self.topic_error(&e))
    }

    fn topic_error(&self, error: &KafkaError) -> Error {
        Error::kafka(format!("topic {}", self.name), error)
    }

    fn stalled_error(&self, trouble: Option<String>) -> Error {
        let Self { name, next, to, .. } = self;
        let mut unread = self.unread_partitions();
        let first = unread.next();
        let first = first.map(|n| format!("{name}[{n}] at {} of {}", next[n], to[n]));
        Error::Stalled {
            seconds: STALL_TIMEOUT.as_secs(),
            first: first.unwrap_or_default(),
            further: unread.count(),
            trouble: trouble.map_or_else(String::new, |text| format!(" ({text})")),
        }
    }
}

/// Returns `true` for the next or a later record of a partition that has not been read to its end.
fn is_expected_offset(next: &[i64], to: &[i64], partition: usize, offset: i64) -> bool {
    let range = next.get(partition).zip(to.get(partition));
    range.is_some_and(|(next, to)| next < to && offset >= *next)
}

fn visit_message(
    message: &BorrowedMessage<'_>,
    topic: EventType,
    visit: &mut impl FnMut(&ConsumedRecord<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    // rdkafka panics on a header whose name is not UTF-8.
    let headers = catch_unwind(AssertUnwindSafe(|| match message.headers() {
        None => Vec::new(),
        Some(headers) => {
            let mut all = Vec::with_capacity(headers.count());
            all.extend(headers.iter().map(|h| (h.key, h.value)));
            all
        }
    }));
    let headers = headers.ok();
    visit(&ConsumedRecord {
        position: RecordPosition {
            topic,
            partition: message.partition(),
            offset: message.offset(),
        },
        timestamp_ms: match message.timestamp() {
            Timestamp::CreateTime(ms) => Some(ms),
            Timestamp::LogAppendTime(_) | Timestamp::NotAvailable => None,
        },
        latest_publish_ms: now_ms() + MAX_CLOCK_SKEW_MS,
        key: message.key(),
        value: message.payload(),
        headers: headers.as_deref(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_partition_accepts_no_records() {
        let (next, to) = (&[3, 7], &[5, 7]);
        assert!(is_expected_offset(next, to, 0, 3));
        assert!(is_expected_offset(next, to, 0, 9), "a record beyond a gap");
        assert!(!is_expected_offset(next, to, 0, 2));
        assert!(!is_expected_offset(next, to, 1, 7));
        assert!(!is_expected_offset(next, to, 2, 0));
    }
}
