mod interleavings;
mod model;
mod model_check;
mod spooled;
mod threads;

use super::*;
use crate::config::DedupStore;
use crate::dedup::stored_facts::StoredFacts;
use crate::kafka::report::Receipt;
use crate::marks::Marks;
use model::ModelEvent;

impl MemoryStore {
    /// Restores a current value that was published `age` ago, without its id.
    pub(crate) fn restore_current(
        &self,
        key: OccupancyKey,
        current: CurrentReading,
        age: Duration,
        now: Instant,
    ) -> bool {
        let now = self.window_ticks(now);
        let tick = now.tick.saturating_sub(to_ticks(age));
        let stamp = StorageStamp::new(tick, StorageLocation::Published);
        self.restore_value(key, current, stamp, now)
    }
}

fn settings(redelivery: DuplicateHandling, repeat: DuplicateHandling) -> config::DedupConfig {
    config::DedupConfig {
        store: DedupStore::Memory,
        redelivery,
        repeat,
        id_window: Duration::from_secs(20),
        reading_window: Duration::from_secs(30),
        max_ids: 8_192,
        max_readings: 8_192,
        rebuild_within: Duration::ZERO,
    }
}

fn drop_settings() -> config::DedupConfig {
    settings(DuplicateHandling::Drop, DuplicateHandling::Drop)
}

/// Claims like a replica whose Redis knows no more than itself.
fn claim_by_reservation(
    memory: &Arc<MemoryStore>,
    facts: &EventFacts<'_>,
    now: Instant,
) -> Result<Decision, ClaimWaiter> {
    Ok(match memory.reserve(facts, now) {
        ReservationOutcome::Wait(waiter) => return Err(waiter),
        ReservationOutcome::Redelivery { storage } => Decision::Duplicate {
            kind: DuplicateKind::Redelivery,
            storage,
        },
        ReservationOutcome::Reserved(reservation) => match reservation.local_verdict().clone() {
            DedupVerdict::Publish(marks) => Decision::Publish(reservation.into_claim(marks, None)),
            DedupVerdict::Duplicate(kind) => {
                let storage = reservation.repeat_storage();
                reservation.commit_duplicate(storage, now);
                Decision::Duplicate { kind, storage }
            }
        },
    })
}

fn publish(
    memory: &Arc<MemoryStore>,
    event: ModelEvent,
    now: Instant,
) -> Result<Marks, DuplicateKind> {
    let id = event.id();
    match memory.claim(&event.facts(&id), now) {
        Ok(Decision::Publish(claim)) => {
            let marks = claim.marks().clone();
            claim.commit(&Receipt::for_test(), now);
            Ok(marks)
        }
        Ok(Decision::Duplicate { kind, .. }) => Err(kind),
        Err(_) => panic!("nothing is undecided"),
    }
}

/// There is a claim for each event in flight.
#[test]
fn a_claim_is_small_and_can_be_sent_between_threads() {
    fn anywhere<T: Send + 'static>() {}
    anywhere::<Claim>();
    anywhere::<Reservation>();
    anywhere::<ClaimWaiter>();
    assert!(size_of::<Claim>() <= 208, "{}", size_of::<Claim>());
    assert_eq!(size_of::<StoredId>(), 20);
    assert_eq!(size_of::<StoredValue>(), 56);
}

#[test]
fn restored_events_are_known() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let (first, conflicting) = (
        ModelEvent::occupancy(0, 0, 1),
        ModelEvent::occupancy(0, 1, 2),
    );
    let (id, other) = (first.id(), ModelEvent::occupancy(1, 0, 1).id());
    let (facts, conflict) = (first.facts(&id), conflicting.facts(&id));
    let age = Duration::from_secs(20);
    let restore = |reading, is_conflict, age| {
        let stored = StoredFacts {
            id_hash: facts.id_hash,
            reading,
            is_conflict,
            newest: None,
            current: None,
            age,
            is_in_doubt: false,
        };
        memory.restore(stored, StorageLocation::Published, now).id
    };
    assert!(!restore(facts.reading, false, age + Duration::from_secs(1)));
    assert!(restore(conflict.reading, true, age));
    assert!(restore(facts.reading, false, age));
    assert!(!restore(facts.reading, false, Duration::ZERO));
    let current = CurrentReading {
        reading: facts.reading,
        id: EventId::new(&other),
        revision: 3,
    };
    let key = facts.occupancy_key.unwrap();
    assert!(memory.restore_current(key, current.clone(), age, now));
    assert!(!memory.restore_current(key, current, Duration::ZERO, now));
    for timestamp_ms in [i64::MAX, 0] {
        memory.restore_newest(SourceTime {
            source_key: facts.source_key,
            timestamp_ms,
        });
    }
    let entries = memory.entry_counts();
    assert_eq!((entries.ids, entries.readings, entries.sources), (2, 1, 1));

    assert_eq!(publish(&memory, first, now), Err(DuplicateKind::Redelivery));
    assert_eq!(
        publish(&memory, conflicting, now),
        Err(DuplicateKind::Redelivery)
    );
    let again = ModelEvent::occupancy(2, 0, 1);
    assert_eq!(publish(&memory, again, now), Err(DuplicateKind::Repeat));
    let marks = publish(&memory, ModelEvent::occupancy(3, 0, 2), now).unwrap();
    let revision = marks.revision.unwrap();
    assert_eq!(revision.number, 4);
    assert_eq!(revision.supersedes.to_string(), other);
    assert!(!marks.out_of_order);
    assert!(
        publish(&memory, ModelEvent::occupancy(3, 3, 2), now).is_ok_and(|m| m.conflict.is_some())
    );
    let marks = publish(&memory, ModelEvent::occupancy(4, 1, 2), now).unwrap();
    assert!(marks.out_of_order);
}

fn publish_in_doubt(memory: &Arc<MemoryStore>, event: ModelEvent, now: Instant) {
    let id = event.id();
    match memory.claim(&event.facts(&id), now) {
        Ok(Decision::Publish(claim)) => claim.release_in_doubt(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_a_repeat_of_a_value_that_may_have_been_replaced() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let first = event(0, 4);
    for values in [&[5][..], &[5, 5], &[5, 6, 5]] {
        // Either reverted to the old value, or the same again: its id is not remembered.
        for value in [4, 5] {
            let memory = MemoryStore::new(&drop_settings(), now);
            publish(&memory, first, now).unwrap();
            for &value in values {
                publish_in_doubt(&memory, event(20, value), now);
            }
            let marks = publish(&memory, event(20, value), now).unwrap();
            let revision = marks.revision.unwrap();
            assert_eq!(revision.number, 1);
            assert_eq!(revision.supersedes.to_string(), first.id());
            assert_eq!(publish(&memory, first, now), Err(DuplicateKind::Redelivery));
            let repeat = publish(&memory, event(22, value), now);
            assert_eq!(repeat, Err(DuplicateKind::Repeat));
        }
    }
    // Events in doubt that would not have replaced the value do not matter.
    let memory = MemoryStore::new(&drop_settings(), now);
    publish(&memory, event(8, 4), now).unwrap();
    publish_in_doubt(&memory, event(0, 5), now);
    publish_in_doubt(&memory, ModelEvent::occupancy(9, 1, 5), now);
    assert_eq!(
        publish(&memory, event(10, 4), now),
        Err(DuplicateKind::Repeat)
    );
    // Without a current value, there is nothing to invalidate.
    let memory = MemoryStore::new(&drop_settings(), now);
    publish_in_doubt(&memory, event(0, 5), now);
    assert_eq!(publish(&memory, event(2, 4), now), Ok(Marks::default()));
}

/// The event in doubt was claimed before the value that it replaces was restored.
#[test]
fn a_restored_value_may_have_been_replaced_since_the_start() {
    let now = Instant::now();
    let (old, new, again) = (
        ModelEvent::occupancy(0, 0, 4),
        ModelEvent::occupancy(2, 0, 5),
        ModelEvent::occupancy(4, 0, 4),
    );
    let memory = MemoryStore::new(&drop_settings(), now);
    publish_in_doubt(&memory, new, now);
    assert!(restore(&memory, old, Duration::ZERO, now));
    let marks = publish(&memory, again, now).unwrap();
    assert_eq!(marks.revision.unwrap().supersedes.to_string(), old.id());
    // After restoring has ended.
    let memory = MemoryStore::new(&drop_settings(), now);
    memory.finish_restoring();
    publish_in_doubt(&memory, new, now);
    assert!(restore(&memory, old, Duration::ZERO, now));
    assert_eq!(publish(&memory, again, now), Err(DuplicateKind::Repeat));
}

/// A memory with room for two values, filled with these.
fn full_memory(now: Instant, others: [ModelEvent; 2]) -> Arc<MemoryStore> {
    let settings = config::DedupConfig {
        max_readings: 2,
        ..drop_settings()
    };
    let memory = MemoryStore::new(&settings, now);
    for event in others {
        publish(&memory, event, now).unwrap();
    }
    memory
}

fn restore(memory: &MemoryStore, event: ModelEvent, age: Duration, now: Instant) -> bool {
    let id = event.id();
    let facts = event.facts(&id);
    let current = CurrentReading {
        reading: facts.reading,
        id: EventId::new(&id),
        revision: 0,
    };
    memory.restore_current(facts.occupancy_key.unwrap(), current, age, now)
}

/// The last value is restored first. Here it is forgotten, or never fits, and then there is room
/// for the value that it replaced.
#[test]
fn a_restored_value_is_uncertain_if_its_successor_did_not_fit() {
    let now = Instant::now();
    let event = ModelEvent::occupancy;
    let (old, new, again) = (event(0, 0, 4), event(2, 0, 5), event(4, 0, 4));
    let makes_room = |memory: &Arc<MemoryStore>| {
        // A replaced entry keeps its place until it reaches the front.
        for value in 6..9 {
            publish(memory, event(4 + 4 * value, 1, value), now).unwrap();
        }
        memory.sweep(now);
        assert_eq!(memory.entry_counts().readings, 1);
    };
    let is_uncertain = |memory: &Arc<MemoryStore>| {
        assert!(restore(memory, old, Duration::ZERO, now));
        match publish(memory, again, now) {
            Ok(marks) => {
                assert_eq!(marks.revision.unwrap().supersedes.to_string(), old.id());
                true
            }
            Err(kind) => {
                assert_eq!(kind, DuplicateKind::Repeat);
                false
            }
        }
    };

    let memory = full_memory(now, [event(8, 1, 4), event(9, 2, 4)]);
    assert!(!restore(&memory, new, Duration::ZERO, now));
    makes_room(&memory);
    assert!(is_uncertain(&memory));

    // The restored value is the first to be evicted.
    for is_restoring in [true, false] {
        let memory = full_memory(now, [event(8, 1, 4), event(12, 1, 5)]);
        memory.sweep(now);
        assert!(restore(&memory, new, Duration::ZERO, now));
        if !is_restoring {
            memory.finish_restoring();
        }
        makes_room(&memory);
        assert_eq!(is_uncertain(&memory), is_restoring);
    }

    // Values of other keys are certain.
    let memory = full_memory(now, [event(8, 1, 4), event(9, 2, 4)]);
    assert!(!restore(&memory, event(2, 3, 5), Duration::ZERO, now));
    makes_room(&memory);
    assert!(!is_uncertain(&memory));
}

/// A clock was set back: the successor of a value expires before it.
#[test]
fn a_restored_value_is_uncertain_if_its_successor_expired() {
    let now = Instant::now();
    let (old, new, again) = (
        ModelEvent::occupancy(0, 0, 4),
        ModelEvent::occupancy(2, 0, 5),
        ModelEvent::occupancy(4, 0, 4),
    );
    let later = now + Duration::from_secs(2);
    for freed_by in 0..3 {
        let memory = MemoryStore::new(&drop_settings(), now);
        assert!(restore(&memory, new, Duration::from_secs(29), now));
        match freed_by {
            0 => memory.sweep(later),
            1 => _ = publish(&memory, ModelEvent::occupancy(6, 1, 1), later).unwrap(),
            _ => {}
        }
        for start in [now, later] {
            restore(&memory, old, Duration::ZERO, start);
        }
        assert!(publish(&memory, again, later).is_ok(), "{freed_by}");
    }
}

/// Another replica knows a conflict, or a current value, that this one does not.
#[test]
fn a_reservation_takes_over_the_marks_of_another_replica() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let event = ModelEvent::occupancy(5, 0, 1);
    let id = event.id();
    let facts = event.facts(&id);
    let ReservationOutcome::Reserved(reservation) = memory.reserve(&facts, now) else {
        panic!("it is new");
    };
    assert_eq!(
        reservation.local_verdict(),
        &DedupVerdict::Publish(Marks::default())
    );
    assert_eq!(reservation.current(), None);
    assert!(memory.claim(&facts, now).is_err());
    let marks = Marks {
        conflict: Some(facts.reading.0),
        revision: Some(crate::marks::Revision {
            number: 7,
            supersedes: EventId::new("x"),
        }),
        ..Marks::default()
    };
    let conflict_id = marks.conflict_id(&id).unwrap();
    reservation
        .into_claim(marks, None)
        .commit(&Receipt::for_test(), now);
    assert_eq!(memory.entry_counts().undecided, 0);

    let next = ModelEvent::occupancy(6, 0, 2);
    let marks = publish(&memory, next, now).unwrap();
    let revision = marks.revision.unwrap();
    assert_eq!(
        (revision.number, revision.supersedes.to_string()),
        (8, conflict_id)
    );
    // The plain id is free here: the first event with it is stored by another replica.
    let first = ModelEvent::occupancy(5, 1, 1);
    assert_eq!(publish(&memory, first, now).map(|m| m.conflict), Ok(None));
    assert_eq!(publish(&memory, event, now), Err(DuplicateKind::Redelivery));
}

#[test]
fn the_memory_bound_adds_a_margin() {
    let mut settings = drop_settings();
    settings.max_ids = 4_000_000;
    settings.max_readings = 1_000_000;
    let bound = MemoryStore::max_bytes(&settings);
    // 20 + 12, 56 + 12 and 16 + 12 bytes an entry.
    let bare = 4_000_000 * 32 + 1_000_000 * (68 + 28);
    assert!(bound >= bare && bound < bare + bare / 5, "{bound}");
}
