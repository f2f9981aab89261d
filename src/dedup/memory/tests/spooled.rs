//! What is on disk, and what gets from there into Kafka.

use super::*;
use crate::dedup::spooled::SpooledTold;

fn spool(memory: &Arc<Memory>, event: Event, now: Instant) -> Marks {
    let id = event.id();
    match memory.claim(&event.facts(&id), now) {
        Next::Publish(claim) => {
            let marks = claim.marks().clone();
            claim.commit_spooled(now);
            marks
        }
        other => panic!("{other:?}"),
    }
}

fn drained(memory: &Arc<Memory>, event: Event, marks: &Marks) -> Option<String> {
    let id = event.id();
    let follows = memory.drained(&event.facts(&id), marks);
    follows.map(|id| id.to_string())
}

/// As what, and whether of something on disk, it is dropped.
fn dropped(memory: &Arc<Memory>, event: Event, now: Instant) -> (Duplicate, bool) {
    let id = event.id();
    match memory.claim(&event.facts(&id), now) {
        Next::Duplicate { kind, spooled } => (kind, spooled),
        other => panic!("{other:?}"),
    }
}

fn told(event: Event, marks: &Marks, age: Duration) -> SpooledTold {
    let id = event.id();
    let age_ms = i64::try_from(age.as_millis()).unwrap();
    SpooledTold::of_facts(&event.facts(&id), marks, 0, age_ms)
}

use Duplicate::{Redelivery, Repeat};

const NO_AGE: Duration = Duration::ZERO;

#[test]
fn what_is_on_disk_is_known_and_said_to_be_there() {
    let now = Instant::now();
    let event = |id, value| Event::occupancy(id, 0, value);
    let (first, repeat, later) = (event(0, 4), event(2, 4), event(4, 4));
    let memory = Memory::new(&dropping(), now);
    let marks = spool(&memory, first, now);
    assert_eq!(dropped(&memory, first, now), (Redelivery, true));
    assert_eq!(dropped(&memory, repeat, now), (Repeat, true));
    assert_eq!(dropped(&memory, repeat, now), (Redelivery, true));
    assert_eq!(drained(&memory, first, &marks), None);
    assert_eq!(dropped(&memory, first, now), (Redelivery, false));
    assert_eq!(dropped(&memory, later, now), (Repeat, false));
    assert_eq!(dropped(&memory, later, now), (Redelivery, false));
}

/// Another reading under its id is not it.
#[test]
fn only_what_was_drained_is_drained() {
    let now = Instant::now();
    let memory = Memory::new(&dropping(), now);
    let (first, other) = (Event::occupancy(0, 0, 4), Event::occupancy(0, 1, 4));
    let marks = spool(&memory, first, now);
    let conflict = spool(&memory, other, now);
    assert!(conflict.conflict.is_some());
    // As if the one was the other.
    drained(&memory, other, &marks);
    assert_eq!(dropped(&memory, first, now), (Redelivery, true));
    assert_eq!(dropped(&memory, other, now), (Redelivery, true));
    assert_eq!(drained(&memory, other, &conflict), None);
    assert_eq!(dropped(&memory, first, now), (Redelivery, true));
    assert_eq!(dropped(&memory, other, now), (Redelivery, false));
    let again = Event::occupancy(2, 1, 4);
    assert_eq!(dropped(&memory, again, now), (Repeat, false));
}

/// In order, all of a (type, space, timestamp) on disk: each is followed by the last.
#[test]
fn drained_in_order_the_last_is_current() {
    let now = Instant::now();
    let memory = Memory::new(&dropping(), now);
    let [one, two, back] = [(0, 4), (2, 5), (4, 4)].map(|(id, v)| Event::occupancy(id, 0, v));
    let marks = [one, two, back].map(|event| spool(&memory, event, now));
    assert_eq!(drained(&memory, one, &marks[0]), Some(back.id()));
    assert_eq!(drained(&memory, two, &marks[1]), Some(back.id()));
    // The value is the same as the first, but not the event.
    assert_eq!(
        dropped(&memory, Event::occupancy(6, 0, 4), now),
        (Repeat, true)
    );
    assert_eq!(drained(&memory, back, &marks[2]), None);
    assert_eq!(
        dropped(&memory, Event::occupancy(8, 0, 4), now),
        (Repeat, false)
    );
}

/// Who reads the topic sees the drained one last.
#[test]
fn what_lies_behind_the_current_value_puts_it_in_doubt() {
    let now = Instant::now();
    let event = |id, value| Event::occupancy(id, 0, value);
    let (spooled, direct, again) = (event(0, 4), event(2, 5), event(4, 5));
    for forgotten in [false, true] {
        let memory = Memory::new(&dropping(), now);
        let marks = spool(&memory, spooled, now);
        publish(&memory, direct, now).unwrap();
        if !forgotten {
            assert_eq!(drained(&memory, spooled, &marks), None);
            let marks = publish(&memory, again, now).unwrap();
            assert_eq!(marks.revision.unwrap().number, 2);
        }
        assert_eq!(dropped(&memory, event(6, 5), now), (Repeat, false));
    }
    // What was no current value when it was spooled is none in Kafka: its record says so.
    let memory = Memory::new(&dropping(), now);
    publish(&memory, direct, now).unwrap();
    let marks = spool(&memory, spooled, now);
    assert!(marks.stale);
    assert_eq!(drained(&memory, spooled, &marks), None);
    assert_eq!(dropped(&memory, again, now), (Repeat, false));
}

#[test]
fn what_was_found_on_disk_is_known() {
    let now = Instant::now();
    let event = |id, value| Event::occupancy(id, 0, value);
    let (old, new) = (event(0, 4), event(2, 5));
    let revision = Marks {
        revision: Some(crate::marks::Revision {
            number: 3,
            supersedes: EventId::new(&old.id()),
        }),
        ..Marks::default()
    };
    let memory = Memory::new(&dropping(), now);
    // The newest first; then what the topics tell, which was stored before.
    assert!(memory.restore_spooled(told(new, &revision, NO_AGE), now));
    let age = Duration::from_secs(10);
    assert!(memory.restore_spooled(told(old, &Marks::default(), age), now));
    let id = old.id();
    let facts = old.facts(&id);
    let current = Current {
        reading: facts.reading,
        id: EventId::new(&id),
        revision: 0,
    };
    assert!(!memory.restore_current(facts.cell.unwrap(), current, NO_AGE, now));
    assert!(!memory.restore_id(facts.id_key, facts.reading, false, NO_AGE, now));

    for event in [old, new] {
        assert_eq!(dropped(&memory, event, now), (Redelivery, true));
    }
    assert_eq!(dropped(&memory, event(4, 5), now), (Repeat, true));
    assert_eq!(drained(&memory, old, &Marks::default()), Some(new.id()));
    assert_eq!(drained(&memory, new, &revision), None);
    assert_eq!(dropped(&memory, old, now), (Redelivery, false));
    let marks = publish(&memory, event(6, 4), now).unwrap();
    assert_eq!(marks.revision.unwrap().number, 4);
}

#[test]
fn what_is_restored_is_as_old_as_its_receipt() {
    let now = Instant::now();
    let memory = Memory::new(&dropping(), now);
    let event = Event::occupancy(0, 0, 4);
    let restore = |age| memory.restore_spooled(told(event, &Marks::default(), age), now);
    // The id's window is the shorter one.
    assert!(!restore(Duration::from_secs(25)));
    assert_eq!(memory.entries().readings, 1);
    assert_eq!(
        dropped(&memory, Event::occupancy(2, 0, 4), now),
        (Repeat, true)
    );
    let later = now + Duration::from_secs(6);
    assert!(publish(&memory, Event::occupancy(4, 0, 4), later).is_ok());
    // A clock that was set back.
    let ahead = SpooledTold::of_facts(&event.facts(&event.id()), &Marks::default(), 9, 1);
    assert_eq!(ahead.age, Duration::ZERO);
}

/// Kafka may have it already, and something else after it.
#[test]
fn the_value_of_what_may_be_in_kafka_is_equal_to_nothing() {
    let now = Instant::now();
    let memory = Memory::new(&dropping(), now);
    let event = |id| Event::occupancy(id, 0, 4);
    let first = event(0);
    let suspect = told(first, &Marks::default(), NO_AGE).suspected();
    assert!(memory.restore_spooled(suspect, now));
    assert_eq!(dropped(&memory, first, now), (Redelivery, true));
    assert_eq!(drained(&memory, first, &Marks::default()), None);
    assert_eq!(dropped(&memory, first, now), (Redelivery, false));
    let marks = publish(&memory, event(2), now).unwrap();
    assert_eq!(marks.revision.unwrap().supersedes.to_string(), first.id());
    assert_eq!(dropped(&memory, event(4), now), (Repeat, false));
}

/// What was stored, or ended unknown, since the start is newer than what the disk tells, and its current value stays.
#[test]
fn what_came_since_the_start_stays() {
    let now = Instant::now();
    let event = |id, value| Event::occupancy(id, 0, value);
    let memory = Memory::new(&dropping(), now);
    publish(&memory, event(2, 5), now).unwrap();
    assert!(memory.restore_spooled(told(event(0, 4), &Marks::default(), NO_AGE), now));
    assert_eq!(dropped(&memory, event(4, 5), now), (Repeat, false));
    drained(&memory, event(0, 4), &Marks::default());
    assert!(publish(&memory, event(6, 5), now).is_ok());

    let memory = Memory::new(&dropping(), now);
    unknown(&memory, event(2, 5), now);
    assert!(memory.restore_spooled(told(event(0, 4), &Marks::default(), NO_AGE), now));
    assert!(publish(&memory, event(4, 4), now).is_ok());
}

/// Drained before the topics have told what it came to lie behind.
#[test]
fn what_is_read_back_after_something_was_drained_is_in_doubt() {
    let now = Instant::now();
    let event = |id, value| Event::occupancy(id, 0, value);
    let (old, current) = (event(0, 4), event(2, 5));
    for drains in [false, true] {
        let memory = Memory::new(&dropping(), now);
        if drains {
            assert_eq!(drained(&memory, old, &Marks::default()), None);
        }
        let id = current.id();
        let facts = current.facts(&id);
        let value = Current {
            reading: facts.reading,
            id: EventId::new(&id),
            revision: 1,
        };
        assert!(memory.restore_current(facts.cell.unwrap(), value, NO_AGE, now));
        assert_eq!(publish(&memory, event(4, 5), now).is_ok(), drains);
    }
}

/// Whatever is on disk may be what is lost, a repeat of it too. What Kafka has is there.
#[test]
fn what_may_be_lost_is_tried_anew() {
    let now = Instant::now();
    let memory = Memory::new(&dropping(), now);
    let event = |id, cell, value| Event::occupancy(id, cell, value);
    let (on_disk, repeat) = (event(0, 0, 4), event(2, 0, 4));
    let [drained_later, drained_before, direct] =
        [(4, 1, 5), (6, 2, 6), (8, 3, 7)].map(|(id, cell, value)| event(id, cell, value));
    spool(&memory, on_disk, now);
    assert_eq!(dropped(&memory, repeat, now), (Repeat, true));
    let marks = spool(&memory, drained_later, now);
    let of_before = spool(&memory, drained_before, now);
    drained(&memory, drained_before, &of_before);
    publish(&memory, direct, now).unwrap();

    memory.distrust_spooled();
    for event in [drained_before, direct] {
        assert_eq!(dropped(&memory, event, now), (Redelivery, false));
    }
    assert_eq!(dropped(&memory, event(10, 2, 6), now), (Repeat, false));
    assert_eq!(dropped(&memory, event(12, 3, 7), now), (Repeat, false));
    // It is still there, and gets into Kafka.
    assert_eq!(drained(&memory, drained_later, &marks), None);
    for event in [on_disk, drained_later] {
        assert!(publish(&memory, event, now).is_ok());
        assert_eq!(dropped(&memory, event, now), (Redelivery, false));
    }
    assert_eq!(dropped(&memory, repeat, now), (Repeat, false));
}

/// What of the spool is not known may come after what the topics tell.
#[test]
fn what_is_restored_beside_a_spool_that_is_not_known_is_in_doubt() {
    let now = Instant::now();
    let memory = Memory::new(&dropping(), now);
    let event = |id, cell, value| Event::occupancy(id, cell, value);
    assert!(memory.restore_spooled(told(event(0, 0, 4), &Marks::default(), NO_AGE), now));
    memory.doubt_restored();
    let current = event(2, 1, 5);
    let id = current.id();
    let facts = current.facts(&id);
    let value = Current {
        reading: facts.reading,
        id: EventId::new(&id),
        revision: 0,
    };
    assert!(memory.restore_current(facts.cell.unwrap(), value, NO_AGE, now));
    memory.restored();
    assert_eq!(dropped(&memory, event(4, 0, 4), now), (Repeat, true));
    assert!(publish(&memory, event(6, 1, 5), now).is_ok());
    assert_eq!(dropped(&memory, event(8, 1, 5), now), (Repeat, false));
}

#[test]
fn what_an_entry_tells() {
    let event = Event::occupancy(0, 0, 4);
    let id = event.id();
    let facts = event.facts(&id);
    let plain = told(event, &Marks::default(), NO_AGE);
    let (cell, current) = plain.current.clone().unwrap();
    assert_eq!(Some(cell), facts.cell);
    assert_eq!(
        (current.reading, current.id.to_string(), current.revision),
        (facts.reading, id.clone(), 0)
    );
    assert_eq!(plain.newest, Some((facts.source, facts.timestamp_ms)));
    let conflict = Marks {
        conflict: Some(facts.reading),
        ..Marks::default()
    };
    let own = told(event, &conflict, NO_AGE);
    assert!(own.conflict);
    assert_eq!(
        Some(own.current.unwrap().1.id.to_string()),
        conflict.own_id(&id)
    );
    let stale = Marks {
        stale: true,
        ..Marks::default()
    };
    assert_eq!(told(event, &stale, NO_AGE).current, None);
    let copy = Marks {
        duplicate: Some(Repeat),
        ..Marks::default()
    };
    let copy = told(event, &copy, NO_AGE);
    assert_eq!(copy.current, None);
    assert_eq!(copy.id_key, facts.id_key);
}

/// Whatever is said of events: two copies of bytes are never both kept.
#[test]
fn copies_of_bytes_are_dropped_whatever_the_settings() {
    let now = Instant::now();
    for redelivery in [DuplicateHandling::Drop, DuplicateHandling::Tag, DuplicateHandling::Off] {
        let memory = Memory::new(&settings(redelivery, DuplicateHandling::Drop), now);
        let facts = Facts::of_bytes(b"{");
        let Next::Publish(claim) = memory.claim_bytes(&facts, now) else {
            panic!("they are new");
        };
        assert!(matches!(memory.claim_bytes(&facts, now), Next::Wait(_)));
        claim.commit_spooled(now);
        let copy = memory.claim_bytes(&facts, now);
        assert!(matches!(
            copy,
            Next::Duplicate {
                kind: Redelivery,
                spooled: true
            }
        ));
        memory.drained(&facts, &Marks::default());
        let copy = memory.hold_bytes(&facts, now);
        assert!(matches!(copy, Held::Redelivery { spooled: false }));
        let others = memory.claim_bytes(&Facts::of_bytes(b"{ "), now);
        assert!(matches!(others, Next::Publish(_)));

        let memory = Memory::new(&settings(redelivery, DuplicateHandling::Drop), now);
        memory.restore_spooled(SpooledTold::of_bytes(b"{", 0, 0), now);
        let copy = memory.claim_bytes(&facts, now);
        assert!(matches!(
            copy,
            Next::Duplicate {
                kind: Redelivery,
                spooled: true
            }
        ));
    }
}
