//! All records of a run, from the offsets where it began until nothing more comes, into buckets.

use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;

use super::Error;
use super::check::Checker;
use super::entry::Entry;
use super::read::read;
use super::topics::{self, Names, Offsets};
use crate::event::EventType;
use crate::simulate::journal::buckets::Buckets;

/// When an answer is not known, or an event waits on disk, the topics' ends must not have moved for so long.
const QUIET: Duration = Duration::from_secs(3);
/// So long the topics' ends may go on moving.
const SETTLED: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often progress is told, and after how many records the clock is looked at.
const TELL: Duration = Duration::from_millis(250);
const GLANCE: u64 = 4_096;

/// The topics being read.
pub struct Source<'k> {
    /// Reads.
    pub consumer: &'k BaseConsumer,
    /// The topics.
    pub names: &'k Names,
    /// Their partitions.
    pub partitions: [usize; EventType::ALL.len()],
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gathered {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
}

/// Reads everything from `from` on. `unsettled`: more may come, so that the ends must have come to rest.
///
/// # Errors
/// Kafka fails or the disk is full.
pub fn gather(
    source: &Source<'_>,
    from: Offsets,
    unsettled: bool,
    checker: &mut Checker,
    entries: &mut Buckets<Entry>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Gathered, Error> {
    let Source {
        consumer,
        names,
        partitions,
    } = source;
    let mut gathered = Gathered::default();
    let mut total = 0;
    let mut next = from;
    let (begun, mut moved, mut told) = (Instant::now(), Instant::now(), Instant::now());
    loop {
        let (_, ends) = topics::bounds(consumer, names, partitions)?;
        let more = between(&next, &ends);
        if more > 0 {
            total += more;
            read(consumer, names, &next, &ends, |record| {
                gathered.records += 1;
                gathered.bytes += record.value.unwrap_or_default().len() as u64;
                if let Some(entry) = checker.look(record) {
                    entries.push(&entry)?;
                }
                if gathered.records.is_multiple_of(GLANCE) && told.elapsed() >= TELL {
                    progress(gathered.records, total);
                    told = Instant::now();
                }
                Ok(())
            })?;
            next = ends;
            moved = Instant::now();
        }
        if !unsettled || moved.elapsed() >= QUIET || begun.elapsed() >= SETTLED {
            progress(gathered.records, total);
            return Ok(gathered);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn between(from: &Offsets, to: &Offsets) -> u64 {
    let pairs = from.iter().flatten().zip(to.iter().flatten());
    let records = pairs.map(|(from, to)| u64::try_from(to - from).unwrap_or(0));
    records.sum()
}

/// Whether the topics still have everything since `from`.
///
/// # Errors
/// They were made anew, have other partitions, or something was removed.
pub fn unaltered(
    names: &Names,
    begins: &Offsets,
    ends: &Offsets,
    from: &Offsets,
) -> Result<(), Error> {
    let altered = |topic: &str, what: String| Error::Altered {
        topic: topic.to_owned(),
        what,
    };
    for (topic, name) in names.iter().enumerate() {
        let (before, now) = (from.get(topic).map_or(0, Vec::len), begins[topic].len());
        if before != now {
            return Err(altered(
                name,
                format!("{before} partitions then, {now} now"),
            ));
        }
        for (partition, from) in from[topic].iter().enumerate() {
            let (begin, end) = (begins[topic][partition], ends[topic][partition]);
            let name = format!("partition {partition} of {name}");
            if begin > *from {
                let what = format!("records from offset {from} to {begin} were removed");
                return Err(altered(&name, what));
            }
            if end < *from {
                let what = format!("it ended at offset {from} then, at {end} now");
                return Err(altered(&name, what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_told() {
        let names = topics::names("t.{type}").unwrap();
        let all = |n: i64| vec![vec![n; 2]; 10];
        let changed = |n: i64| {
            let mut offsets = all(5);
            offsets[3][1] = n;
            offsets
        };
        let result = |begins: &Offsets, ends: &Offsets, from: &Offsets| {
            unaltered(&names, begins, ends, from).map_err(|e| e.to_string())
        };
        assert_eq!(result(&all(0), &all(9), &all(5)), Ok(()));
        assert_eq!(result(&all(5), &all(5), &all(5)), Ok(()));
        let removed = result(&changed(6), &all(9), &all(5)).unwrap_err();
        assert!(
            removed.contains("partition 1 of t.floor-occupancy-1min"),
            "{removed}"
        );
        assert!(removed.contains("removed"), "{removed}");
        let anew = result(&all(0), &changed(4), &all(5)).unwrap_err();
        assert!(anew.contains("ended at offset 5 then, at 4 now"), "{anew}");
        let grown = result(&vec![vec![0; 3]; 10], &vec![vec![9; 3]; 10], &all(5)).unwrap_err();
        assert!(grown.contains("2 partitions then, 3 now"), "{grown}");
        assert!(result(&all(0), &all(9), &vec![]).is_err());
    }

    #[test]
    fn what_lies_between_is_counted() {
        assert_eq!(
            between(&vec![vec![1, 5], vec![]], &vec![vec![4, 5], vec![]]),
            3
        );
    }
}
