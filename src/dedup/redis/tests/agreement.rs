//! Replicas decide together like one memory.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Barrier, Mutex};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::marks::{Marks, Revision};
use butlr_event::event_id::EventId;

#[derive(Clone, Debug)]
struct ReplicaStep {
    replica: usize,
    id: String,
    occupancy: Option<u64>,
    value: u64,
    timestamp_ms: i64,
    end: StepEnd,
    /// Spooled event that is drained before the step.
    drains: Option<prop::sample::Index>,
}

#[derive(Clone, Copy, Debug)]
enum StepEnd {
    Failed,
    Stored,
    Spooled,
}

fn step() -> impl Strategy<Value = ReplicaStep> {
    let id = prop_oneof![
        8 => (0..4u32, 0..4u8).prop_map(|(second, number)| ksuid(second, number)),
        1 => "[a-c]",
    ];
    let occupancy = proptest::option::weighted(0.8, 0..2u64);
    let end = prop_oneof![
        2 => Just(StepEnd::Failed),
        5 => Just(StepEnd::Stored),
        3 => Just(StepEnd::Spooled),
    ];
    let drains = proptest::option::weighted(0.3, any::<prop::sample::Index>());
    (0..3usize, id, occupancy, 0..3u64, 0..6i64, end, drains).prop_map(
        |(replica, id, occupancy, value, timestamp_ms, end, drains)| ReplicaStep {
            replica,
            id,
            occupancy,
            value,
            timestamp_ms,
            end,
            drains,
        },
    )
}

/// Spooled events, and what was reported of them.
#[derive(Default)]
struct SpooledEntries<'s> {
    entries: Vec<(usize, EventFacts<'s>, Marks)>,
    /// Stored events, as id and reading. An id may have several readings; publishing one again
    /// changes nothing.
    stored: HashSet<(IdHash, ReadingHash)>,
    /// The event stored last for each occupancy key.
    last: HashMap<OccupancyKey, (IdHash, ReadingHash)>,
    /// Ids of dropped repeats: only the replica that stored the repeated event knows whether it is
    /// spooled.
    repeats: HashSet<IdHash>,
    /// Events that a replica was told are spooled; they may be drained since.
    reported_spooled: HashSet<(usize, IdHash, ReadingHash)>,
}

impl<'s> SpooledEntries<'s> {
    fn record_end(&mut self, step: &ReplicaStep, facts: &EventFacts<'s>, marks: &Marks) {
        if matches!(step.end, StepEnd::Failed) {
            return;
        }
        let event = (facts.id_hash, facts.reading);
        if self.stored.insert(event)
            && let Some(occupancy) = facts.occupancy_key
        {
            self.last.insert(occupancy, event);
        }
        if matches!(step.end, StepEnd::Spooled) {
            self.entries.push((step.replica, *facts, marks.clone()));
        }
    }

    /// Removes an entry, and returns it if no other event was stored after it. After others,
    /// replicas are more cautious than one that knows all spools.
    fn drain_latest(
        &mut self,
        which: prop::sample::Index,
    ) -> Option<(usize, EventFacts<'s>, Marks)> {
        if self.entries.is_empty() {
            return None;
        }
        let entry = self.entries.swap_remove(which.index(self.entries.len()));
        let last = entry
            .1
            .occupancy_key
            .and_then(|occupancy| self.last.get(&occupancy));
        let is_last = last.is_none_or(|last| *last == (entry.1.id_hash, entry.1.reading));
        is_last.then_some(entry)
    }

    fn check_duplicate(
        &mut self,
        step: &ReplicaStep,
        facts: &EventFacts<'s>,
        kind: DuplicateKind,
        storage: [StorageLocation; 2],
    ) -> Result<(), TestCaseError> {
        let [spooled, expected] = storage.map(StorageLocation::is_spooled);
        if kind == DuplicateKind::Repeat {
            self.repeats.insert(facts.id_hash);
            return Ok(());
        }
        if self.repeats.contains(&facts.id_hash) {
            return Ok(());
        }
        let event = (step.replica, facts.id_hash, facts.reading);
        prop_assert!(spooled || !expected, "{:?} is spooled", step);
        prop_assert!(
            expected || !spooled || self.reported_spooled.contains(&event),
            "{:?} is in Kafka",
            step
        );
        if spooled {
            self.reported_spooled.insert(event);
        }
        Ok(())
    }
}

/// The script decides like the memory of a single bridge that receives all events.
#[test]
fn replicas_together_decide_as_one_memory_does() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let runtime = runtime();
    let handling = || {
        prop_oneof![
            Just(DuplicateHandling::Drop),
            Just(DuplicateHandling::Tag),
            Just(DuplicateHandling::Off)
        ]
    };
    let case = (
        handling(),
        handling(),
        proptest::collection::vec(step(), 1..60),
    );
    let mut runner = TestRunner::new(Config::with_cases(150));
    let checked = runner.run(&case, |(redelivery, repeat, steps)| {
        let settings = settings(redelivery, repeat);
        let replicas: [Replica; 3] = Replica::start_many(&settings, &server.url(), &fresh_topics());
        let single = MemoryStore::new(&settings, Instant::now());
        let mut spooled = SpooledEntries::default();
        let mut has_drained = false;
        for step in &steps {
            if let Some(which) = step.drains
                && let Some((replica, facts, marks)) = spooled.drain_latest(which)
            {
                has_drained = true;
                single.mark_drained(&facts, &marks);
                mark_drained(&replicas[replica], &facts, &marks);
                runtime.block_on(replicas[replica].redis.flush(GENEROUS_TIMEOUT));
            }
            let facts = facts(&step.id, step.occupancy, step.value, step.timestamp_ms);
            let replica = &replicas[step.replica];
            let decided = runtime.block_on(replica.claim(&facts, Duration::from_secs(20)));
            match (decided, single.claim(&facts, Instant::now())) {
                (Some(Decision::Publish(claim)), Ok(Decision::Publish(expected))) => {
                    // Revision details may differ: after a drain each replica uses the latest value
                    // it knows.
                    let comparable = |claim: &Claim| {
                        if has_drained {
                            without_revision_details(claim.marks())
                        } else {
                            claim.marks().clone()
                        }
                    };
                    prop_assert_eq!(comparable(&claim), comparable(&expected), "{:?}", step);
                    spooled.record_end(step, &facts, claim.marks());
                    for claim in [claim, expected] {
                        match step.end {
                            StepEnd::Failed => drop(claim),
                            StepEnd::Stored => commit(claim),
                            StepEnd::Spooled => claim.commit_spooled(Instant::now()),
                        }
                    }
                    // Other replicas learn of it a moment later.
                    runtime.block_on(replica.redis.flush(GENEROUS_TIMEOUT));
                }
                (
                    Some(Decision::Duplicate { kind, storage }),
                    Ok(Decision::Duplicate {
                        kind: expected,
                        storage: expected_storage,
                    }),
                ) => {
                    prop_assert_eq!(kind, expected, "{:?}", step);
                    spooled.check_duplicate(step, &facts, kind, [storage, expected_storage])?;
                }
                (decided, expected) => {
                    prop_assert!(false, "{step:?}: {decided:?}, expected {expected:?}");
                }
            }
        }
        for replica in &replicas {
            prop_assert_eq!(replica.errors.get(), 0);
        }
        Ok(())
    });
    checked.unwrap();
}

/// Runs `each` for each number on two replicas with two workers each, all at once.
fn race(server: &RedisServer, numbers: u32, each: impl AsyncFn(&Replica, u32, usize) + Sync) {
    let settings = drop_settings();
    let replicas: [Replica; 2] = Replica::start_many(&settings, &server.url(), &fresh_topics());
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for worker in 0..4 {
            let (replica, barrier, each) = (&replicas[worker % 2], &barrier, &each);
            scope.spawn(move || {
                let runtime = runtime();
                for number in 0..numbers {
                    barrier.wait();
                    runtime.block_on(each(replica, number, worker));
                }
            });
        }
    });
    assert_eq!(replicas[0].errors.get() + replicas[1].errors.get(), 0);
}

#[test]
fn of_simultaneous_copies_one_is_published() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let published = AtomicUsize::new(0);
    let others = AtomicUsize::new(0);
    race(&server, 500, async |replica, number, worker| {
        let id = ksuid(number, 1);
        let occupancy = (number % 2 == 0).then_some(u64::from(number));
        match replica
            .verdict(&facts(&id, occupancy, 1, i64::from(number)))
            .await
        {
            // Every third one fails the first time: another worker takes over.
            (_, Some(claim)) if number % 3 == 0 && worker == 0 => drop(claim),
            (DedupVerdict::Publish(marks), Some(claim)) => {
                assert!(marks.is_plain() || number < 4, "{marks:?}");
                tokio::time::sleep(Duration::from_micros(u64::from(number) * 3)).await;
                commit(claim);
                published.fetch_add(1, Ordering::Relaxed);
            }
            (verdict, _) => {
                assert_eq!(verdict, DedupVerdict::Duplicate(DuplicateKind::Redelivery));
                others.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert_eq!(published.into_inner(), 500);
    assert!(others.into_inner() >= 500 * 2);
}

#[test]
fn each_of_simultaneous_values_revises_the_one_before() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    // For each number: revision, superseded id, and id.
    type RevisionChain = Vec<(u32, String, String)>;
    let chains: Mutex<HashMap<u32, RevisionChain>> = Mutex::default();
    race(&server, 300, async |replica, number, worker| {
        let id = ksuid(number, worker as u8);
        let (verdict, claim) = replica
            .verdict(&facts(&id, Some(u64::from(number)), worker as u64, 1))
            .await;
        let DedupVerdict::Publish(marks) = verdict else {
            panic!("{verdict:?}: all values differ");
        };
        let revision = marks.revision.map_or((0, String::new()), |revision| {
            (revision.number, revision.supersedes.to_string())
        });
        let mut chains = chains.lock().unwrap();
        let chain = chains.entry(number).or_default();
        chain.push((revision.0, revision.1, id));
        commit(claim.unwrap());
    });
    for (_, chain) in chains.into_inner().unwrap() {
        let mut before = String::new();
        assert_eq!(chain.len(), 4);
        for (number, (revision, supersedes, id)) in chain.into_iter().enumerate() {
            assert_eq!((revision, supersedes), (number as u32, before));
            before = id;
        }
    }
}

/// Returns the marks without the number and target of the revision.
fn without_revision_details(marks: &Marks) -> Marks {
    Marks {
        revision: marks.revision.as_ref().map(|_| Revision {
            number: 0,
            supersedes: EventId::new("any"),
        }),
        ..marks.clone()
    }
}
