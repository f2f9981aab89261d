//! What replicas decide together.

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
    cell: Option<u64>,
    value: u64,
    timestamp_ms: i64,
    end: StepEnd,
    /// Before: one of those on disk gets into Kafka.
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
    let cell = proptest::option::weighted(0.8, 0..2u64);
    let end = prop_oneof![
        2 => Just(StepEnd::Failed),
        5 => Just(StepEnd::Stored),
        3 => Just(StepEnd::Spooled),
    ];
    let drains = proptest::option::weighted(0.3, any::<prop::sample::Index>());
    (0..3usize, id, cell, 0..3u64, 0..6i64, end, drains).prop_map(
        |(replica, id, cell, value, timestamp_ms, end, drains)| ReplicaStep {
            replica,
            id,
            cell,
            value,
            timestamp_ms,
            end,
            drains,
        },
    )
}

/// What was spooled, and what was said of it.
#[derive(Default)]
struct SpooledEntries<'s> {
    entries: Vec<(usize, EventFacts<'s>, Marks)>,
    /// What is stored, as id and reading: an id may be there with several, and published again it changes nothing.
    stored: HashSet<(u64, u64)>,
    /// What was stored last of a cell.
    last: HashMap<u64, (u64, u64)>,
    /// Ids of dropped repeats: whether what they repeat is on disk only who stored it knows.
    repeats: HashSet<u64>,
    /// What a replica was told is on disk: by then it was.
    reported_spooled: HashSet<(usize, u64, u64)>,
}

impl<'s> SpooledEntries<'s> {
    fn record_end(&mut self, step: &ReplicaStep, facts: &EventFacts<'s>, marks: &Marks) {
        if matches!(step.end, StepEnd::Failed) {
            return;
        }
        let event = (facts.id_hash, facts.reading);
        if self.stored.insert(event)
            && let Some(cell) = facts.occupancy_key
        {
            self.last.insert(cell, event);
        }
        if matches!(step.end, StepEnd::Spooled) {
            self.entries.push((step.replica, *facts, marks.clone()));
        }
    }

    /// Only what nothing else came after: else replicas are more cautious than one that knows of all disks.
    fn drain_latest(
        &mut self,
        which: prop::sample::Index,
    ) -> Option<(usize, EventFacts<'s>, Marks)> {
        if self.entries.is_empty() {
            return None;
        }
        let entry = self.entries.swap_remove(which.index(self.entries.len()));
        let last = entry.1.occupancy_key.and_then(|cell| self.last.get(&cell));
        let is_last = last.is_none_or(|last| *last == (entry.1.id_hash, entry.1.reading));
        is_last.then_some(entry)
    }

    fn check_duplicate(
        &mut self,
        step: &ReplicaStep,
        facts: &EventFacts<'s>,
        kind: DuplicateKind,
        spooled: bool,
        expected: bool,
    ) -> Result<(), TestCaseError> {
        if kind == DuplicateKind::Repeat {
            self.repeats.insert(facts.id_hash);
            return Ok(());
        }
        if self.repeats.contains(&facts.id_hash) {
            return Ok(());
        }
        let event = (step.replica, facts.id_hash, facts.reading);
        prop_assert!(spooled || !expected, "{:?} is on disk", step);
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

/// The script decides as the memory of one bridge does to which all events go.
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
        let one = MemoryStore::new(&settings, Instant::now());
        let mut on_disk = SpooledEntries::default();
        let mut has_drained = false;
        for step in &steps {
            if let Some(which) = step.drains
                && let Some((replica, facts, marks)) = on_disk.drain_latest(which)
            {
                has_drained = true;
                one.mark_drained(&facts, &marks);
                mark_drained(&replicas[replica], &facts, &marks);
                runtime.block_on(replicas[replica].shared.flush(GENEROUS_TIMEOUT));
            }
            let facts = facts(&step.id, step.cell, step.value, step.timestamp_ms);
            let replica = &replicas[step.replica];
            let decided = runtime.block_on(replica.claim(&facts, Duration::from_secs(20)));
            match (decided, one.claim(&facts, Instant::now())) {
                (RedisDecision::Publish(claim), MemoryDecision::Publish(expected)) => {
                    // Which revision of what it is: after a drain each replica goes by the latest that it knows itself.
                    let told = |claim: &Claim| match has_drained {
                        true => without_revision_details(claim.marks()),
                        false => claim.marks().clone(),
                    };
                    prop_assert_eq!(told(&claim), told(&expected), "{:?}", step);
                    on_disk.record_end(step, &facts, claim.marks());
                    for claim in [claim, expected] {
                        match step.end {
                            StepEnd::Failed => drop(claim),
                            StepEnd::Stored => commit(claim),
                            StepEnd::Spooled => claim.commit_spooled(Instant::now()),
                        }
                    }
                    // Others learn of it a moment later.
                    runtime.block_on(replica.shared.flush(GENEROUS_TIMEOUT));
                }
                (
                    RedisDecision::Duplicate { kind, spooled },
                    MemoryDecision::Duplicate {
                        kind: expected,
                        spooled: is_on_disk,
                    },
                ) => {
                    prop_assert_eq!(kind, expected, "{:?}", step);
                    on_disk.check_duplicate(step, &facts, kind, spooled, is_on_disk)?;
                }
                (decided, expected) => {
                    prop_assert!(false, "{step:?}: {decided:?}, not {expected:?}");
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

/// Two replicas with two workers each; what each of them does for each number.
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
fn of_copies_at_the_same_moment_one_is_published() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let published = AtomicUsize::new(0);
    let others = AtomicUsize::new(0);
    race(&server, 500, async |replica, number, worker| {
        let id = ksuid(number, 1);
        let cell = (number % 2 == 0).then_some(u64::from(number));
        match replica
            .verdict(&facts(&id, cell, 1, i64::from(number)))
            .await
        {
            // Every third fails the first time: another takes its place.
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
fn of_values_at_the_same_moment_each_revises_the_one_before() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    // Of each number: revision, whose, and id.
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

/// The marks, but for which revision of what it is.
fn without_revision_details(marks: &Marks) -> Marks {
    Marks {
        revision: marks.revision.as_ref().map(|_| Revision {
            number: 0,
            supersedes: EventId::new("any"),
        }),
        ..marks.clone()
    }
}
