//! What the markers say, one after the other: the same for every run that reads them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::candidate::{QuarantinePosition, ReplayCandidate};
use super::marker::{BatchOutcome, PartlyStoredRecord, ReplayMarker, TopicEnds};

/// What was replayed, and what is in doubt.
#[derive(Debug, Default)]
pub struct ReplayHistory {
    done: HashSet<QuarantinePosition>,
    /// Keys, which are hashes of values: the same bytes were quarantined again.
    keys: HashSet<String>,
    partly_stored: HashMap<QuarantinePosition, HashSet<u64>>,
    in_doubt: HashMap<QuarantinePosition, TopicEnds>,
    open_batch: Option<OpenBatch>,
}

/// A batch that is under way, or whose run is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBatch {
    /// Its run.
    pub run: String,
    /// Its number.
    pub batch: u32,
    /// When that was written, ms since 1970, by the clock of whoever did.
    pub since_ms: i64,
    /// So long after it nothing of it is published any more.
    pub lease: Duration,
    /// What it is about.
    pub records: Vec<QuarantinePosition>,
}

impl ReplayHistory {
    /// Takes the next marker, written at `ms`. Whether it counts: not an intent while another batch is open.
    pub fn apply(&mut self, ms: i64, marker: ReplayMarker) -> bool {
        match marker {
            ReplayMarker::Intent {
                run,
                batch,
                lease_ms,
                records,
                ends,
            } => {
                if self.open_batch.is_some() {
                    return false;
                }
                for place in &records {
                    merge_ends(self.in_doubt.entry(*place).or_default(), &ends);
                }
                self.open_batch = Some(OpenBatch {
                    run,
                    batch,
                    since_ms: ms,
                    lease: Duration::from_millis(lease_ms),
                    records,
                });
            }
            ReplayMarker::Done {
                run,
                batch,
                finished,
            } => {
                let is_it = |open: &mut OpenBatch| open.run == run && open.batch == batch;
                let closed = self.open_batch.take_if(is_it);
                if let Some(finished) = finished {
                    self.apply_outcome(closed, finished);
                }
            }
        }
        true
    }

    fn apply_outcome(&mut self, closed: Option<OpenBatch>, finished: BatchOutcome) {
        let unsure: HashSet<_> = finished.unsure.into_iter().collect();
        for place in closed.into_iter().flat_map(|open| open.records) {
            if !unsure.contains(&place) {
                self.in_doubt.remove(&place);
            }
        }
        for PartlyStoredRecord { place, items } in finished.partly {
            self.partly_stored.entry(place).or_default().extend(items);
        }
        for (place, key) in finished.records {
            self.in_doubt.remove(&place);
            self.partly_stored.remove(&place);
            self.done.insert(place);
            self.keys.insert(key);
        }
    }

    /// Whether all events of a record, or of the same bytes elsewhere, are stored.
    pub fn is_done(&self, kept: &ReplayCandidate) -> bool {
        self.done.contains(&kept.position) || self.keys.contains(&kept.key)
    }

    /// The hashes of a record's events that are stored, where that is known of some.
    pub fn partly_stored(&self, place: QuarantinePosition) -> Option<&HashSet<u64>> {
        self.partly_stored.get(&place)
    }

    /// Records whose events may be stored, and from where on.
    pub fn in_doubt(&self) -> &HashMap<QuarantinePosition, TopicEnds> {
        &self.in_doubt
    }

    /// The batch that is open.
    pub fn open_batch(&self) -> Option<&OpenBatch> {
        self.open_batch.as_ref()
    }
}

/// The earlier end counts: what is in doubt twice may be stored since the first time.
pub fn merge_ends(ends: &mut TopicEnds, others: &TopicEnds) {
    for (topic, partitions) in others {
        let known = ends.contains_key(topic);
        let of_topic = ends.entry(topic.clone()).or_default();
        if known {
            // A partition that one of them did not have is read from its beginning.
            of_topic.retain(|partition, _| partitions.contains_key(partition));
        }
        for (partition, end) in partitions {
            match of_topic.get_mut(partition) {
                Some(earlier) => *earlier = (*earlier).min(*end),
                None if known => {}
                None => {
                    of_topic.insert(*partition, *end);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: QuarantinePosition = QuarantinePosition(0, 5);
    const B: QuarantinePosition = QuarantinePosition(1, 7);

    fn intent(run: &str, batch: u32, records: &[QuarantinePosition], end: i64) -> ReplayMarker {
        ReplayMarker::Intent {
            run: run.to_owned(),
            batch,
            lease_ms: 1000,
            records: records.to_vec(),
            ends: [("t".to_owned(), [(0, end)].into())].into(),
        }
    }

    fn done(
        run: &str,
        batch: u32,
        records: &[QuarantinePosition],
        unsure: &[QuarantinePosition],
    ) -> ReplayMarker {
        let key = |place: &QuarantinePosition| (*place, format!("key{}", place.1));
        ReplayMarker::Done {
            run: run.to_owned(),
            batch,
            finished: Some(BatchOutcome {
                records: records.iter().map(key).collect(),
                partly: Vec::new(),
                unsure: unsure.to_vec(),
            }),
        }
    }

    fn kept(place: QuarantinePosition, key: &str) -> ReplayCandidate {
        ReplayCandidate::for_test(place, key)
    }

    #[test]
    fn one_batch_at_a_time_counts() {
        let mut history = ReplayHistory::default();
        assert!(history.apply(0, intent("a", 0, &[A], 3)));
        assert!(!history.apply(0, intent("b", 0, &[B], 4)));
        assert!(!history.in_doubt().contains_key(&B), "it publishes nothing");
        history.apply(0, done("b", 0, &[], &[]));
        assert_eq!(
            history.open_batch().map(|open| open.run.as_str()),
            Some("a")
        );
        history.apply(0, done("a", 0, &[A], &[]));
        assert_eq!(history.open_batch(), None);
        assert!(history.apply(0, intent("b", 1, &[B], 4)));
    }

    #[test]
    fn what_is_done_is_known_by_its_place_and_its_bytes() {
        let mut history = ReplayHistory::default();
        history.apply(0, intent("a", 0, &[A, B], 3));
        assert!(!history.is_done(&kept(A, "key5")));
        history.apply(0, done("a", 0, &[A], &[]));
        assert!(history.is_done(&kept(A, "another")));
        assert!(history.is_done(&kept(B, "key5")));
        assert!(!history.is_done(&kept(B, "key7")));
        assert!(history.in_doubt().is_empty());
    }

    #[test]
    fn a_doubt_stays_until_it_is_known() {
        let mut history = ReplayHistory::default();
        history.apply(0, intent("a", 0, &[A, B], 9));
        let gone = ReplayMarker::Done {
            run: "a".to_owned(),
            batch: 0,
            finished: None,
        };
        history.apply(0, gone);
        assert_eq!((history.open_batch(), history.in_doubt().len()), (None, 2));
        // The earliest end counts, whatever comes after.
        history.apply(0, intent("b", 0, &[A], 20));
        assert_eq!(history.in_doubt()[&A]["t"][&0], 9);
        history.apply(0, done("b", 0, &[], &[A]));
        assert_eq!(history.in_doubt()[&A]["t"][&0], 9);
        history.apply(0, intent("b", 1, &[A, B], 30));
        history.apply(0, done("b", 1, &[A], &[]));
        assert!(history.in_doubt().is_empty());
    }

    #[test]
    fn a_run_that_was_taken_for_gone_may_still_tell() {
        let mut history = ReplayHistory::default();
        history.apply(0, intent("a", 0, &[A], 9));
        let gone = ReplayMarker::Done {
            run: "a".to_owned(),
            batch: 0,
            finished: None,
        };
        history.apply(0, gone);
        history.apply(0, intent("b", 0, &[B], 10));
        history.apply(0, done("a", 0, &[A], &[]));
        assert!(history.is_done(&kept(A, "")));
        assert!(
            history.open_batch().is_some(),
            "not the one that is open now"
        );
        assert!(history.in_doubt().contains_key(&B));
    }

    #[test]
    fn ends_are_joined_to_the_earliest() {
        let mut ends: TopicEnds = [("t".to_owned(), [(0, 5), (1, 9)].into())].into();
        let others: TopicEnds = [
            ("t".to_owned(), [(0, 7), (2, 1)].into()),
            ("u".to_owned(), [(0, 2)].into()),
        ]
        .into();
        merge_ends(&mut ends, &others);
        assert_eq!(ends["t"], [(0, 5)].into());
        assert_eq!(ends["u"], [(0, 2)].into());
    }

    #[test]
    fn markers_are_read_as_they_are_written() {
        for marker in [intent("a", 3, &[A, B], 4), done("a", 3, &[A], &[B])] {
            let text = serde_json::to_string(&marker).unwrap();
            assert_eq!(serde_json::from_str::<ReplayMarker>(&text).unwrap(), marker);
        }
    }
}
