//! Collects all records of a run in buckets, from its start offsets until no more are expected.

use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;

use super::Error;
use super::checker::RecordChecker;
use super::record_digest::RecordDigest;
use super::topic_reader::read_topics;
use super::topics::{self, TopicOffsets};
use crate::journal::buckets::BucketWriter;
use butlr_event::PerType;

/// If outcomes are unknown or events were spooled, the ends must not move for this long.
const STABILITY_PERIOD: Duration = Duration::from_secs(3);
/// Otherwise the ends are checked once more after this time.
const FINAL_CHECK_DELAY: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for records that must arrive.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait if events were spooled or the ends keep moving.
const LONG_WAIT_LIMIT: Duration = Duration::from_secs(300);
/// Interval of progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Number of records between two reads of the clock.
const CLOCK_CHECK_RECORDS: u64 = 4_096;

/// The topics to read.
pub struct TopicSource<'k> {
    /// The consumer.
    pub consumer: &'k BaseConsumer,
    /// The names of the topics.
    pub names: &'k PerType<String>,
    /// The number of their partitions.
    pub partitions: PerType<usize>,
    /// The offsets from which they are read.
    pub from: TopicOffsets,
}

/// The records to wait for.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwaitedRecords {
    /// Minimum number of records; 0 if unknown.
    pub min_records: u64,
    /// Some of them were spooled.
    pub spooled: bool,
    /// More records may arrive, so the ends must be stable.
    pub may_grow: bool,
}

impl AwaitedRecords {
    /// Returns the longest wait. `incomplete`: fewer than the minimum number of records are there.
    fn wait_limit(&self, incomplete: bool) -> Duration {
        if incomplete && !self.spooled {
            WAIT_LIMIT
        } else {
            LONG_WAIT_LIMIT
        }
    }
}

/// Totals of the records read.
#[derive(Clone, Debug, Default)]
pub struct CollectedTotals {
    /// Number of records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// The reason for giving up, if more records were expected.
    pub gave_up_reason: Option<String>,
}

/// Reads all records until the awaited ones are there or the wait limit is reached.
///
/// # Errors
/// Kafka fails or the disk is full.
pub fn collect(
    source: TopicSource<'_>,
    awaited: AwaitedRecords,
    checker: &mut RecordChecker,
    digests: &mut BucketWriter<RecordDigest>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CollectedTotals, Error> {
    let TopicSource {
        consumer,
        names,
        partitions,
        from: mut next,
    } = source;
    let mut totals = CollectedTotals::default();
    let mut expected = 0;
    let (started, mut last_progress) = (Instant::now(), Instant::now());
    let mut stability = EndStability::new(awaited.may_grow);
    loop {
        let (_, ends) = topics::fetch_all_watermarks(consumer, names, &partitions)?;
        let more = count_between(&next, &ends);
        if more > 0 {
            expected += more;
            read_topics(consumer, names, &next, &ends, |record| {
                totals.records += 1;
                totals.bytes += record.value.unwrap_or_default().len() as u64;
                if let Some(digest) = checker.check(record) {
                    digests.push(&digest)?;
                }
                if totals.records.is_multiple_of(CLOCK_CHECK_RECORDS)
                    && last_progress.elapsed() >= PROGRESS_INTERVAL
                {
                    progress(totals.records, expected);
                    last_progress = Instant::now();
                }
                Ok(())
            })?;
            next = ends;
        }
        let is_stable = stability.observe(more > 0, Instant::now());
        let incomplete = totals.records < awaited.min_records;
        let timed_out = started.elapsed() >= awaited.wait_limit(incomplete);
        if is_stable && !incomplete || timed_out {
            progress(totals.records, expected);
            let seconds = awaited.wait_limit(incomplete).as_secs();
            totals.gave_up_reason = if incomplete {
                Some(format!(
                    "after {seconds} s with {} records for {} published or spooled events",
                    totals.records, awaited.min_records
                ))
            } else {
                (!is_stable).then(|| format!("after {seconds} s; records were still arriving"))
            };
            return Ok(totals);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Detects that the ends of the topics no longer move.
struct EndStability {
    /// More records of the run may arrive.
    may_grow: bool,
    /// The first observation without movement; if `may_grow` is `false`, the first of all.
    since: Option<Instant>,
}

impl EndStability {
    fn new(may_grow: bool) -> Self {
        let since = None;
        Self { may_grow, since }
    }

    /// Adds an observation that ended at `now`. Returns `true` if no further one is needed.
    fn observe(&mut self, moved: bool, now: Instant) -> bool {
        if !self.may_grow {
            // All outcomes are known, so any further records are someone else's.
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

/// Checks that the topics still have all records since `from`.
///
/// # Errors
/// A topic was recreated, has a different number of partitions, or lost records.
pub fn check_unchanged(
    names: &PerType<String>,
    begins: &TopicOffsets,
    ends: &TopicOffsets,
    from: &TopicOffsets,
) -> Result<(), Error> {
    let changed = |topic: &str, what: String| Error::TopicChanged {
        topic: topic.to_owned(),
        what,
    };
    for (topic, name) in names.iter().enumerate() {
        let (before, now) = (from.get(topic).map_or(0, Vec::len), begins[topic].len());
        if before != now {
            let what = format!("{before} partitions then, {now} now");
            return Err(changed(name, what));
        }
        for (partition, from) in from[topic].iter().enumerate() {
            let (begin, end) = (begins[topic][partition], ends[topic][partition]);
            let name = format!("partition {partition} of {name}");
            if begin > *from {
                let what = format!("records from offset {from} to {begin} were removed");
                return Err(changed(&name, what));
            }
            if end < *from {
                let what = format!("it ended at offset {from} then, at {end} now");
                return Err(changed(&name, what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_topics_are_detected() {
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
        let recreated = result(&all(0), &changed(4), &all(5)).unwrap_err();
        assert!(
            recreated.contains("ended at offset 5 then, at 4 now"),
            "{recreated}"
        );
        let grown = result(&vec![vec![0; 3]; 10], &vec![vec![9; 3]; 10], &all(5)).unwrap_err();
        assert!(grown.contains("2 partitions then, 3 now"), "{grown}");
        assert!(result(&all(0), &all(9), &vec![]).is_err());
    }

    #[test]
    fn ends_must_be_stable_before_reading_stops() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut complete = EndStability::new(false);
        assert!(!complete.observe(true, at(0)));
        assert!(!complete.observe(false, at(500)));
        // Others may keep writing.
        assert!(complete.observe(true, at(1_000)));
        let mut growing = EndStability::new(true);
        assert!(!growing.observe(true, at(0)));
        // A single observation proves no stability, however long it took.
        assert!(!growing.observe(false, at(9_000)));
        assert!(!growing.observe(true, at(10_000)));
        assert!(!growing.observe(false, at(20_000)));
        assert!(!growing.observe(false, at(22_999)));
        assert!(growing.observe(false, at(23_000)));
    }

    #[test]
    fn the_wait_for_spooled_events_is_longer() {
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
    fn records_between_offsets_are_counted() {
        assert_eq!(
            count_between(&vec![vec![1, 5], vec![]], &vec![vec![4, 5], vec![]]),
            3
        );
    }
}
