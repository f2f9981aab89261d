//! State derived from the markers in their order; the same for every run that reads them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::candidate::{ContentKey, ItemHash, QuarantinePosition, ReplayCandidate, StoredItems};
use super::marker::{BatchOutcome, PartlyStoredRecord, ReplayMarker, TopicEnds};

/// Records that were replayed or are in doubt, and the batch that is open.
#[derive(Debug, Default)]
pub struct ReplayHistory {
    done: HashSet<QuarantinePosition>,
    /// Keys of the records in `done`: the same bytes may be in the quarantine several times.
    keys: HashSet<ContentKey>,
    partly_stored: StoredItems,
    in_doubt: HashMap<QuarantinePosition, TopicEnds>,
    open_batch: Option<OpenBatch>,
}

/// Batch with an intent and no done: its run is publishing it, or is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBatch {
    /// Id of the run.
    pub run: String,
    /// Number within the run.
    pub batch: u32,
    /// Time of the intent, ms since 1970, by the clock of its run.
    pub since_ms: i64,
    /// Time after the intent during which the batch may be published.
    pub lease: Duration,
    /// Records of the batch.
    pub records: Vec<QuarantinePosition>,
}

impl ReplayHistory {
    /// Applies the next marker, written at `ms`. Returns `false` if it does not count, which is the
    /// case for an intent while another batch is open.
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
                for position in &records {
                    merge_ends(self.in_doubt.entry(*position).or_default(), &ends);
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
                let is_own = |open: &mut OpenBatch| open.run == run && open.batch == batch;
                let closed = self.open_batch.take_if(is_own);
                if let Some(finished) = finished {
                    self.apply_outcome(closed, finished);
                }
            }
        }
        true
    }

    fn apply_outcome(&mut self, closed: Option<OpenBatch>, finished: BatchOutcome) {
        let unsure: HashSet<_> = finished.unsure.into_iter().collect();
        for position in closed.into_iter().flat_map(|open| open.records) {
            if !unsure.contains(&position) {
                self.in_doubt.remove(&position);
            }
        }
        for PartlyStoredRecord { position, items } in finished.partly {
            self.partly_stored
                .entry(position)
                .or_default()
                .extend(items);
        }
        for (position, key) in finished.records {
            self.in_doubt.remove(&position);
            self.partly_stored.remove(&position);
            self.done.insert(position);
            self.keys.insert(key);
        }
    }

    /// Returns `true` if all events of a record, or of another one with the same bytes, are stored.
    pub fn is_done(&self, candidate: &ReplayCandidate) -> bool {
        self.done.contains(&candidate.position) || self.keys.contains(&candidate.key)
    }

    /// Returns the hashes of a record's stored events, if some but not all are stored.
    pub fn partly_stored(&self, position: QuarantinePosition) -> Option<&HashSet<ItemHash>> {
        self.partly_stored.get(&position)
    }

    /// Returns the records whose events may be stored, with the offsets to search from.
    pub fn in_doubt(&self) -> &HashMap<QuarantinePosition, TopicEnds> {
        &self.in_doubt
    }

    pub fn open_batch(&self) -> Option<&OpenBatch> {
        self.open_batch.as_ref()
    }
}

/// Merges ends; the earlier one counts, because a record that is in doubt twice may have been
/// stored after the first intent.
pub fn merge_ends(ends: &mut TopicEnds, others: &TopicEnds) {
    for (topic, partitions) in others {
        let known = ends.contains_key(topic);
        let of_topic = ends.entry(topic.clone()).or_default();
        if known {
            // A partition that only one of them names is searched from its beginning.
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

    const A: QuarantinePosition = QuarantinePosition {
        partition: 0,
        offset: 5,
    };
    const B: QuarantinePosition = QuarantinePosition {
        partition: 1,
        offset: 7,
    };

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
        let key = |position: &QuarantinePosition| {
            (*position, ContentKey(format!("key{}", position.offset)))
        };
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

    fn candidate(position: QuarantinePosition, key: &str) -> ReplayCandidate {
        ReplayCandidate::for_test(position, key)
    }

    #[test]
    fn one_batch_at_a_time_counts() {
        let mut history = ReplayHistory::default();
        assert!(history.apply(0, intent("a", 0, &[A], 3)));
        assert!(!history.apply(0, intent("b", 0, &[B], 4)));
        assert!(
            !history.in_doubt().contains_key(&B),
            "run b publishes nothing"
        );
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
    fn a_done_record_is_recognised_by_position_and_by_key() {
        let mut history = ReplayHistory::default();
        history.apply(0, intent("a", 0, &[A, B], 3));
        assert!(!history.is_done(&candidate(A, "key5")));
        history.apply(0, done("a", 0, &[A], &[]));
        assert!(history.is_done(&candidate(A, "another")));
        assert!(history.is_done(&candidate(B, "key5")));
        assert!(!history.is_done(&candidate(B, "key7")));
        assert!(history.in_doubt().is_empty());
    }

    #[test]
    fn a_record_stays_in_doubt_until_its_outcome_is_known() {
        let mut history = ReplayHistory::default();
        history.apply(0, intent("a", 0, &[A, B], 9));
        let gone = ReplayMarker::Done {
            run: "a".to_owned(),
            batch: 0,
            finished: None,
        };
        history.apply(0, gone);
        assert_eq!((history.open_batch(), history.in_doubt().len()), (None, 2));
        // The earliest end counts.
        history.apply(0, intent("b", 0, &[A], 20));
        assert_eq!(history.in_doubt()[&A]["t"][&0], 9);
        history.apply(0, done("b", 0, &[], &[A]));
        assert_eq!(history.in_doubt()[&A]["t"][&0], 9);
        history.apply(0, intent("b", 1, &[A, B], 30));
        history.apply(0, done("b", 1, &[A], &[]));
        assert!(history.in_doubt().is_empty());
    }

    #[test]
    fn a_run_taken_for_gone_may_still_write_its_done() {
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
        assert!(history.is_done(&candidate(A, "")));
        assert!(
            history.open_batch().is_some(),
            "the done closes only its own batch"
        );
        assert!(history.in_doubt().contains_key(&B));
    }

    #[test]
    fn the_earliest_ends_count() {
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
    fn markers_survive_a_round_trip() {
        let intent_json = serde_json::to_value(intent("a", 3, &[A, B], 4)).unwrap();
        assert_eq!(
            intent_json["intent"]["records"],
            serde_json::json!([[0, 5], [1, 7]])
        );
        for marker in [intent("a", 3, &[A, B], 4), done("a", 3, &[A], &[B])] {
            let text = serde_json::to_string(&marker).unwrap();
            assert_eq!(serde_json::from_str::<ReplayMarker>(&text).unwrap(), marker);
        }
    }
}
