//! All records of a run, from the offsets where it began until nothing more comes, into buckets.

use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;

use super::Error;
use super::check::Checker;
use super::entry::Entry;
use super::read::read;
use super::topics::{self, Names, Offsets};
use crate::journal::buckets::Buckets;
use butlr_event::EventType;

/// When an answer is not known, or an event waits on disk, two looks so far apart must find the same ends.
const QUIET: Duration = Duration::from_secs(3);
/// Otherwise one more look after so long.
const ONCE_MORE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// So long records are waited for that must come; where some wait on disk, or the ends go on moving, longer.
const PATIENCE: Duration = Duration::from_secs(60);
const LONG_PATIENCE: Duration = Duration::from_secs(300);
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

/// What must come before the topics are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Awaited {
    /// At least so many records; 0 where nobody knows.
    pub least: u64,
    /// Some of them may wait on disk.
    pub spooled: bool,
    /// More may come, so that the ends must have come to rest.
    pub unsettled: bool,
}

impl Awaited {
    fn patience(&self, short: bool) -> Duration {
        match short && !self.spooled {
            true => PATIENCE,
            false => LONG_PATIENCE,
        }
    }
}

/// How much was read.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Why it was not waited any longer, although more was to come.
    pub gave_up: Option<String>,
}

/// Reads everything from `from` on, until what is awaited is there or was waited for long enough.
///
/// # Errors
/// Kafka fails or the disk is full.
pub fn gather(
    source: &Source<'_>,
    from: Offsets,
    awaited: Awaited,
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
    let (begun, mut told) = (Instant::now(), Instant::now());
    let mut rest = Rest::new(awaited.unsettled);
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
        }
        let rests = rest.looked(more > 0, Instant::now());
        let short = gathered.records < awaited.least;
        let over = begun.elapsed() >= awaited.patience(short);
        if rests && !short || over {
            progress(gathered.records, total);
            let seconds = awaited.patience(short).as_secs();
            gathered.gave_up = match (short, rests) {
                (true, _) => Some(format!(
                    "after {seconds} s there were {} records and {} answers published or spooled",
                    gathered.records, awaited.least
                )),
                (false, false) => Some(format!("after {seconds} s records were still coming")),
                (false, true) => None,
            };
            return Ok(gathered);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether the topics' ends have come to rest.
struct Rest {
    unsettled: bool,
    /// Unsettled: the first look that found what the one before had found. Otherwise the first of all.
    since: Option<Instant>,
}

impl Rest {
    fn new(unsettled: bool) -> Self {
        let since = None;
        Self { unsettled, since }
    }

    /// After a look that ended now: whether it is the last one that is needed.
    fn looked(&mut self, moved: bool, now: Instant) -> bool {
        if !self.unsettled {
            // All answers are known: what still moves is somebody else's.
            return now >= *self.since.get_or_insert(now) + ONCE_MORE;
        }
        if moved {
            self.since = None;
            return false;
        }
        now >= *self.since.get_or_insert(now) + QUIET
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
    fn ends_must_rest_before_they_are_believed() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut settled = Rest::new(false);
        assert!(!settled.looked(true, at(0)));
        assert!(!settled.looked(false, at(500)));
        // Others may go on writing.
        assert!(settled.looked(true, at(1_000)));
        let mut unsettled = Rest::new(true);
        assert!(!unsettled.looked(true, at(0)));
        // However long the look took: one alone proves no rest.
        assert!(!unsettled.looked(false, at(9_000)));
        assert!(!unsettled.looked(true, at(10_000)));
        assert!(!unsettled.looked(false, at(20_000)));
        assert!(!unsettled.looked(false, at(22_999)));
        assert!(unsettled.looked(false, at(23_000)));
    }

    #[test]
    fn what_waits_on_disk_is_waited_for_longer() {
        let awaited = |spooled| Awaited {
            least: 1,
            spooled,
            unsettled: spooled,
        };
        assert_eq!(awaited(false).patience(true), PATIENCE);
        assert_eq!(awaited(true).patience(true), LONG_PATIENCE);
        assert_eq!(awaited(false).patience(false), LONG_PATIENCE);
    }

    #[test]
    fn what_lies_between_is_counted() {
        assert_eq!(
            between(&vec![vec![1, 5], vec![]], &vec![vec![4, 5], vec![]]),
            3
        );
    }
}
