//! All records of a run, from the offsets where it began until nothing more comes, into buckets.

use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;

use super::Error;
use super::checker::RecordChecker;
use super::record_digest::RecordDigest;
use super::topic_reader::read_topics;
use super::topics::{self, EventTopicNames, TopicOffsets};
use crate::journal::buckets::BucketWriter;
use butlr_event::EventType;

/// When an answer is not known, or an event waits on disk, two looks so far apart must find the same ends.
const STABILITY_PERIOD: Duration = Duration::from_secs(3);
/// Otherwise one more look after so long.
const FINAL_CHECK_DELAY: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// So long records are waited for that must come; where some wait on disk, or the ends go on moving, longer.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
const LONG_WAIT_LIMIT: Duration = Duration::from_secs(300);
/// How often progress is told, and after how many records the clock is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
const CLOCK_CHECK_RECORDS: u64 = 4_096;

/// The topics being read.
pub struct TopicSource<'k> {
    /// Reads.
    pub consumer: &'k BaseConsumer,
    /// The topics.
    pub names: &'k EventTopicNames,
    /// Their partitions.
    pub partitions: [usize; EventType::ALL.len()],
}

/// What must come before the topics are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwaitedRecords {
    /// At least so many records; 0 where nobody knows.
    pub min_records: u64,
    /// Some of them may wait on disk.
    pub spooled: bool,
    /// More may come, so that the ends must have come to rest.
    pub may_grow: bool,
}

impl AwaitedRecords {
    fn wait_limit(&self, short: bool) -> Duration {
        match short && !self.spooled {
            true => WAIT_LIMIT,
            false => LONG_WAIT_LIMIT,
        }
    }
}

/// How much was read.
#[derive(Clone, Debug, Default)]
pub struct CollectedTotals {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Why it was not waited any longer, although more was to come.
    pub gave_up_reason: Option<String>,
}

/// Reads everything from `from` on, until what is awaited is there or was waited for long enough.
///
/// # Errors
/// Kafka fails or the disk is full.
pub fn collect(
    source: &TopicSource<'_>,
    from: TopicOffsets,
    awaited: AwaitedRecords,
    checker: &mut RecordChecker,
    entries: &mut BucketWriter<RecordDigest>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CollectedTotals, Error> {
    let TopicSource {
        consumer,
        names,
        partitions,
    } = source;
    let mut gathered = CollectedTotals::default();
    let mut total = 0;
    let mut next = from;
    let (begun, mut last_progress) = (Instant::now(), Instant::now());
    let mut stability = EndStability::new(awaited.may_grow);
    loop {
        let (_, ends) = topics::fetch_all_watermarks(consumer, names, partitions)?;
        let more = count_between(&next, &ends);
        if more > 0 {
            total += more;
            read_topics(consumer, names, &next, &ends, |record| {
                gathered.records += 1;
                gathered.bytes += record.value.unwrap_or_default().len() as u64;
                if let Some(entry) = checker.check(record) {
                    entries.push(&entry)?;
                }
                if gathered.records.is_multiple_of(CLOCK_CHECK_RECORDS)
                    && last_progress.elapsed() >= PROGRESS_INTERVAL
                {
                    progress(gathered.records, total);
                    last_progress = Instant::now();
                }
                Ok(())
            })?;
            next = ends;
        }
        let is_stable = stability.observe(more > 0, Instant::now());
        let short = gathered.records < awaited.min_records;
        let over = begun.elapsed() >= awaited.wait_limit(short);
        if is_stable && !short || over {
            progress(gathered.records, total);
            let seconds = awaited.wait_limit(short).as_secs();
            gathered.gave_up_reason = match (short, is_stable) {
                (true, _) => Some(format!(
                    "after {seconds} s there were {} records and {} answers published or spooled",
                    gathered.records, awaited.min_records
                )),
                (false, false) => Some(format!("after {seconds} s records were still coming")),
                (false, true) => None,
            };
            return Ok(gathered);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Whether the topics' ends have come to rest.
struct EndStability {
    unsettled: bool,
    /// Unsettled: the first look that found what the one before had found. Otherwise the first of all.
    since: Option<Instant>,
}

impl EndStability {
    fn new(unsettled: bool) -> Self {
        let since = None;
        Self { unsettled, since }
    }

    /// After a look that ended now: whether it is the last one that is needed.
    fn observe(&mut self, moved: bool, now: Instant) -> bool {
        if !self.unsettled {
            // All answers are known: what still moves is somebody else's.
            return now >= *self.since.get_or_insert(now) + FINAL_CHECK_DELAY;
        }
        if moved {
            self.since = None;
            return false;
        }
        now >= *self.since.get_or_insert(now) + STABILITY_PERIOD
    }
}

fn count_between(from: &TopicOffsets, to: &TopicOffsets) -> u64 {
    let pairs = from.iter().flatten().zip(to.iter().flatten());
    let records = pairs.map(|(from, to)| u64::try_from(to - from).unwrap_or(0));
    records.sum()
}

/// Whether the topics still have everything since `from`.
///
/// # Errors
/// They were made anew, have other partitions, or something was removed.
pub fn check_unchanged(
    names: &EventTopicNames,
    begins: &TopicOffsets,
    ends: &TopicOffsets,
    from: &TopicOffsets,
) -> Result<(), Error> {
    let altered = |topic: &str, what: String| Error::TopicChanged {
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
        let names = topics::topic_names("t.{type}").unwrap();
        let all = |n: i64| vec![vec![n; 2]; 10];
        let changed = |n: i64| {
            let mut offsets = all(5);
            offsets[3][1] = n;
            offsets
        };
        let result = |begins: &TopicOffsets, ends: &TopicOffsets, from: &TopicOffsets| {
            check_unchanged(&names, begins, ends, from).map_err(|e| e.to_string())
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
        let mut settled = EndStability::new(false);
        assert!(!settled.observe(true, at(0)));
        assert!(!settled.observe(false, at(500)));
        // Others may go on writing.
        assert!(settled.observe(true, at(1_000)));
        let mut unsettled = EndStability::new(true);
        assert!(!unsettled.observe(true, at(0)));
        // However long the look took: one alone proves no rest.
        assert!(!unsettled.observe(false, at(9_000)));
        assert!(!unsettled.observe(true, at(10_000)));
        assert!(!unsettled.observe(false, at(20_000)));
        assert!(!unsettled.observe(false, at(22_999)));
        assert!(unsettled.observe(false, at(23_000)));
    }

    #[test]
    fn what_waits_on_disk_is_waited_for_longer() {
        let awaited = |spooled| AwaitedRecords {
            min_records: 1,
            spooled,
            may_grow: spooled,
        };
        assert_eq!(awaited(false).wait_limit(true), WAIT_LIMIT);
        assert_eq!(awaited(true).wait_limit(true), LONG_WAIT_LIMIT);
        assert_eq!(awaited(false).wait_limit(false), LONG_WAIT_LIMIT);
    }

    #[test]
    fn what_lies_between_is_counted() {
        assert_eq!(
            count_between(&vec![vec![1, 5], vec![]], &vec![vec![4, 5], vec![]]),
            3
        );
    }
}
