//! Rebuilds memory from logs without Kafka.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::chunk::RecordChunk;
use super::{ORDER_SLACK, RebuildStart};
use crate::config;
use crate::dedup::claim::{CurrentReading, Decision, ReservationOutcome};
use crate::dedup::memory::MemoryStore;
use crate::dedup::{DedupVerdict, EventFacts};
use crate::kafka::report::Receipt;
use crate::kafka::tail::{OffsetSpan, TailPartition, TailRecord};
use crate::marks::DuplicateKind;
use butlr_event::ksuid::Ksuid;
use butlr_event::{Event, ParseLimits, ParsedBody, parse};

const WINDOW: Duration = Duration::from_secs(900);
const MINUTE: i64 = 60_000;

fn settings() -> config::DedupConfig {
    config::DedupConfig {
        store: config::DedupStore::Memory,
        redelivery: config::DuplicateHandling::Drop,
        repeat: config::DuplicateHandling::Drop,
        id_window: WINDOW,
        reading_window: WINDOW,
        max_ids: 10_000,
        max_readings: 10_000,
        rebuild_within: Duration::from_secs(30),
    }
}

/// An id created at this second of the KSUID epoch; `salt` distinguishes ids of the same second.
fn id(second: i64, salt: u8) -> String {
    let ms = (Ksuid::EPOCH_SECONDS + second) * 1000;
    format!("event_{}", Ksuid::new(ms, [salt; 16]))
}

/// An occupancy event of `space` at `minute`.
fn occupancy(id: &str, space: u8, minute: i64, data: u32) -> String {
    format!(
        r#"{{"id":"{id}","type":"ROOM_OCCUPANCY","timestamp":{},"version":"v1.0.0","metadata":{{"room_id":"room_{space}"}},"data":{data}}}"#,
        minute * MINUTE
    )
}

fn event(body: &str) -> Event<'_> {
    let limits = ParseLimits {
        max_events: 1,
        max_event_bytes: 10_000,
    };
    match parse(body.as_bytes(), None, limits) {
        Ok(ParsedBody::Single(Ok(event))) => event,
        _ => panic!("not an event: {body}"),
    }
}

/// A record in a log.
#[derive(Clone, Debug)]
struct LoggedRecord {
    key: String,
    value: String,
    headers: Vec<(&'static str, String)>,
}

impl LoggedRecord {
    /// The record of an event received `age` ms before `start`.
    fn new(start: RebuildStart, age: i64, value: String) -> Self {
        let headers = vec![
            ("ce_id", event(&value).id().to_owned()),
            ("ce_receivedat", format_received(start, age)),
        ];
        let key = event(&value).space_id().to_owned();
        Self {
            key,
            value,
            headers,
        }
    }

    /// Changes the time of receipt.
    fn set_received(&mut self, start: RebuildStart, age: i64) {
        self.headers[1].1 = format_received(start, age);
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn record(&self) -> TailRecord<'_> {
        let mut record = TailRecord::new(Some(self.key.as_bytes()), self.value.as_bytes());
        for (name, value) in &self.headers {
            record.apply_header(name, value.as_bytes());
        }
        record
    }
}

fn format_received(start: RebuildStart, age: i64) -> String {
    let received = std::time::UNIX_EPOCH + Duration::from_millis((start.unix_ms - age) as u64);
    humantime::format_rfc3339_millis(received).to_string()
}

/// Reads a chunk from `log`, in which the index is the offset.
fn read(log: &[Option<LoggedRecord>], chunk: &mut RecordChunk, start: RebuildStart) {
    read_in_topic(log, chunk, 1, start);
}

/// The same in a topic of `partitions`.
fn read_in_topic(
    log: &[Option<LoggedRecord>],
    chunk: &mut RecordChunk,
    partitions: usize,
    start: RebuildStart,
) {
    for (offset, stored) in log.iter().enumerate().skip(chunk.span().start() as usize) {
        if chunk.span().is_read() {
            return;
        }
        if let Some(stored) = stored
            && chunk.as_mut().accept_offset(offset as i64)
        {
            chunk.add_record(&stored.record(), partitions, start, WINDOW);
        }
    }
    chunk.as_mut().finish();
}

/// Rebuilds a memory from a log, in chunks of these sizes in turn. Also returns the number of
/// offsets read.
fn rebuild_new(
    log: &[Option<LoggedRecord>],
    sizes: &[u64],
    start: RebuildStart,
) -> (Arc<MemoryStore>, u64) {
    let memory = MemoryStore::new(&settings(), start.instant);
    let offsets = rebuild(&memory, log, sizes, start, || ());
    (memory, offsets)
}

/// The same into an existing memory; `meanwhile` is called before each chunk is restored.
fn rebuild(
    memory: &MemoryStore,
    log: &[Option<LoggedRecord>],
    sizes: &[u64],
    start: RebuildStart,
    mut meanwhile: impl FnMut(),
) -> u64 {
    let mut partition = TailPartition::new(0, 0, log.len() as i64);
    let mut offsets = 0;
    for size in sizes.iter().cycle() {
        if !partition.has_more() {
            break;
        }
        let mut chunk = RecordChunk::new(partition.next_span(*size));
        read(log, &mut chunk, start);
        offsets += chunk.span().len();
        assert!(partition.complete_span(chunk.span(), chunk.is_beyond_window()));
        meanwhile();
        chunk.restore_into(memory, start);
    }
    offsets
}

/// The memory's verdict on an event, and the current value.
fn local_decision(
    memory: &Arc<MemoryStore>,
    body: &str,
    start: RebuildStart,
) -> (DedupVerdict, Option<CurrentReading>) {
    let event = event(body);
    match memory.reserve(&EventFacts::from_event(&event, true), start.instant) {
        ReservationOutcome::Reserved(reservation) => {
            let current = reservation.current().cloned();
            (reservation.local_verdict().clone(), current)
        }
        ReservationOutcome::Redelivery { .. } => {
            (DedupVerdict::Duplicate(DuplicateKind::Redelivery), None)
        }
        ReservationOutcome::Wait(_) => panic!("no claim is undecided"),
    }
}

fn verdict(memory: &Arc<MemoryStore>, body: &str, start: RebuildStart) -> DedupVerdict {
    local_decision(memory, body, start).0
}

/// Publishes a new event.
fn publish(memory: &Arc<MemoryStore>, body: &str, start: RebuildStart) {
    match memory.claim(&EventFacts::from_event(&event(body), true), start.instant) {
        Ok(Decision::Publish(claim)) => claim.commit(&Receipt::for_test(), start.instant),
        other => panic!("{other:?}"),
    }
}

fn is_revision_of(verdict: &DedupVerdict, id: &str, number: u32) -> bool {
    let DedupVerdict::Publish(marks) = verdict else {
        return false;
    };
    let revision = marks.revision.as_ref();
    revision.is_some_and(|r| r.number == number && r.supersedes.to_string() == id)
}

const REDELIVERY: DedupVerdict = DedupVerdict::Duplicate(DuplicateKind::Redelivery);
const REPEAT: DedupVerdict = DedupVerdict::Duplicate(DuplicateKind::Repeat);

#[test]
fn stored_events_are_known_again() {
    let start = RebuildStart::now();
    let (first, second) = (id(100, 1), id(200, 2));
    let log = [
        Some(LoggedRecord::new(start, 60_000, occupancy(&first, 1, 5, 4))),
        Some(
            LoggedRecord::new(start, 30_000, occupancy(&second, 1, 5, 5))
                .with("ce_revision", 1)
                .with("ce_supersedes", &first),
        ),
    ];
    for sizes in [&[1][..], &[2]] {
        let (memory, _) = rebuild_new(&log, sizes, start);
        let is = |body: &str| verdict(&memory, body, start);
        assert_eq!(is(&occupancy(&first, 1, 5, 4)), REDELIVERY);
        assert_eq!(is(&occupancy(&second, 1, 5, 5)), REDELIVERY);
        assert_eq!(is(&occupancy(&id(300, 3), 1, 5, 5)), REPEAT);
        // 4 → 5 → 4
        assert!(is_revision_of(
            &is(&occupancy(&id(300, 3), 1, 5, 4)),
            &second,
            2
        ));
        let stale = is(&occupancy(&id(150, 3), 1, 5, 7));
        assert!(
            matches!(stale, DedupVerdict::Publish(marks) if marks.stale && marks.revision.is_none())
        );
        let conflict = is(&occupancy(&first, 2, 5, 9));
        assert!(matches!(conflict, DedupVerdict::Publish(marks) if marks.conflict.is_some()));
        let older = is(&occupancy(&id(300, 3), 1, 4, 1));
        assert!(matches!(older, DedupVerdict::Publish(marks) if marks.out_of_order));
    }
}

#[test]
fn stale_events_and_tagged_copies_do_not_become_current() {
    let start = RebuildStart::now();
    let current = id(200, 1);
    let log = [
        Some(LoggedRecord::new(
            start,
            60_000,
            occupancy(&current, 1, 5, 4),
        )),
        Some(
            LoggedRecord::new(start, 50_000, occupancy(&id(100, 2), 1, 5, 5))
                .with("ce_stale", true),
        ),
        Some(
            LoggedRecord::new(start, 40_000, occupancy(&id(300, 3), 1, 5, 4))
                .with("ce_duplicate", "repeat"),
        ),
    ];
    for size in 1..4 {
        let (memory, _) = rebuild_new(&log, &[size], start);
        let next = verdict(&memory, &occupancy(&id(400, 4), 1, 5, 6), start);
        assert!(is_revision_of(&next, &current, 1), "{next:?}");
        for (id, data) in [(id(100, 2), 5), (id(300, 3), 4)] {
            let again = occupancy(&id, 1, 5, data);
            assert_eq!(verdict(&memory, &again, start), REDELIVERY);
        }
    }
}

#[test]
fn the_copy_of_a_conflict_is_known() {
    let start = RebuildStart::now();
    let twice = id(100, 1);
    let (one, other) = (occupancy(&twice, 1, 5, 4), occupancy(&twice, 2, 6, 7));
    let conflict = EventFacts::from_event(&event(&other), true).reading.0 >> 32;
    let mut stored = LoggedRecord::new(start, 30_000, other.clone())
        .with("ce_idconflict", true)
        .with("ce_originalid", &twice);
    stored.headers[0].1 = format!("{twice}~{conflict:08x}");
    let published = stored.headers[0].1.clone();
    let log = [
        Some(LoggedRecord::new(start, 60_000, one.clone())),
        Some(stored),
    ];
    for size in [1, 2] {
        let (memory, _) = rebuild_new(&log, &[size], start);
        assert_eq!(verdict(&memory, &one, start), REDELIVERY);
        assert_eq!(verdict(&memory, &other, start), REDELIVERY);
        // Its successor names the id that it has in the topic.
        let next = verdict(&memory, &occupancy(&id(200, 2), 2, 6, 8), start);
        assert!(is_revision_of(&next, &published, 1), "{next:?}");
    }
}

/// The ids of dropped repeats are in no topic; the seconds in them are enough.
#[test]
fn a_dropped_repeat_sent_again_after_a_restart_is_no_revision() {
    let start = RebuildStart::now();
    let log = [Some(LoggedRecord::new(
        start,
        60_000,
        occupancy(&id(100, 1), 1, 5, 4),
    ))];
    let repeat = occupancy(&id(160, 2), 1, 5, 4);
    let (memory, _) = rebuild_new(&log, &[10], start);
    assert_eq!(
        verdict(&memory, &repeat, start),
        REPEAT,
        "still the current value"
    );
    // Revised after the restart, before the repeat is sent again.
    publish(&memory, &occupancy(&id(220, 3), 1, 5, 5), start);
    let late = verdict(&memory, &repeat, start);
    let DedupVerdict::Publish(marks) = &late else {
        panic!("{late:?}");
    };
    assert!(marks.stale && marks.revision.is_none(), "{marks:?}");

    // Revised before the restart.
    let mut log = log.to_vec();
    log.push(Some(
        LoggedRecord::new(start, 30_000, occupancy(&id(220, 3), 1, 5, 5)).with("ce_revision", 1),
    ));
    let (memory, _) = rebuild_new(&log, &[10], start);
    assert_eq!(verdict(&memory, &repeat, start), late);
    // Reverted to its value: a repeat again, whatever its id.
    publish(&memory, &occupancy(&id(280, 4), 1, 5, 4), start);
    assert_eq!(verdict(&memory, &repeat, start), REPEAT);
}

#[test]
fn events_stored_during_the_rebuild_win() {
    let start = RebuildStart::now();
    let old = [Some(LoggedRecord::new(
        start,
        60_000,
        occupancy(&id(100, 1), 1, 5, 4),
    ))];
    let memory = MemoryStore::new(&settings(), start.instant);
    let live = id(200, 2);
    publish(&memory, &occupancy(&live, 1, 5, 5), start);
    let mut chunk = RecordChunk::new(OffsetSpan::new(0, 0, 1));
    read(&old, &mut chunk, start);
    assert_eq!(chunk.restore_into(&memory, start), (1, 0));
    let next = verdict(&memory, &occupancy(&id(300, 3), 1, 5, 4), start);
    assert!(is_revision_of(&next, &live, 1), "{next:?}");
}

/// A replaced value must not be taken for current: reverting to it is a revision, not a repeat.
#[test]
fn an_incomplete_chunk_restores_no_current_value() {
    let start = RebuildStart::now();
    let log = [
        Some(LoggedRecord::new(
            start,
            60_000,
            occupancy(&id(100, 1), 1, 5, 4),
        )),
        Some(
            LoggedRecord::new(start, 30_000, occupancy(&id(200, 2), 1, 5, 5))
                .with("ce_revision", 1),
        ),
    ];
    let memory = MemoryStore::new(&settings(), start.instant);
    let mut partition = TailPartition::new(0, 0, 2);
    let mut chunk = RecordChunk::new(partition.next_span(2));
    assert!(chunk.as_mut().accept_offset(0));
    chunk.add_record(&log[0].as_ref().unwrap().record(), 1, start, WINDOW);
    assert!(!partition.complete_span(chunk.span(), chunk.is_beyond_window()));
    assert_eq!(chunk.restore_into(&memory, start), (1, 0));
    let again = occupancy(&id(300, 3), 1, 5, 4);
    assert!(matches!(
        verdict(&memory, &again, start),
        DedupVerdict::Publish(_)
    ));
    assert_eq!(
        verdict(&memory, &occupancy(&id(100, 1), 1, 5, 4), start),
        REDELIVERY
    );
}

#[test]
fn foreign_records_are_ignored() {
    let start = RebuildStart::now();
    let known = occupancy(&id(100, 1), 1, 5, 4);
    let old = start.unix_ms - 86_400_000;
    let mut log = vec![Some(LoggedRecord::new(start, 60_000, known.clone()))];
    for value in ["", "{}", "[]", "no JSON", "[1,2]", &known] {
        log.push(Some(LoggedRecord {
            key: "room_1".to_owned(),
            value: value.to_owned(),
            headers: vec![("ce_id", "x".to_owned())],
        }));
        for (name, value) in [
            ("ce_receivedat", "yesterday".to_owned()),
            ("ce_receivedat", old.to_string()),
            ("CE_RECEIVEDAT", "2020-01-01T00:00:00Z".to_owned()),
        ] {
            log.push(Some(LoggedRecord {
                key: String::new(),
                value: "{}".to_owned(),
                headers: vec![(name, value)],
            }));
        }
    }
    let ours = |stored: &Option<LoggedRecord>| {
        let record = stored.as_ref().unwrap().record();
        RecordChunk::new(OffsetSpan::new(0, 0, 1)).add_record(&record, 1, start, WINDOW)
    };
    assert_eq!(log.iter().filter(|s| ours(s)).count(), 1);
    let (memory, _) = rebuild_new(&log, &[3], start);
    assert_eq!(verdict(&memory, &known, start), REDELIVERY);
}

#[test]
fn the_window_ends_the_search_but_records_that_waited_do_not() {
    let start = RebuildStart::now();
    let body = |n: usize| occupancy(&id(n as i64, 1), n as u8, 5, 4);
    let beyond = (WINDOW + ORDER_SLACK).as_millis() as i64 + 1;
    let at = |n: usize, age: i64| Some(LoggedRecord::new(start, age, body(n)));
    let spooled = |n: usize| at(n, 10 * beyond).map(|s| s.with("ce_spooled", true));
    let replayed = |n: usize| at(n, 90 * beyond).map(|s| s.with("ce_replayedfrom", "q/0/7"));
    let mut log: Vec<_> = (0..50).map(|n| at(n, beyond + 10)).collect();
    log.extend((50..60).map(|n| at(n, 60_000)));
    log.extend((60..75).map(spooled));
    log.extend((75..90).map(replayed));
    let (memory, offsets) = rebuild_new(&log, &[5], start);
    for n in 50..60 {
        assert_eq!(verdict(&memory, &body(n), start), REDELIVERY, "{n}");
    }
    assert_eq!(offsets, 45, "one chunk from before the window is enough");
    // Records from before the window are not restored, read or not.
    for n in [47, 49, 70, 80] {
        assert!(matches!(
            verdict(&memory, &body(n), start),
            DedupVerdict::Publish(_)
        ));
    }
}

/// An operator's copy, or a record from a replica with a wrong clock, among the others or at the
/// end.
#[test]
fn one_record_from_another_time_ends_no_search() {
    let start = RebuildStart::now();
    let beyond = 10 * (WINDOW + ORDER_SLACK).as_millis() as i64;
    let body = |n: usize| occupancy(&id(n as i64, 1), n as u8, 5, 4);
    for odd in 0..60 {
        let age = |n: usize| if n == odd { beyond } else { 60_000 };
        let log: Vec<_> = (0..60)
            .map(|n| Some(LoggedRecord::new(start, age(n), body(n))))
            .collect();
        let (memory, offsets) = rebuild_new(&log, &[10], start);
        assert_eq!(offsets, 60, "{odd}");
        for n in (0..60).filter(|n| *n != odd) {
            assert_eq!(verdict(&memory, &body(n), start), REDELIVERY, "{n} {odd}");
        }
    }
}

/// The topic had two partitions, then three: later records of a key lie in another partition.
#[test]
fn a_record_outside_its_keys_partition_restores_no_current_value() {
    let start = RebuildStart::now();
    // In the order in which they were stored, each in the partition that librdkafka chooses.
    let (first, second) = (id(100, 1), id(200, 2));
    for space in 0..20 {
        let key = format!("room_{space}");
        let partition_of =
            |count| super::partitioner::partition_of(key.as_bytes(), count).expect("a partition");
        let (before, after) = (partition_of(2), partition_of(3));
        let old = LoggedRecord::new(start, 60_000, occupancy(&first, space, 5, 4));
        let new = LoggedRecord::new(start, 30_000, occupancy(&second, space, 5, 5));
        let mut logs = [vec![], vec![], vec![]];
        logs[before as usize].push(Some(old));
        logs[after as usize].push(Some(new.with("ce_revision", 1)));
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let memory = MemoryStore::new(&settings(), start.instant);
            for partition in order {
                let log = &logs[partition];
                let mut chunk =
                    RecordChunk::new(OffsetSpan::new(partition as i32, 0, log.len() as i64));
                read_in_topic(log, &mut chunk, 3, start);
                chunk.restore_into(&memory, start);
            }
            let is = |body: &str| verdict(&memory, body, start);
            let back = is(&occupancy(&id(300, 3), space, 5, 4));
            assert!(is_revision_of(&back, &second, 2), "{back:?}");
            assert_eq!(is(&occupancy(&id(300, 3), space, 5, 5)), REPEAT);
            // Its id and its time are still known.
            assert_eq!(is(&occupancy(&first, space, 5, 4)), REDELIVERY);
            let older = is(&occupancy(&id(300, 3), space, 4, 1));
            assert!(matches!(older, DedupVerdict::Publish(marks) if marks.out_of_order));
        }
    }
}

/// Deliveries overtake each other, so receipt times are only roughly in the order of offsets.
#[test]
fn a_record_from_before_the_window_may_follow_one_inside() {
    let start = RebuildStart::now();
    let within = occupancy(&id(1, 1), 1, 5, 4);
    let (a_little, window) = (30_000, WINDOW.as_millis() as i64);
    let log = [
        Some(LoggedRecord::new(start, window - a_little, within.clone())),
        Some(LoggedRecord::new(
            start,
            window + a_little,
            occupancy(&id(2, 2), 2, 5, 4),
        )),
    ];
    let (memory, _) = rebuild_new(&log, &[1], start);
    assert_eq!(verdict(&memory, &within, start), REDELIVERY);
}

/// A clock was set back, or a spooled record came late: the successor of a value seems older than
/// the value, and than the window.
#[test]
fn a_value_replaced_by_a_record_that_seems_too_old_is_not_current() {
    let start = RebuildStart::now();
    let window = WINDOW.as_millis() as i64;
    let short = config::DedupConfig {
        reading_window: WINDOW / 3,
        ..settings()
    };
    for (settings, before, age) in [
        (settings(), -3_600_000, window + 1_000),
        (settings(), 0, window + 1_000),
        // Its id is restored, its value is not.
        (short, 60_000, window / 2),
    ] {
        let first = id(100, 1);
        let second = occupancy(&id(200, 2), 1, 5, 5);
        let other = occupancy(&id(200, 3), 2, 5, 5);
        let log = [
            Some(LoggedRecord::new(start, before, occupancy(&first, 1, 5, 4))),
            Some(LoggedRecord::new(start, 60_000, other)),
            Some(LoggedRecord::new(start, age, second).with("ce_revision", 1)),
        ];
        for size in 1..4 {
            let memory = MemoryStore::new(&settings, start.instant);
            rebuild(&memory, &log, &[size], start, || ());
            let back = verdict(&memory, &occupancy(&id(300, 3), 1, 5, 4), start);
            assert!(is_revision_of(&back, &first, 1), "{back:?}");
            // Values of other keys are certain.
            let other = occupancy(&id(300, 4), 2, 5, 5);
            assert_eq!(verdict(&memory, &other, start), REPEAT);
        }
    }
}

/// Neither its id nor its time is restored, only that it replaced earlier values.
#[test]
fn a_record_that_is_too_old_is_not_restored() {
    let start = RebuildStart::now();
    let age = WINDOW.as_millis() as i64 + 1_000;
    let old = occupancy(&id(100, 1), 1, 5, 4);
    let log = [Some(LoggedRecord::new(start, age, old.clone()))];
    let (memory, _) = rebuild_new(&log, &[1], start);
    assert_eq!(
        memory.entry_counts(),
        MemoryStore::new(&settings(), start.instant).entry_counts()
    );
    assert_eq!(
        verdict(&memory, &old, start),
        DedupVerdict::Publish(crate::marks::Marks::default())
    );
}

/// A record that did not become current replaced nothing.
#[test]
fn an_old_record_that_was_never_current_replaced_nothing() {
    let start = RebuildStart::now();
    let age = WINDOW.as_millis() as i64 + 1_000;
    let late = || LoggedRecord::new(start, age, occupancy(&id(90, 2), 1, 5, 5));
    for late in [
        late().with("ce_stale", true),
        late().with("ce_duplicate", "repeat"),
    ] {
        let first = LoggedRecord::new(start, 60_000, occupancy(&id(100, 1), 1, 5, 4));
        let log = [Some(first), Some(late)];
        for size in 1..3 {
            let (memory, _) = rebuild_new(&log, &[size], start);
            let again = occupancy(&id(300, 3), 1, 5, 4);
            assert_eq!(verdict(&memory, &again, start), REPEAT);
        }
    }
}

/// The chunk is read again, to its end, before anything earlier.
#[test]
fn an_incomplete_chunk_marks_no_value_as_replaced() {
    let start = RebuildStart::now();
    let age = WINDOW.as_millis() as i64 + 1_000;
    let log = [
        Some(LoggedRecord::new(
            start,
            age,
            occupancy(&id(100, 1), 1, 5, 4),
        )),
        Some(
            LoggedRecord::new(start, 30_000, occupancy(&id(200, 2), 1, 5, 5))
                .with("ce_revision", 1),
        ),
    ];
    let memory = MemoryStore::new(&settings(), start.instant);
    let mut half = RecordChunk::new(OffsetSpan::new(0, 0, 2));
    assert!(half.as_mut().accept_offset(0));
    half.add_record(&log[0].as_ref().unwrap().record(), 1, start, WINDOW);
    assert_eq!(half.restore_into(&memory, start), (0, 0));
    rebuild(&memory, &log, &[2], start, || ());
    let again = occupancy(&id(300, 3), 1, 5, 5);
    assert_eq!(verdict(&memory, &again, start), REPEAT);
}

/// Otherwise a large number of keys would be marked.
#[test]
fn the_end_of_the_search_marks_no_values_as_replaced() {
    let start = RebuildStart::now();
    let beyond = (WINDOW + ORDER_SLACK).as_millis() as i64 + 1;
    let value = |id: &str| occupancy(id, 1, 5, 4);
    let old = |n: u8| LoggedRecord::new(start, beyond, value(&id(100, n)));
    let waited = |n: u8| old(n).with("ce_spooled", true);
    let again = value(&id(300, 3));
    for logs in [
        (0..20).map(old).collect::<Vec<_>>(),
        (0..20).map(waited).chain([old(20)]).collect(),
    ] {
        let memory = MemoryStore::new(&settings(), start.instant);
        let log: Vec<_> = logs.into_iter().map(Some).collect();
        let mut chunk = RecordChunk::new(OffsetSpan::new(0, 0, log.len() as i64));
        read(&log, &mut chunk, start);
        assert!(chunk.is_beyond_window());
        chunk.restore_into(&memory, start);
        // As if more were read after all.
        let more = [Some(LoggedRecord::new(start, 0, value(&id(90, 1))))];
        rebuild(&memory, &more, &[1], start, || ());
        assert_eq!(verdict(&memory, &again, start), REPEAT);
    }
}

#[test]
fn a_receipt_in_the_future_counts_as_now() {
    let start = RebuildStart::now();
    let body = occupancy(&id(1, 1), 1, 5, 4);
    let log = [Some(LoggedRecord::new(start, -3_600_000, body.clone()))];
    let (memory, _) = rebuild_new(&log, &[1], start);
    assert_eq!(verdict(&memory, &body, start), REDELIVERY);
}

#[test]
fn a_replaced_time_is_never_the_newest() {
    let start = RebuildStart::now();
    let body = occupancy(&id(1, 1), 1, 40_000_000, 4);
    let replaced = LoggedRecord::new(start, 1_000, body).with("ce_timereplaced", "future");
    let (memory, _) = rebuild_new(&[Some(replaced)], &[1], start);
    let next = verdict(&memory, &occupancy(&id(2, 2), 1, 5, 4), start);
    assert_eq!(next, DedupVerdict::Publish(crate::marks::Marks::default()));
}

/// Origin of one record in a random log.
#[derive(Clone, Debug)]
struct LogStep {
    id: (i64, u8),
    space: u8,
    minute: i64,
    data: u32,
    /// Time until the next record, in ms.
    gap: i64,
    /// Time between receipt and storing, in ms.
    delay: i64,
    mark: u8,
}

/// An age by a clock that is ahead or was set back, or none.
fn odd_age() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(-60_000..2 * WINDOW.as_millis() as i64)
}

fn step() -> impl Strategy<Value = LogStep> {
    let who = (0_i64..40, 0_u8..3, 0_u8..3, 0_i64..3, 0_u32..3);
    (who, 0_i64..120_000, 0_i64..59_000, 0_u8..12).prop_map(
        |((second, salt, space, minute, data), gap, delay, mark)| LogStep {
            id: (second, salt),
            space,
            minute,
            data,
            gap,
            delay,
            mark,
        },
    )
}

/// Builds a log as a bridge might have left it, gaps included. Also returns the events in it.
fn build_log(steps: &[LogStep], start: RebuildStart) -> (Vec<Option<LoggedRecord>>, Vec<String>) {
    let mut stored_at: i64 = steps.iter().map(|s| s.gap).sum();
    let (mut log, mut events) = (Vec::new(), Vec::new());
    for step in steps {
        let body = occupancy(
            &id(step.id.0, step.id.1),
            step.space,
            step.minute,
            step.data,
        );
        events.push(body.clone());
        let age = match step.mark {
            6 => stored_at + 40 * step.delay,
            // Just before the window, so that the search goes on.
            7 => WINDOW.as_millis() as i64 + 1 + step.delay,
            _ => stored_at + step.delay,
        };
        let stored = LoggedRecord::new(start, age, body);
        log.push(match step.mark {
            0 => None,
            1 => Some(stored.with("ce_stale", true)),
            2 => Some(stored.with("ce_duplicate", "repeat")),
            3 => Some(stored.with("ce_idconflict", true)),
            4 => Some(stored.with("ce_timereplaced", "past")),
            5 => Some(stored.with("ce_revision", step.gap % 7)),
            6 => Some(stored.with("ce_spooled", true)),
            _ => Some(stored),
        });
        stored_at -= step.gap;
    }
    (log, events)
}

proptest! {
    /// A few records from another time do not hide the others.
    #[test]
    fn odd_records_hide_nothing(
        steps in prop::collection::vec(step(), 1..60),
        odd in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        sizes in prop::collection::vec(8_u64..20, 1..6),
    ) {
        let start = RebuildStart::now();
        // Without gaps and spooled records, chunks begin with more ordinary records than odd ones.
        let steps: Vec<_> = steps
            .into_iter()
            .filter(|step| !matches!(step.mark, 0 | 6))
            .collect();
        let (mut log, events) = build_log(&steps, start);
        let (untouched, _) = rebuild_new(&log, &sizes, start);
        for place in odd {
            let body = occupancy(&id(1, 9), 9, 9, 9);
            let place = place.index(log.len() + 1);
            log.insert(place, Some(LoggedRecord::new(start, 86_400_000, body)));
        }
        let (memory, _) = rebuild_new(&log, &sizes, start);
        prop_assert!(memory.entry_counts().ids >= untouched.entry_counts().ids);
        for body in &events {
            if local_decision(&untouched, body, start).0 == REDELIVERY {
                prop_assert_eq!(local_decision(&memory, body, start).0, REDELIVERY);
            }
        }
    }

    /// However the log is cut into chunks, and although reading ends with the window, the memory is
    /// the same as after reading everything.
    #[test]
    fn all_chunk_sizes_restore_the_same(
        steps in prop::collection::vec(step(), 0..60),
        sizes in prop::collection::vec(1_u64..20, 1..6),
        reading_window in prop::sample::select(vec![WINDOW, WINDOW / 3]),
    ) {
        let start = RebuildStart::now();
        let (log, events) = build_log(&steps, start);
        let settings = config::DedupConfig { reading_window, ..settings() };
        let memory = MemoryStore::new(&settings, start.instant);
        rebuild(&memory, &log, &sizes, start, || ());
        let whole = MemoryStore::new(&settings, start.instant);
        let mut chunk = RecordChunk::new(OffsetSpan::new(0, 0, log.len() as i64));
        read(&log, &mut chunk, start);
        chunk.restore_into(&whole, start);
        prop_assert_eq!(memory.entry_counts().ids, whole.entry_counts().ids);
        prop_assert_eq!(memory.entry_counts().readings, whole.entry_counts().readings);
        for body in &events {
            prop_assert_eq!(local_decision(&memory, body, start), local_decision(&whole, body, start));
            let other = body.replace("event_", "event-");
            prop_assert_eq!(local_decision(&memory, &other, start), local_decision(&whole, &other, start));
        }
    }

    /// Whatever the receipt times, the chunk sizes, and the events that arrive and are forgotten
    /// meanwhile, a repeat equals the value stored last.
    #[test]
    fn no_replaced_value_is_current(
        steps in prop::collection::vec((step(), odd_age()), 0..40),
        live in prop::collection::vec(step(), 0..40),
        at_once in 0_usize..5,
        sizes in prop::collection::vec(1_u64..20, 1..6),
        reading_window in prop::sample::select(vec![WINDOW, WINDOW / 3]),
        max_readings in prop::sample::select(vec![3, 10_000]),
    ) {
        let start = RebuildStart::now();
        let (plain, ages): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        let (mut log, _) = build_log(&plain, start);
        let mut last = HashMap::new();
        for ((stored, age), step) in log.iter_mut().zip(ages).zip(&plain) {
            let Some(stored) = stored else { continue };
            if let Some(age) = age {
                stored.set_received(start, age);
            }
            if !matches!(step.mark, 1 | 2) {
                last.insert((step.space, step.minute), Some(step.data));
            }
        }
        let settings = config::DedupConfig { reading_window, max_readings, ..settings() };
        let memory = MemoryStore::new(&settings, start.instant);
        let (mut coming, mut now) = (live.iter(), start.instant);
        rebuild(&memory, &log, &sizes, start, || {
            for step in coming.by_ref().take(at_once) {
                now += Duration::from_millis(step.gap as u64);
                let id = id(step.id.0, step.id.1 + 100);
                let body = occupancy(&id, step.space, step.minute, step.data);
                let last = last.entry((step.space, step.minute)).or_default();
                match memory.claim(&EventFacts::from_event(&event(&body), true), now) {
                    Ok(Decision::Publish(claim)) => {
                        // An event in doubt may be the last value, or not.
                        let is_in_doubt = step.mark == 0;
                        if !claim.marks().stale && *last != Some(step.data) {
                            *last = (!is_in_doubt).then_some(step.data);
                        }
                        if is_in_doubt {
                            claim.release_in_doubt();
                        } else {
                            claim.commit(&Receipt::for_test(), now);
                        }
                    }
                    Ok(Decision::Duplicate { kind: DuplicateKind::Repeat, .. }) => assert_eq!(*last, Some(step.data)),
                    Ok(Decision::Duplicate { .. }) => {}
                    Err(_) => panic!("no claim is undecided"),
                }
                memory.sweep(now);
            }
        });
        for step in plain.iter().chain(&live) {
            let other = occupancy("event-1", step.space, step.minute, step.data);
            if verdict(&memory, &other, start) == REPEAT {
                prop_assert_eq!(last.get(&(step.space, step.minute)), Some(&Some(step.data)));
            }
        }
    }

    /// No headers or values cause a panic.
    #[test]
    fn any_record_can_be_read(
        key: Option<Vec<u8>>, value: Vec<u8>, name in "ce_(id|receivedat|revision|spooled|stale)|[a-z_]{0,9}", header: Vec<u8>,
    ) {
        let mut record = TailRecord::new(key.as_deref(), &value);
        record.apply_header(&name, &header);
        record.apply_header("ce_receivedat", b"2026-11-22T19:45:36.123Z");
        RecordChunk::new(OffsetSpan::new(0, 0, 1)).add_record(&record, 3, RebuildStart::now(), Duration::MAX / 4);
    }
}
