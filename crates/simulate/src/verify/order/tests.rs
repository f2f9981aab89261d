use super::super::samples::{
    NOW, PARTITIONS, SampleEvent, SampleRecord, SampleRun, check_record, new_checker,
};
use super::*;
use crate::journal::AttemptCause;
use crate::verify::checker::RecordChecker;
use crate::verify::record_digest::RecordDigest;
use crate::verify::report::Property;

fn motion_record(timestamp_ms: i64, room: &str, is_marked: bool, offset: i64) -> SampleRecord {
    let event = SampleEvent {
        timestamp_ms,
        room: room.to_owned(),
        ..SampleEvent::new(offset as u64, EventType::PirMotion, "null")
    };
    let mut record = event.record(offset);
    if is_marked {
        let mark = ("ce_outoforder".to_owned(), b"true".to_vec());
        record.headers.push(mark);
    }
    record
}

/// Returns `true` for each record that is rightly marked as out of order, or rightly not.
fn check_marks(checker: &mut RecordChecker, records: &[SampleRecord]) -> Vec<bool> {
    let digests: Vec<_> = records
        .iter()
        .map(|r| check_record(checker, r).unwrap())
        .collect();
    checker.finish();
    let unjustified = &checker.issues.unjustified_marks;
    let is_right = |d: &RecordDigest| !d.wrong_headers && !unjustified.contains(&d.position);
    digests.iter().map(is_right).collect()
}

/// Returns the record with a receipt this long before [`NOW`].
fn with_receipt(mut record: SampleRecord, before_ms: i64) -> SampleRecord {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis((NOW - before_ms) as u64);
    let at = humantime::format_rfc3339_millis(at).to_string();
    *record.header("ce_receivedat") = at.into_bytes();
    record
}

#[test]
fn a_newer_record_before_it_justifies_a_mark() {
    let good = |records: &[SampleRecord], from: i64| {
        let mut checker = new_checker(&SampleRun::empty().truth);
        checker
            .order
            .set_start_offsets(&vec![vec![from; PARTITIONS]; 10]);
        check_marks(&mut checker, records)
    };
    let first = motion_record(NOW - 50, "room_1", false, 0);
    let unmarked = motion_record(NOW - 60, "room_1", false, 1);
    let late = |ms, room| motion_record(NOW - ms, room, true, 2);
    assert_eq!(
        good(&[first.clone(), unmarked, late(60, "room_1")], 0),
        [true; 3]
    );
    for wrong in [late(50, "room_1"), late(40, "room_1"), late(60, "room_2")] {
        assert_eq!(good(&[first.clone(), wrong.clone()], 0), [true, false]);
        // In the middle of a partition, earlier records are unknown.
        assert_eq!(good(&[first.clone(), wrong], 1), [true, true]);
    }
    // A replaced time does not count.
    let mut ahead = motion_record(NOW + 90_000, "room_1", false, 0);
    ahead
        .headers
        .push(("ce_timereplaced".to_owned(), b"future".to_vec()));
    ahead.timestamp_ms = Some(NOW - 5);
    assert_eq!(good(&[ahead, late(60, "room_1")], 0), [true, false]);
}

#[test]
fn a_newer_record_after_it_that_was_received_before_justifies_a_mark() {
    let good = |setback_ms: i64, records: &[SampleRecord]| {
        let mut checker = new_checker(&SampleRun::empty().truth);
        checker.order = OrderTracker::new(None, setback_ms);
        checker
            .order
            .set_start_offsets(&vec![vec![0; PARTITIONS]; 10]);
        check_marks(&mut checker, records)
    };
    let mark = |time| with_receipt(motion_record(NOW - time, "room_1", true, 0), 1_000);
    let later = |time, before| with_receipt(motion_record(NOW - time, "room_1", false, 1), before);
    // The newer one was in the spool while the marked one overtook it.
    for before in [3_000, 1_001, 1_000] {
        assert_eq!(good(0, &[mark(60), later(50, before)]), [true; 2]);
    }
    // Received after it; equally old; older; another source; another type; a replaced time.
    let elsewhere = with_receipt(motion_record(NOW - 50, "room_2", false, 1), 3_000);
    let mut other = SampleEvent {
        timestamp_ms: NOW - 50,
        room: "room_1".to_owned(),
        ..SampleEvent::new(1, EventType::PirNoMotion, "null")
    }
    .record(1);
    other = with_receipt(other, 3_000);
    let mut replaced = with_receipt(motion_record(NOW + 90_000, "room_1", false, 1), 3_000);
    let ahead = ("ce_timereplaced".to_owned(), b"future".to_vec());
    replaced.headers.push(ahead);
    replaced.timestamp_ms = Some(NOW - 3_000);
    for wrong in [
        later(50, 999),
        later(60, 3_000),
        later(61, 3_000),
        elsewhere,
        other,
        replaced,
    ] {
        assert_eq!(good(0, &[mark(60), wrong]), [false, true]);
    }
    // Unless the clock was set back in between.
    assert_eq!(good(1, &[mark(60), later(50, 999)]), [true; 2]);
    assert_eq!(good(1, &[mark(60), later(50, 998)]), [false, true]);
    // Each mark is justified by itself, possibly by the last record.
    let mut second = with_receipt(motion_record(NOW - 40, "room_1", true, 2), 500);
    second.position.offset = 2;
    let mut last = later(45, 2_000);
    last.position.offset = 3;
    assert_eq!(good(0, &[mark(60), second, last]), [true, false, true]);
    // Without any other record, it is not justified.
    assert_eq!(good(0, &[mark(60)]), [false]);
}

#[test]
fn the_number_of_pending_marks_is_limited() {
    let mut checker = new_checker(&SampleRun::empty().truth);
    checker
        .order
        .set_start_offsets(&vec![vec![0; PARTITIONS]; 10]);
    checker.order.pending_count = MAX_PENDING_MARKS - 1;
    let marks =
        [60, 70].map(|time| with_receipt(motion_record(NOW - time, "room_1", true, time), 1_000));
    // Two marks of one source: the first is the newest record, so the second is justified.
    let elsewhere = with_receipt(motion_record(NOW - 60, "room_2", true, 1), 1_000);
    let digests =
        [&marks[0], &marks[1], &elsewhere].map(|r| check_record(&mut checker, r).unwrap());
    assert_eq!(digests.map(|d| d.wrong_headers), [false, false, true]);
    checker.finish();
    assert_eq!(checker.issues.unjustified_marks.len(), 1);
}

#[test]
fn an_unjustified_mark_is_reported() {
    let mut run = SampleRun::empty();
    let sample = SampleEvent::new(1, EventType::PirMotion, "null");
    run.publish(&sample, AttemptCause::Planned);
    run.read_from_start = true;
    assert!(run.verify().is_proved());
    let mark = ("ce_outoforder".to_owned(), b"true".to_vec());
    run.records[0].headers.push(mark);
    let report = run.verify();
    let finding = report.finding(Property::Headers);
    assert_eq!(finding.violations, 1, "{report}");
    assert!(
        finding.first[0].text.contains("nothing newer came before"),
        "{report}"
    );
}

#[test]
fn a_record_received_long_after_a_newer_one_must_be_marked() {
    /// Checks events of one room, given as (time, receipt, is marked), in ms before [`NOW`].
    /// Returns which of them are right, and the number of required marks.
    fn good(records: &[(i64, i64, bool)]) -> (Vec<bool>, u64) {
        let mut checker = new_checker(&SampleRun::empty().truth);
        checker.order = OrderTracker::new(Some(1_000), 0);
        let results = (0..)
            .zip(records)
            .map(|(offset, &(time, received, is_marked))| {
                let record = motion_record(NOW - time, "room_1", is_marked, offset);
                let record = self::with_receipt(record, received);
                !check_record(&mut checker, &record).unwrap().wrong_headers
            });
        (results.collect(), checker.order.required_marks)
    }
    let newer = (50, 9_000, false);
    // Received at the same time, or so soon after it that the newer one may not have been stored.
    for received in [9_000, 8_000] {
        assert_eq!(good(&[newer, (60, received, false)]), (vec![true; 2], 0));
    }
    assert_eq!(good(&[newer, (60, 7_999, false)]), (vec![true, false], 1));
    assert_eq!(good(&[newer, (60, 7_999, true)]), (vec![true; 2], 1));
    assert_eq!(good(&[newer, (50, 5_000, false)]), (vec![true; 2], 0));
    // Records in between hide nothing, whether they are newer or older.
    for between in [(40, 5_100, false), (55, 8_500, false)] {
        let (results, required) = good(&[newer, between, (60, 5_000, false)]);
        assert_eq!((results, required), (vec![true, true, false], 1));
    }
    // Nor does a record that was received long before but stored late.
    let late = (40, 20_000, false);
    assert_eq!(
        good(&[newer, late, (45, 8_500, false)]),
        (vec![true, true, false], 1)
    );
    // The newest of the old receipts is kept.
    let rising: Vec<_> = (0..20)
        .map(|n| (1_000 - n, 40_000 - 1_500 * n, false))
        .collect();
    let all = [&rising[..], &[(990, 5_000, false)]].concat();
    assert_eq!(good(&all), ([vec![true; 20], vec![false]].concat(), 1));
}
