//! What is on disk, and what gets from there into Kafka.

use super::*;
use crate::dedup::spooled_facts::SpooledFacts;

fn spool(memory: &Arc<MemoryStore>, event: ModelEvent, now: Instant) -> Marks {
    let id = event.id();
    match memory.claim(&event.facts(&id), now) {
        MemoryDecision::Publish(claim) => {
            let marks = claim.marks().clone();
            claim.commit_spooled(now);
            marks
        }
        other => panic!("{other:?}"),
    }
}

fn mark_drained(memory: &Arc<MemoryStore>, event: ModelEvent, marks: &Marks) -> Option<String> {
    let id = event.id();
    let follows = memory.mark_drained(&event.facts(&id), marks);
    follows.map(|id| id.to_string())
}

/// As what, and whether of something on disk, it is dropped.
fn claim_duplicate(
    memory: &Arc<MemoryStore>,
    event: ModelEvent,
    now: Instant,
) -> (DuplicateKind, bool) {
    let id = event.id();
    match memory.claim(&event.facts(&id), now) {
        MemoryDecision::Duplicate { kind, spooled } => (kind, spooled),
        other => panic!("{other:?}"),
    }
}

fn spooled_facts(event: ModelEvent, marks: &Marks, age: Duration) -> SpooledFacts {
    let id = event.id();
    let age_ms = i64::try_from(age.as_millis()).unwrap();
    SpooledFacts::from_facts(&event.facts(&id), marks, 0, age_ms)
}

use DuplicateKind::{Redelivery, Repeat};

const NO_AGE: Duration = Duration::ZERO;

#[test]
fn what_is_on_disk_is_known_and_said_to_be_there() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let (first, repeat, later) = (event(0, 4), event(2, 4), event(4, 4));
    let memory = MemoryStore::new(&drop_settings(), now);
    let marks = spool(&memory, first, now);
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, true));
    assert_eq!(claim_duplicate(&memory, repeat, now), (Repeat, true));
    assert_eq!(claim_duplicate(&memory, repeat, now), (Redelivery, true));
    assert_eq!(mark_drained(&memory, first, &marks), None);
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, false));
    assert_eq!(claim_duplicate(&memory, later, now), (Repeat, false));
    assert_eq!(claim_duplicate(&memory, later, now), (Redelivery, false));
}

/// Another reading under its id is not it.
#[test]
fn only_what_was_drained_is_drained() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let (first, other) = (
        ModelEvent::occupancy(0, 0, 4),
        ModelEvent::occupancy(0, 1, 4),
    );
    let marks = spool(&memory, first, now);
    let conflict = spool(&memory, other, now);
    assert!(conflict.conflict.is_some());
    // As if the one was the other.
    mark_drained(&memory, other, &marks);
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, true));
    assert_eq!(claim_duplicate(&memory, other, now), (Redelivery, true));
    assert_eq!(mark_drained(&memory, other, &conflict), None);
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, true));
    assert_eq!(claim_duplicate(&memory, other, now), (Redelivery, false));
    let again = ModelEvent::occupancy(2, 1, 4);
    assert_eq!(claim_duplicate(&memory, again, now), (Repeat, false));
}

/// In order, all of a (type, space, timestamp) on disk: each is followed by the last.
#[test]
fn drained_in_order_the_last_is_current() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let [one, two, back] = [(0, 4), (2, 5), (4, 4)].map(|(id, v)| ModelEvent::occupancy(id, 0, v));
    let marks = [one, two, back].map(|event| spool(&memory, event, now));
    assert_eq!(mark_drained(&memory, one, &marks[0]), Some(back.id()));
    assert_eq!(mark_drained(&memory, two, &marks[1]), Some(back.id()));
    // The value is the same as the first, but not the event.
    assert_eq!(
        claim_duplicate(&memory, ModelEvent::occupancy(6, 0, 4), now),
        (Repeat, true)
    );
    assert_eq!(mark_drained(&memory, back, &marks[2]), None);
    assert_eq!(
        claim_duplicate(&memory, ModelEvent::occupancy(8, 0, 4), now),
        (Repeat, false)
    );
}

/// Who reads the topic sees the drained one last.
#[test]
fn what_lies_behind_the_current_value_puts_it_in_doubt() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let (spooled, direct, again) = (event(0, 4), event(2, 5), event(4, 5));
    for forgotten in [false, true] {
        let memory = MemoryStore::new(&drop_settings(), now);
        let marks = spool(&memory, spooled, now);
        publish(&memory, direct, now).unwrap();
        if !forgotten {
            assert_eq!(mark_drained(&memory, spooled, &marks), None);
            let marks = publish(&memory, again, now).unwrap();
            assert_eq!(marks.revision.unwrap().number, 2);
        }
        assert_eq!(claim_duplicate(&memory, event(6, 5), now), (Repeat, false));
    }
    // What was no current value when it was spooled is none in Kafka: its record says so.
    let memory = MemoryStore::new(&drop_settings(), now);
    publish(&memory, direct, now).unwrap();
    let marks = spool(&memory, spooled, now);
    assert!(marks.stale);
    assert_eq!(mark_drained(&memory, spooled, &marks), None);
    assert_eq!(claim_duplicate(&memory, again, now), (Repeat, false));
}

#[test]
fn what_was_found_on_disk_is_known() {
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
    // The newest first; then what the topics tell, which was stored before.
    assert!(memory.restore_spooled(spooled_facts(new, &revision, NO_AGE), now));
    let age = Duration::from_secs(10);
    assert!(memory.restore_spooled(spooled_facts(old, &Marks::default(), age), now));
    let id = old.id();
    let facts = old.facts(&id);
    let current = CurrentReading {
        reading: facts.reading,
        id: EventId::new(&id),
        revision: 0,
    };
    assert!(!memory.restore_current(facts.occupancy_key.unwrap(), current, NO_AGE, now));
    assert!(!memory.restore_id(facts.id_hash, facts.reading, false, NO_AGE, now));

    for event in [old, new] {
        assert_eq!(claim_duplicate(&memory, event, now), (Redelivery, true));
    }
    assert_eq!(claim_duplicate(&memory, event(4, 5), now), (Repeat, true));
    assert_eq!(
        mark_drained(&memory, old, &Marks::default()),
        Some(new.id())
    );
    assert_eq!(mark_drained(&memory, new, &revision), None);
    assert_eq!(claim_duplicate(&memory, old, now), (Redelivery, false));
    let marks = publish(&memory, event(6, 4), now).unwrap();
    assert_eq!(marks.revision.unwrap().number, 4);
}

#[test]
fn what_is_restored_is_as_old_as_its_receipt() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let event = ModelEvent::occupancy(0, 0, 4);
    let restore = |age| memory.restore_spooled(spooled_facts(event, &Marks::default(), age), now);
    // The id's window is the shorter one.
    assert!(!restore(Duration::from_secs(25)));
    assert_eq!(memory.entry_counts().readings, 1);
    assert_eq!(
        claim_duplicate(&memory, ModelEvent::occupancy(2, 0, 4), now),
        (Repeat, true)
    );
    let later = now + Duration::from_secs(6);
    assert!(publish(&memory, ModelEvent::occupancy(4, 0, 4), later).is_ok());
    // A clock that was set back.
    let ahead = SpooledFacts::from_facts(&event.facts(&event.id()), &Marks::default(), 9, 1);
    assert_eq!(ahead.age, Duration::ZERO);
}

/// Kafka may have it already, and something else after it.
#[test]
fn the_value_of_what_may_be_in_kafka_is_equal_to_nothing() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let event = |id| ModelEvent::occupancy(id, 0, 4);
    let first = event(0);
    let suspect = spooled_facts(first, &Marks::default(), NO_AGE).into_in_doubt();
    assert!(memory.restore_spooled(suspect, now));
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, true));
    assert_eq!(mark_drained(&memory, first, &Marks::default()), None);
    assert_eq!(claim_duplicate(&memory, first, now), (Redelivery, false));
    let marks = publish(&memory, event(2), now).unwrap();
    assert_eq!(marks.revision.unwrap().supersedes.to_string(), first.id());
    assert_eq!(claim_duplicate(&memory, event(4), now), (Repeat, false));
}

/// What was stored, or ended unknown, since the start is newer than what the disk tells, and its current value stays.
#[test]
fn what_came_since_the_start_stays() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let memory = MemoryStore::new(&drop_settings(), now);
    publish(&memory, event(2, 5), now).unwrap();
    assert!(memory.restore_spooled(spooled_facts(event(0, 4), &Marks::default(), NO_AGE), now));
    assert_eq!(claim_duplicate(&memory, event(4, 5), now), (Repeat, false));
    mark_drained(&memory, event(0, 4), &Marks::default());
    assert!(publish(&memory, event(6, 5), now).is_ok());

    let memory = MemoryStore::new(&drop_settings(), now);
    publish_in_doubt(&memory, event(2, 5), now);
    assert!(memory.restore_spooled(spooled_facts(event(0, 4), &Marks::default(), NO_AGE), now));
    assert!(publish(&memory, event(4, 4), now).is_ok());
}

/// Drained before the topics have told what it came to lie behind.
#[test]
fn what_is_read_back_after_something_was_drained_is_in_doubt() {
    let now = Instant::now();
    let event = |id, value| ModelEvent::occupancy(id, 0, value);
    let (old, current) = (event(0, 4), event(2, 5));
    for drains in [false, true] {
        let memory = MemoryStore::new(&drop_settings(), now);
        if drains {
            assert_eq!(mark_drained(&memory, old, &Marks::default()), None);
        }
        let id = current.id();
        let facts = current.facts(&id);
        let value = CurrentReading {
            reading: facts.reading,
            id: EventId::new(&id),
            revision: 1,
        };
        assert!(memory.restore_current(facts.occupancy_key.unwrap(), value, NO_AGE, now));
        assert_eq!(publish(&memory, event(4, 5), now).is_ok(), drains);
    }
}

/// Whatever is on disk may be what is lost, a repeat of it too. What Kafka has is there.
#[test]
fn what_may_be_lost_is_tried_anew() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let event = |id, cell, value| ModelEvent::occupancy(id, cell, value);
    let (on_disk, repeat) = (event(0, 0, 4), event(2, 0, 4));
    let [drained_later, drained_before, direct] =
        [(4, 1, 5), (6, 2, 6), (8, 3, 7)].map(|(id, cell, value)| event(id, cell, value));
    spool(&memory, on_disk, now);
    assert_eq!(claim_duplicate(&memory, repeat, now), (Repeat, true));
    let marks = spool(&memory, drained_later, now);
    let of_before = spool(&memory, drained_before, now);
    mark_drained(&memory, drained_before, &of_before);
    publish(&memory, direct, now).unwrap();

    memory.invalidate_spooled();
    for event in [drained_before, direct] {
        assert_eq!(claim_duplicate(&memory, event, now), (Redelivery, false));
    }
    assert_eq!(
        claim_duplicate(&memory, event(10, 2, 6), now),
        (Repeat, false)
    );
    assert_eq!(
        claim_duplicate(&memory, event(12, 3, 7), now),
        (Repeat, false)
    );
    // It is still there, and gets into Kafka.
    assert_eq!(mark_drained(&memory, drained_later, &marks), None);
    for event in [on_disk, drained_later] {
        assert!(publish(&memory, event, now).is_ok());
        assert_eq!(claim_duplicate(&memory, event, now), (Redelivery, false));
    }
    assert_eq!(claim_duplicate(&memory, repeat, now), (Repeat, false));
}

/// What of the spool is not known may come after what the topics tell.
#[test]
fn what_is_restored_beside_a_spool_that_is_not_known_is_in_doubt() {
    let now = Instant::now();
    let memory = MemoryStore::new(&drop_settings(), now);
    let event = |id, cell, value| ModelEvent::occupancy(id, cell, value);
    assert!(memory.restore_spooled(
        spooled_facts(event(0, 0, 4), &Marks::default(), NO_AGE),
        now
    ));
    memory.mark_all_uncertain();
    let current = event(2, 1, 5);
    let id = current.id();
    let facts = current.facts(&id);
    let value = CurrentReading {
        reading: facts.reading,
        id: EventId::new(&id),
        revision: 0,
    };
    assert!(memory.restore_current(facts.occupancy_key.unwrap(), value, NO_AGE, now));
    memory.finish_restoring();
    assert_eq!(
        claim_duplicate(&memory, event(4, 0, 4), now),
        (Repeat, true)
    );
    assert!(publish(&memory, event(6, 1, 5), now).is_ok());
    assert_eq!(
        claim_duplicate(&memory, event(8, 1, 5), now),
        (Repeat, false)
    );
}

#[test]
fn what_an_entry_tells() {
    let event = ModelEvent::occupancy(0, 0, 4);
    let id = event.id();
    let facts = event.facts(&id);
    let plain = spooled_facts(event, &Marks::default(), NO_AGE);
    let (cell, current) = plain.current.clone().unwrap();
    assert_eq!(Some(cell), facts.occupancy_key);
    assert_eq!(
        (current.reading, current.id.to_string(), current.revision),
        (facts.reading, id.clone(), 0)
    );
    assert_eq!(plain.newest, Some((facts.source_key, facts.timestamp_ms)));
    let conflict = Marks {
        conflict: Some(facts.reading),
        ..Marks::default()
    };
    let own = spooled_facts(event, &conflict, NO_AGE);
    assert!(own.is_conflict);
    assert_eq!(
        Some(own.current.unwrap().1.id.to_string()),
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

/// Whatever is said of events: two copies of bytes are never both kept.
#[test]
fn copies_of_bytes_are_dropped_whatever_the_settings() {
    let now = Instant::now();
    for redelivery in [
        DuplicateHandling::Drop,
        DuplicateHandling::Tag,
        DuplicateHandling::Off,
    ] {
        let memory = MemoryStore::new(&settings(redelivery, DuplicateHandling::Drop), now);
        let facts = EventFacts::from_bytes(b"{");
        let MemoryDecision::Publish(claim) = memory.claim_rejected_item(&facts, now) else {
            panic!("they are new");
        };
        assert!(matches!(
            memory.claim_rejected_item(&facts, now),
            MemoryDecision::Wait(_)
        ));
        claim.commit_spooled(now);
        let copy = memory.claim_rejected_item(&facts, now);
        assert!(matches!(
            copy,
            MemoryDecision::Duplicate {
                kind: Redelivery,
                spooled: true
            }
        ));
        memory.mark_drained(&facts, &Marks::default());
        let copy = memory.reserve_rejected_item(&facts, now);
        assert!(matches!(
            copy,
            ReservationOutcome::Redelivery { spooled: false }
        ));
        let others = memory.claim_rejected_item(&EventFacts::from_bytes(b"{ "), now);
        assert!(matches!(others, MemoryDecision::Publish(_)));

        let memory = MemoryStore::new(&settings(redelivery, DuplicateHandling::Drop), now);
        memory.restore_spooled(SpooledFacts::from_bytes(b"{", 0, 0), now);
        let copy = memory.claim_rejected_item(&facts, now);
        assert!(matches!(
            copy,
            MemoryDecision::Duplicate {
                kind: Redelivery,
                spooled: true
            }
        ));
    }
}
