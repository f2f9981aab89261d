//! Reading the topics from one set of offsets to another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::checker::ConsumedRecord;
use super::record_digest::RecordPosition;
use super::topics::{self, EventTopicNames, TopicOffsets, is_transient};
use super::{Error, MAX_CLOCK_SKEW_MS, now_ms};

/// So long nothing may come before reading is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_TIMEOUT: Duration = Duration::from_millis(200);

/// Reads each partition from one offset to another (not including it) and shows every record to `each`, in the order of
/// its partition. Topic by topic: the end of a partition is told with its number alone.
///
/// # Errors
/// Kafka fails, nothing that is wanted comes for 30 s, or `each` fails.
pub fn read_topics(
    consumer: &BaseConsumer,
    names: &EventTopicNames,
    from: &TopicOffsets,
    to: &TopicOffsets,
    mut each: impl FnMut(&ConsumedRecord<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    for (topic, name) in names.iter().enumerate() {
        let reading = OffsetRangeReader {
            consumer,
            name,
            topic: topic as u8,
            next: from[topic].clone(),
            to: &to[topic],
        };
        reading.read_all(&mut each)?;
    }
    Ok(())
}

/// One topic being read.
struct OffsetRangeReader<'r> {
    consumer: &'r BaseConsumer,
    name: &'r str,
    topic: u8,
    next: Vec<i64>,
    to: &'r [i64],
}

impl OffsetRangeReader<'_> {
    fn read_all(
        mut self,
        each: &mut impl FnMut(&ConsumedRecord<'_>) -> Result<(), Error>,
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
            // Here, so that nothing but what is wanted keeps it going: not records beyond `to`, and not errors.
            if last.elapsed() > STALL_TIMEOUT {
                return Err(self.stalled_error(trouble));
            }
            let gained = match self.consumer.poll(POLL_TIMEOUT) {
                Some(Ok(message)) => self.handle_message(&message, each)?,
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
            if gained {
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

    /// Shows a record, if it is wanted. Whether it brings its partition on.
    fn handle_message(
        &mut self,
        message: &BorrowedMessage<'_>,
        each: &mut impl FnMut(&ConsumedRecord<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let (partition, offset) = (message.partition() as usize, message.offset());
        if message.topic() != self.name
            || !is_expected_offset(&self.next, self.to, partition, offset)
        {
            return Ok(false);
        }
        let to = self.to[partition];
        if offset < to {
            visit_message(message, self.topic, each)?;
        }
        // Beyond `to` there need not be anything at `to - 1`: offsets have gaps.
        self.next[partition] = (offset + 1).min(to);
        if self.next[partition] == to {
            self.unassign(partition)?;
        }
        Ok(true)
    }

    /// There is nothing more in a partition: what is missing before `to` are no records (transactions' markers, or what
    /// was compacted away). Unless its end is told by a broker that does not know of everything yet.
    fn handle_partition_eof(&mut self, partition: i32) -> Result<bool, Error> {
        let place = partition as usize;
        if self.next.get(place) >= self.to.get(place) {
            return Ok(false);
        }
        let (_, end) = topics::fetch_watermarks(self.consumer, self.name, partition)?;
        let over = end >= self.to[place];
        if over {
            self.next[place] = self.to[place];
            self.unassign(place)?;
        }
        Ok(over)
    }

    /// What comes in a partition from now on is not wanted, and not fetched.
    fn unassign(&self, partition: usize) -> Result<(), Error> {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.name, partition as i32);
        let left = self.consumer.incremental_unassign(&list);
        left.map_err(|e| self.topic_error(&e))
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

/// Whether a record is the next one of a partition that is not read yet, or comes after it.
fn is_expected_offset(next: &[i64], to: &[i64], partition: usize, offset: i64) -> bool {
    match (next.get(partition), to.get(partition)) {
        (Some(next), Some(to)) => next < to && offset >= *next,
        _ => false,
    }
}

fn visit_message(
    message: &BorrowedMessage<'_>,
    topic: u8,
    each: &mut impl FnMut(&ConsumedRecord<'_>) -> Result<(), Error>,
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
    each(&ConsumedRecord {
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
    fn a_partition_that_is_read_takes_nothing_more() {
        let (next, to) = (&[3, 7], &[5, 7]);
        assert!(is_expected_offset(next, to, 0, 3));
        assert!(is_expected_offset(next, to, 0, 9), "a record beyond a gap");
        assert!(!is_expected_offset(next, to, 0, 2));
        assert!(!is_expected_offset(next, to, 1, 7));
        assert!(!is_expected_offset(next, to, 2, 0));
    }
}
