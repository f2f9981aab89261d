use proptest::prelude::*;

use super::*;
use crate::message::{CityMessage, CityPlace, Computation, DeliveryKind, MessageData};

const ROOM: EventType = EventType::RoomOccupancy;

/// An id of this second.
fn id(seconds: i64, n: u8) -> Ksuid {
    Ksuid::new((Ksuid::EPOCH_SECONDS + seconds) * 1_000, [n; 16])
}

/// Verdicts on deliveries given as (second of the id, number within the second, value).
fn classify_all(event_type: EventType, deliveries: &[(i64, u8, u64)]) -> Vec<OracleVerdict> {
    let mut reading = ReadingState::default();
    let each = deliveries.iter().map(|&(seconds, n, data)| {
        let id = id(seconds, n);
        let verdict = reading.classify(event_type, id, data);
        reading.apply(verdict, id, data);
        verdict
    });
    each.collect()
}

#[test]
fn the_rules_by_hand() {
    use OracleVerdict::{First, Redelivery, Repeat, Revision, Stale};
    type RuleCase<'a> = (&'a [(i64, u8, u64)], &'a [OracleVerdict]);
    let cases: [RuleCase<'_>; 10] = [
        (&[(10, 0, 4), (10, 0, 4)], &[First, Redelivery]),
        (&[(10, 0, 4), (70, 0, 4)], &[First, Repeat]),
        // A revision and back.
        (
            &[(10, 0, 4), (70, 0, 5), (130, 0, 4)],
            &[First, Revision, Revision],
        ),
        (&[(70, 0, 4), (10, 0, 5)], &[First, Stale]),
        // A stale event changes nothing for later events, neither with the current value nor with
        // its own.
        (
            &[(70, 0, 4), (10, 0, 5), (130, 0, 4), (20, 0, 5), (140, 0, 5)],
            &[First, Stale, Repeat, Stale, Revision],
        ),
        // Redeliveries of a superseded event, of a stale one and of a repeat.
        (
            &[
                (10, 0, 4),
                (70, 0, 4),
                (130, 0, 5),
                (5, 0, 6),
                (10, 0, 4),
                (70, 0, 4),
                (5, 0, 6),
            ],
            &[
                First, Repeat, Revision, Stale, Redelivery, Redelivery, Redelivery,
            ],
        ),
        // Within one second, the order of arrival decides.
        (&[(10, 1, 4), (10, 0, 5)], &[First, Revision]),
        // A repeat does not make the value younger: an event between the first one and the repeat
        // is not stale.
        (
            &[(10, 0, 4), (70, 0, 4), (30, 0, 5)],
            &[First, Repeat, Revision],
        ),
        (&[(70, 0, 4), (10, 0, 4)], &[First, Repeat]),
        (&[], &[]),
    ];
    for (deliveries, expected) in cases {
        assert_eq!(classify_all(ROOM, deliveries), expected, "{deliveries:?}");
    }
    let twice = [(10, 0, 4), (70, 0, 4), (5, 0, 6), (70, 0, 4)];
    assert_eq!(
        classify_all(EventType::Traffic, &twice),
        [First, First, First, Redelivery],
        "only occupancy has repeats and revisions"
    );
}

#[test]
fn verdicts_are_columns() {
    for (column, verdict) in OracleVerdict::ALL.into_iter().enumerate() {
        assert_eq!(verdict as usize, column);
    }
}

fn message(event_type: EventType, id: Ksuid, data: MessageData) -> CityMessage {
    CityMessage {
        event_type,
        place: CityPlace::Room(0),
        timestamp_ms: 0,
        computed_ms: 0,
        id,
        data,
        computation: Computation::First,
    }
}

#[test]
fn only_old_readings_are_forgotten() {
    let mut forecast = Forecast::new(1_000);
    let mut next = |due_ms, key, people| {
        let message = message(ROOM, id(due_ms, 0), MessageData::Occupancy(people));
        forecast
            .predict(due_ms, key, &message, DeliveryKind::First)
            .unwrap()
    };
    assert_eq!(next(0, 1, 4), OracleVerdict::First);
    assert_eq!(next(900, 2, 4), OracleVerdict::First);
    for due_ms in (1_000..10_000).step_by(999) {
        assert_eq!(next(due_ms, 1, 4), OracleVerdict::Repeat, "{due_ms}");
    }
    assert_eq!(next(10_000, 2, 4), OracleVerdict::First);
    assert!(forecast.recent.len() + forecast.aging.len() <= 2);
}

#[test]
fn the_kind_decides_for_copies_and_invalid_items() {
    let mut forecast = Forecast::new(1_000);
    let traffic = message(EventType::Traffic, id(1, 0), MessageData::None);
    let mut next = |kind| forecast.predict(0, 1, &traffic, kind);
    assert_eq!(next(DeliveryKind::First), Some(OracleVerdict::First));
    assert_eq!(next(DeliveryKind::Late), Some(OracleVerdict::First));
    assert_eq!(
        next(DeliveryKind::Redelivery),
        Some(OracleVerdict::Redelivery)
    );
    assert_eq!(
        next(DeliveryKind::Overlapping),
        Some(OracleVerdict::Redelivery)
    );
    assert_eq!(next(DeliveryKind::Invalid), None);
}

proptest! {
    /// The forecast agrees with the rules applied to each reading separately.
    #[test]
    fn the_forecast_is_the_sum_of_its_readings(
        deliveries in prop::collection::vec((0..4_u64, 0..6_i64, 0..4_u32, prop::bool::ANY), 0..60),
    ) {
        let mut forecast = Forecast::new(1_000_000);
        let mut readings: [ReadingState; 4] = Default::default();
        let mut sent: Vec<(u64, Ksuid, u32)> = Vec::new();
        for (n, (key, seconds, people, again)) in (0..).zip(deliveries) {
            let (key, id, people, kind) = match sent.last() {
                Some(&(key, id, people)) if again => (key, id, people, DeliveryKind::Redelivery),
                _ => (key, id(seconds, n), people, DeliveryKind::First),
            };
            sent.push((key, id, people));
            let message = message(ROOM, id, MessageData::Occupancy(people));
            let reading = &mut readings[key as usize];
            let verdict = reading.classify(ROOM, id, u64::from(people));
            reading.apply(verdict, id, u64::from(people));
            prop_assert_eq!(forecast.predict(i64::from(n), key, &message, kind), Some(verdict));
        }
    }
}
