//! Reading the topics from one set of offsets to another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers as _, Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Error;
use super::check::Record;
use super::entry::Position;
use super::topics::{Names, Offsets, passes};

/// So long nothing may come before reading is given up.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

/// Reads each partition from one offset to another (not including it) and shows every record to `each`, in the order of
/// its partition.
///
/// # Errors
/// Kafka fails, nothing comes for 30 s, or `each` fails.
pub fn read(
    consumer: &BaseConsumer,
    names: &Names,
    from: &Offsets,
    to: &Offsets,
    mut each: impl FnMut(&Record<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut next = from.clone();
    let mut list = TopicPartitionList::new();
    for ((name, from), to) in names.iter().zip(from).zip(to) {
        for (partition, (from, to)) in (0..).zip(from.iter().zip(to)) {
            if from < to {
                let added = list.add_partition_offset(name, partition, Offset::Offset(*from));
                added.map_err(|e| Error::kafka(format!("partition {partition} of {name}"), &e))?;
            }
        }
    }
    let mut unread = list.count();
    if unread == 0 {
        return Ok(());
    }
    let assigned = consumer.assign(&list);
    assigned.map_err(|e| Error::kafka("the topics".to_owned(), &e))?;
    let (mut last, mut trouble) = (Instant::now(), None);
    while unread > 0 {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                let Some(topic) = names.iter().position(|n| n == message.topic()) else {
                    continue;
                };
                let partition = message.partition() as usize;
                let (next, to) = (&mut next[topic][partition], to[topic][partition]);
                if message.offset() < *next || message.offset() >= to {
                    continue;
                }
                *next = message.offset() + 1;
                unread -= usize::from(*next == to);
                show(&message, topic as u8, &mut each)?;
                last = Instant::now();
            }
            Some(Err(error)) if passes(&error) => trouble = Some(error.to_string()),
            Some(Err(error)) => return Err(Error::kafka("records".to_owned(), &error)),
            None => {}
        }
        if last.elapsed() > PATIENCE {
            return Err(stalled(names, &next, to, trouble));
        }
    }
    let done = consumer.assign(&TopicPartitionList::new());
    done.map_err(|e| Error::kafka("the topics".to_owned(), &e))
}

fn stalled(names: &Names, next: &Offsets, to: &Offsets, trouble: Option<String>) -> Error {
    let partitions = names.iter().zip(next.iter().zip(to));
    let mut unread = partitions.flat_map(|(name, (next, to))| {
        let partitions = (0..).zip(next.iter().zip(to));
        let unread = partitions.filter(|(_, (next, to))| next < to);
        unread.map(move |(n, (next, to))| format!("{name}[{n}] at {next} of {to}"))
    });
    let first = unread.next().unwrap_or_default();
    Error::Stalled {
        seconds: PATIENCE.as_secs(),
        first,
        further: unread.count(),
        trouble: trouble.map_or_else(String::new, |text| format!(" ({text})")),
    }
}

fn show(
    message: &BorrowedMessage<'_>,
    topic: u8,
    each: &mut impl FnMut(&Record<'_>) -> Result<(), Error>,
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
    each(&Record {
        position: Position {
            topic,
            partition: message.partition(),
            offset: message.offset(),
        },
        timestamp_ms: match message.timestamp() {
            Timestamp::CreateTime(ms) => Some(ms),
            Timestamp::LogAppendTime(_) | Timestamp::NotAvailable => None,
        },
        key: message.key(),
        value: message.payload(),
        headers: headers.as_deref(),
    })
}
