//! Spooled events: restored, drained, refused and lost.

use super::*;
use crate::dedup::keys::OccupancyKey;
use StorageLocation::{Published, Spooled};

fn spool(memory: &Arc<MemoryStore>, event: ModelEvent, now: Instant) -> Marks {
    let id = event.id();
    match memory.claim(&event.facts(&id), now) {
        Ok(Decision::Publish(claim)) => {
            let marks = claim.marks().clone();
            claim.commit_spooled(now);
            marks
        }
        other => panic!("{other:?}"),
    }
}

fn mark_drained(memory: &Arc<MemoryStore>, event: ModelEvent, marks: &Marks) -> Option<String> {
    let id = event.id();
    let successor = memory.mark_drained(&event.facts(&id), marks);
    successor.map(|id| id.to_string())
}

/// The kind of duplicate as which the event is dropped, and the place of the stored event.
fn claim_duplicate(
    memory: &Arc<MemoryStore>,
    event: ModelEvent,
    now: Instant,
) -> (DuplicateKind, StorageLocation) {
    let id = event.id();
    match memory.claim(&event.facts(&id), now) {
        Ok(Decision::Duplicate { kind, storage }) => (kind, storage),
        other => panic!("{other:?}"),
    }
}

/// Restores an entry of the spool. Returns `true` if its id is now known.
fn restore_spooled(memory: &MemoryStore, facts: StoredFacts, now: Instant) -> bool {
    memory.restore(facts, Spooled, now).id
}

/// A current value as a topic restores it, with its key.
fn current_value(event: ModelEvent, revision: u32) -> (OccupancyKey, CurrentReading) {
    let id = event.id();
    let facts = event.facts(&id);
    let current = CurrentReading {
        reading: facts.reading,
        id: EventId::new(&id),
        revision,
    };
    (facts.occupancy_key.unwrap(), current)
}

fn spooled_facts(event: ModelEvent, marks: &Marks, age: Duration) -> StoredFacts {
    let id = event.id();
    let age_ms = i64::try_from(age.as_millis()).unwrap();
    StoredFacts::from_facts(&event.facts(&id), marks, 0, age_ms)
}

use DuplicateKind::{Redelivery, Repeat};

const NO_AGE: Duration = Duration::ZERO;

#[test]
fn duplicates_of_spooled_events_are_reported_as_such() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let (first, repeat, later) = (event(0, 4), event(2, 4), event(4, 4));
    let memory = MemoryStore::new(&drop_settings(), now);
    let marks = spool(&memory, first, now);
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, Spooled));
    assert_eq!(claim_duplicate(&memory, repeat, now), (Repeat, Spooled));
    assert_eq!(claim_duplicate(&memory, repeat, now), (Redelivery, Spooled));
    assert_eq!(mark_drained(&memory, first, &marks), None);
    assert_eq!(
        claim_duplicate(&memory, first, now),
        (Redelivery, Published)
    );
    assert_eq!(claim_duplicate(&memory, later, now), (Repeat, Published));
    assert_eq!(
        claim_duplicate(&memory, later, now),
        (Redelivery, Published)
    );
}

/// Another reading under the same id is another event.
#[test]
fn only_the_drained_event_is_published() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let (first, other) = (
        ModelEvent::occupancy(0, 0, 4),
        ModelEvent::occupancy(0, 1, 4),
    );
    let marks = spool(&memory, first, now);
    let conflict = spool(&memory, other, now);
    assert!(conflict.conflict.is_some());
    // With the marks of the other event.
    mark_drained(&memory, other, &marks);
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, Spooled));
    assert_eq!(claim_duplicate(&memory, other, now), (Redelivery, Spooled));
    assert_eq!(mark_drained(&memory, other, &conflict), None);
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, Spooled));
    assert_eq!(
        claim_duplicate(&memory, other, now),
        (Redelivery, Published)
    );
    let again = ModelEvent::occupancy(2, 1, 4);
    assert_eq!(claim_duplicate(&memory, again, now), (Repeat, Published));
}

/// All events of a (type, space, timestamp) are spooled and drained in order: the last one follows
/// each of them.
#[test]
fn after_draining_in_order_the_last_value_is_current() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let [one, two, back] = [(0, 4), (2, 5), (4, 4)].map(|(id, v)| ModelEvent::occupancy(id, 0, v));
    let marks = [one, two, back].map(|event| spool(&memory, event, now));
    assert_eq!(mark_drained(&memory, one, &marks[0]), Some(back.id()));
    assert_eq!(mark_drained(&memory, two, &marks[1]), Some(back.id()));
    // The value equals the first one, but the event is another.
    assert_eq!(
        claim_duplicate(&memory, ModelEvent::occupancy(6, 0, 4), now),
        (Repeat, Spooled)
    );
    assert_eq!(mark_drained(&memory, back, &marks[2]), None);
    assert_eq!(
        claim_duplicate(&memory, ModelEvent::occupancy(8, 0, 4), now),
        (Repeat, Published)
    );
}

/// Readers of the topic see the drained event last.
#[test]
fn a_drained_event_behind_the_current_value_invalidates_it() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let (spooled, direct, again) = (event(0, 4), event(2, 5), event(4, 5));
    for is_drained in [true, false] {
        let memory = MemoryStore::new(&drop_settings(), now);
        let marks = spool(&memory, spooled, now);
        publish(&memory, direct, now).unwrap();
        if is_drained {
            assert_eq!(mark_drained(&memory, spooled, &marks), None);
            let marks = publish(&memory, again, now).unwrap();
            assert_eq!(marks.revision.unwrap().number, 2);
        }
        assert_eq!(
            claim_duplicate(&memory, event(6, 5), now),
            (Repeat, Published)
        );
    }
    // An event that was stale when spooled does not become current in Kafka: its record says so.
    let memory = MemoryStore::new(&drop_settings(), now);
    publish(&memory, direct, now).unwrap();
    let marks = spool(&memory, spooled, now);
    assert!(marks.stale);
    assert_eq!(mark_drained(&memory, spooled, &marks), None);
    assert_eq!(claim_duplicate(&memory, again, now), (Repeat, Published));
}

#[test]
fn spooled_events_found_at_start_are_known() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let (old, new) = (event(0, 4), event(2, 5));
    let revision = Marks {
        revision: Some(crate::marks::Revision {
            number: 3,
            supersedes: EventId::new(&old.id()),
        }),
        ..Marks::default()
    };
    let memory = MemoryStore::new(&drop_settings(), now);
    // The newest entry first, then the topics, whose records are older.
    assert!(restore_spooled(
        &memory,
        spooled_facts(new, &revision, NO_AGE),
        now
    ));
    let age = Duration::from_secs(10);
    assert!(restore_spooled(
        &memory,
        spooled_facts(old, &Marks::default(), age),
        now
    ));
    let (key, current) = current_value(old, 0);
    assert!(!memory.restore_current(key, current, NO_AGE, now));
    let again = spooled_facts(old, &Marks::default(), NO_AGE);
    let restored = memory.restore(again, Published, now);
    assert!(!restored.id && !restored.value);

    for event in [old, new] {
        assert_eq!(claim_duplicate(&memory, event, now), (Redelivery, Spooled));
    }
    assert_eq!(
        claim_duplicate(&memory, event(4, 5), now),
        (Repeat, Spooled)
    );
    assert_eq!(
        mark_drained(&memory, old, &Marks::default()),
        Some(new.id())
    );
    assert_eq!(mark_drained(&memory, new, &revision), None);
    assert_eq!(claim_duplicate(&memory, old, now), (Redelivery, Published));
    let marks = publish(&memory, event(6, 4), now).unwrap();
    assert_eq!(marks.revision.unwrap().number, 4);
}

#[test]
fn restored_entries_age_from_their_receipt() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let event = ModelEvent::occupancy(0, 0, 4);
    let restore = |age| restore_spooled(&memory, spooled_facts(event, &Marks::default(), age), now);
    // The id window is the shorter one.
    assert!(!restore(Duration::from_secs(25)));
    assert_eq!(memory.entry_counts().readings, 1);
    assert_eq!(
        claim_duplicate(&memory, ModelEvent::occupancy(2, 0, 4), now),
        (Repeat, Spooled)
    );
    let later = now + Duration::from_secs(6);
    assert!(publish(&memory, ModelEvent::occupancy(4, 0, 4), later).is_ok());
    // A clock was set back.
    let ahead = StoredFacts::from_facts(&event.facts(&event.id()), &Marks::default(), 9, 1);
    assert_eq!(ahead.age, Duration::ZERO);
}

/// An entry in doubt may already be in Kafka, with another event after it.
#[test]
fn the_value_of_an_entry_in_doubt_is_not_relied_on() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let event = |id| ModelEvent::occupancy(id, 0, 4);
    let first = event(0);
    let in_doubt = spooled_facts(first, &Marks::default(), NO_AGE).into_in_doubt();
    assert!(restore_spooled(&memory, in_doubt, now));
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, Spooled));
    assert_eq!(mark_drained(&memory, first, &Marks::default()), None);
    assert_eq!(
        claim_duplicate(&memory, first, now),
        (Redelivery, Published)
    );
    let marks = publish(&memory, event(2), now).unwrap();
    assert_eq!(marks.revision.unwrap().supersedes.to_string(), first.id());
    assert_eq!(claim_duplicate(&memory, event(4), now), (Repeat, Published));
}

/// An event stored, or in doubt, since the start is newer than the spool, and its value stays.
#[test]
fn events_since_the_start_win_over_the_spool() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let memory = MemoryStore::new(&drop_settings(), now);
    publish(&memory, event(2, 5), now).unwrap();
    assert!(restore_spooled(
        &memory,
        spooled_facts(event(0, 4), &Marks::default(), NO_AGE),
        now
    ));
    assert_eq!(
        claim_duplicate(&memory, event(4, 5), now),
        (Repeat, Published)
    );
    mark_drained(&memory, event(0, 4), &Marks::default());
    assert!(publish(&memory, event(6, 5), now).is_ok());

    let memory = MemoryStore::new(&drop_settings(), now);
    publish_in_doubt(&memory, event(2, 5), now);
    assert!(restore_spooled(
        &memory,
        spooled_facts(event(0, 4), &Marks::default(), NO_AGE),
        now
    ));
    assert!(publish(&memory, event(4, 4), now).is_ok());
}

/// The entry was drained before the value in front of it was read from the topics.
#[test]
fn a_value_restored_after_a_drain_is_uncertain() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let (old, current) = (event(0, 4), event(2, 5));
    for is_drained in [false, true] {
        let memory = MemoryStore::new(&drop_settings(), now);
        if is_drained {
            assert_eq!(mark_drained(&memory, old, &Marks::default()), None);
        }
        let (key, value) = current_value(current, 1);
        assert!(memory.restore_current(key, value, NO_AGE, now));
        assert_eq!(publish(&memory, event(4, 5), now).is_ok(), is_drained);
    }
}

/// Any spooled event may be lost, and a repeat of it as well. Events in Kafka are not affected.
#[test]
fn events_that_may_be_lost_are_tried_again() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let event = |id, place, value| ModelEvent::occupancy(id, place, value);
    let (spooled, repeat) = (event(0, 0, 4), event(2, 0, 4));
    let [drained_later, drained_before, direct] =
        [(4, 1, 5), (6, 2, 6), (8, 3, 7)].map(|(id, place, value)| event(id, place, value));
    spool(&memory, spooled, now);
    assert_eq!(claim_duplicate(&memory, repeat, now), (Repeat, Spooled));
    let marks = spool(&memory, drained_later, now);
    let marks_before = spool(&memory, drained_before, now);
    mark_drained(&memory, drained_before, &marks_before);
    publish(&memory, direct, now).unwrap();

    memory.invalidate_spooled();
    for event in [drained_before, direct] {
        assert_eq!(
            claim_duplicate(&memory, event, now),
            (Redelivery, Published)
        );
    }
    assert_eq!(
        claim_duplicate(&memory, event(10, 2, 6), now),
        (Repeat, Published)
    );
    assert_eq!(
        claim_duplicate(&memory, event(12, 3, 7), now),
        (Repeat, Published)
    );
    // This one is still on disk and reaches Kafka.
    assert_eq!(mark_drained(&memory, drained_later, &marks), None);
    for event in [spooled, drained_later] {
        assert!(publish(&memory, event, now).is_ok());
        assert_eq!(
            claim_duplicate(&memory, event, now),
            (Redelivery, Published)
        );
    }
    assert_eq!(claim_duplicate(&memory, repeat, now), (Repeat, Published));
}

/// Unknown entries of the spool may come after any value in the topics.
#[test]
fn values_restored_next_to_an_unknown_spool_are_uncertain() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let event = |id, place, value| ModelEvent::occupancy(id, place, value);
    assert!(restore_spooled(
        &memory,
        spooled_facts(event(0, 0, 4), &Marks::default(), NO_AGE),
        now
    ));
    memory.mark_all_uncertain();
    let (key, value) = current_value(event(2, 1, 5), 0);
    assert!(memory.restore_current(key, value, NO_AGE, now));
    memory.finish_restoring();
    assert_eq!(
        claim_duplicate(&memory, event(4, 0, 4), now),
        (Repeat, Spooled)
    );
    assert!(publish(&memory, event(6, 1, 5), now).is_ok());
    assert_eq!(
        claim_duplicate(&memory, event(8, 1, 5), now),
        (Repeat, Published)
    );
}

#[test]
fn facts_of_a_spooled_entry() {
    let event = ModelEvent::occupancy(0, 0, 4);
    let id = event.id();
    let facts = event.facts(&id);
    let plain = spooled_facts(event, &Marks::default(), NO_AGE);
    let (key, current) = plain.current.clone().unwrap();
    assert_eq!(Some(key), facts.occupancy_key);
    assert_eq!(
        (current.reading, current.id.to_string(), current.revision),
        (facts.reading, id.clone(), 0)
    );
    assert_eq!(plain.newest, facts.source_time());
    let conflict = Marks {
        conflict: Some(facts.reading.0),
        ..Marks::default()
    };
    let conflicting = spooled_facts(event, &conflict, NO_AGE);
    assert!(conflicting.is_conflict);
    assert_eq!(
        Some(conflicting.current.unwrap().1.id.to_string()),
        conflict.conflict_id(&id)
    );
    let stale = Marks {
        stale: true,
        ..Marks::default()
    };
    assert_eq!(spooled_facts(event, &stale, NO_AGE).current, None);
    let copy = Marks {
        duplicate: Some(Repeat),
        ..Marks::default()
    };
    let copy = spooled_facts(event, &copy, NO_AGE);
    assert_eq!(copy.current, None);
    assert_eq!(copy.id_hash, facts.id_hash);
}

/// The settings apply to events only: two copies of a rejected item are never both published.
#[test]
fn copies_of_a_rejected_item_are_dropped_whatever_the_settings() {
    let now = Instant::now();
    for redelivery in [
        DuplicateHandling::Drop,
        DuplicateHandling::Tag,
        DuplicateHandling::Off,
    ] {
        let memory = MemoryStore::new(&settings(redelivery, DuplicateHandling::Drop), now);
        let facts = EventFacts::from_bytes(b"{");
        let Ok(Decision::Publish(claim)) = memory.claim(&facts, now) else {
            panic!("the item is new");
        };
        assert!(memory.claim(&facts, now).is_err());
        claim.commit_spooled(now);
        let copy = memory.claim(&facts, now);
        assert!(matches!(
            copy,
            Ok(Decision::Duplicate {
                kind: Redelivery,
                storage: Spooled
            })
        ));
        memory.mark_drained(&facts, &Marks::default());
        let copy = memory.reserve(&facts, now);
        assert!(matches!(
            copy,
            ReservationOutcome::Redelivery { storage: Published }
        ));
        let others = memory.claim(&EventFacts::from_bytes(b"{ "), now);
        assert!(matches!(others, Ok(Decision::Publish(_))));

        let memory = MemoryStore::new(&settings(redelivery, DuplicateHandling::Drop), now);
        restore_spooled(&memory, StoredFacts::from_bytes(b"{", 0, 0), now);
        let copy = memory.claim(&facts, now);
        assert!(matches!(
            copy,
            Ok(Decision::Duplicate {
                kind: Redelivery,
                storage: Spooled
            })
        ));
    }
}
