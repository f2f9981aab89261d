use super::super::samples::{NOW, PARTITIONS, Sample, Stored, World, checker, look};
use super::*;

fn of(timestamp_ms: i64, room: &str, tagged: bool, offset: i64) -> Stored {
    let event = Sample {
        timestamp_ms,
        room: room.to_owned(),
        ..Sample::new(offset as u64, EventType::PirMotion, "null")
    };
    let mut record = event.record(offset);
    if tagged {
        let mark = ("ce_outoforder".to_owned(), b"true".to_vec());
        record.headers.push(mark);
    }
    record
}

#[test]
fn out_of_order_is_what_something_newer_came_before() {
    let good = |records: &[Stored], from: i64| {
        let mut checker = checker(&World::empty().truth);
        checker.order.reads_from(&vec![vec![from; PARTITIONS]; 10]);
        let entries = records.iter().map(|r| look(&mut checker, r).unwrap());
        entries.map(|e| !e.misheaded).collect::<Vec<_>>()
    };
    let first = of(NOW - 50, "room_1", false, 0);
    let untagged = of(NOW - 60, "room_1", false, 1);
    let late = |ms, room| of(NOW - ms, room, true, 2);
    assert_eq!(
        good(&[first.clone(), untagged, late(60, "room_1")], 0),
        [true; 3]
    );
    for wrong in [late(50, "room_1"), late(40, "room_1"), late(60, "room_2")] {
        assert_eq!(good(&[first.clone(), wrong.clone()], 0), [true, false]);
        // What came before the run is not known.
        assert_eq!(good(&[first.clone(), wrong], 1), [true, true]);
    }
    // A time that was replaced is nobody's measure.
    let mut ahead = of(NOW + 90_000, "room_1", false, 0);
    ahead
        .headers
        .push(("ce_timereplaced".to_owned(), b"future".to_vec()));
    ahead.timestamp_ms = Some(NOW - 5);
    assert_eq!(good(&[ahead, late(60, "room_1")], 0), [true, false]);
}

#[test]
fn what_came_long_after_something_newer_is_out_of_order() {
    /// Rooms' events as (time, received), ms before now, and whether they are marked; which of them are right.
    fn good(records: &[(i64, i64, bool)]) -> (Vec<bool>, u64) {
        let mut checker = checker(&World::empty().truth);
        checker.order = Order::new(Some(1_000));
        let looks = (0..)
            .zip(records)
            .map(|(offset, &(time, received, tagged))| {
                let mut record = of(NOW - time, "room_1", tagged, offset);
                let at = std::time::UNIX_EPOCH
                    + std::time::Duration::from_millis((NOW - received) as u64);
                let at = humantime::format_rfc3339_millis(at).to_string();
                *record.header("ce_receivedat") = at.into_bytes();
                !look(&mut checker, &record).unwrap().misheaded
            });
        let looks = looks.collect();
        (looks, checker.order.long_older)
    }
    let newer = (50, 9_000, false);
    // Received at the same time, or so shortly before that it may have been undecided.
    for received in [9_000, 8_000] {
        assert_eq!(good(&[newer, (60, received, false)]), (vec![true; 2], 0));
    }
    assert_eq!(good(&[newer, (60, 7_999, false)]), (vec![true, false], 1));
    assert_eq!(good(&[newer, (60, 7_999, true)]), (vec![true; 2], 1));
    assert_eq!(good(&[newer, (50, 5_000, false)]), (vec![true; 2], 0));
    // What came in between hides nothing: neither something newer still nor something older.
    for between in [(40, 5_100, false), (55, 8_500, false)] {
        let (looks, long_older) = good(&[newer, between, (60, 5_000, false)]);
        assert_eq!((looks, long_older), (vec![true, true, false], 1));
    }
    // Nor does one that was received long before, but stored late.
    let late = (40, 20_000, false);
    assert_eq!(
        good(&[newer, late, (45, 8_500, false)]),
        (vec![true, true, false], 1)
    );
    // Of long ago the newest is kept.
    let rising: Vec<_> = (0..20)
        .map(|n| (1_000 - n, 40_000 - 1_500 * n, false))
        .collect();
    let all = [&rising[..], &[(990, 5_000, false)]].concat();
    assert_eq!(good(&all), ([vec![true; 20], vec![false]].concat(), 1));
}
