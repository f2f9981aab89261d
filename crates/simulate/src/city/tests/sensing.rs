//! Presence sensors and their clocks.

use std::collections::HashMap;

use super::{START_MS, behaviour_with, compute_messages, plan, types_of};
use crate::city::plan::{Rect, SensorMode};
use crate::city::{CityBehaviour, CitySimulation};
use crate::message::{CityMessage, CityPlace, MessageData};
use butlr_event::EventType;

#[test]
fn detections_are_within_the_room_and_the_field_of_view() {
    let plan = plan(1, 20, Some(45));
    let behaviour = CityBehaviour {
        types: types_of(&[EventType::Detections]),
        skewed: 0.0,
        ..CityBehaviour::default()
    };
    let mut last: HashMap<CityPlace, i64> = HashMap::new();
    let (mut some, mut none) = (0, 0);
    for message in compute_messages(&plan, 1, START_MS, &behaviour, 12) {
        let (CityPlace::Sensor(index), MessageData::Detections(positions)) =
            (message.place, &message.data)
        else {
            panic!("{message:?}")
        };
        let sensor = &plan.sensors[index as usize];
        let room = &plan.rooms[sensor.room.expect("in a room") as usize];
        assert_eq!(sensor.mode, SensorMode::Presence);
        assert!(room.sensors.contains(&index));
        for position in positions {
            assert!(
                sensor.area.contains(position.world) && room.area.contains(position.world),
                "{position:?} {room:?}"
            );
            assert!(
                position
                    .local
                    .iter()
                    .all(|local| (0.0..1.0).contains(local) && (local * 16.0).fract() == 0.0)
            );
            for axis in 0..2 {
                let world = sensor.area.min[axis] + position.local[axis] * sensor.area.size()[axis];
                assert!(
                    (world - position.world[axis]).abs() <= sensor.area.size()[axis] / 16.0 + 0.001
                );
            }
        }
        if positions.is_empty() {
            none += 1
        } else {
            some += 1
        };
        // One to three readings per second, at a constant interval.
        if let Some(before) = last.insert(message.place, message.timestamp_ms) {
            let period = message.timestamp_ms - before;
            assert!((333..=1000).contains(&period), "{period}");
            assert_eq!(period, i64::from(sensor.period_ms));
        }
    }
    assert_eq!(last.len(), 45);
    assert!(some > 10_000 && none > 5_000, "{some} {none}");
}

#[test]
fn sensors_of_a_room_never_read_at_the_same_moment() {
    let plan = plan(2, 10, Some(30));
    for skewed in [0.0, 0.6] {
        let behaviour = CityBehaviour {
            types: types_of(&[EventType::Detections]),
            skewed,
            ..CityBehaviour::default()
        };
        let mut readings: Vec<_> = compute_messages(&plan, 2, START_MS, &behaviour, 6)
            .iter()
            .map(|message| (room(&plan, message), message.timestamp_ms))
            .collect();
        readings.sort_unstable();
        let all = readings.len();
        readings.dedup();
        assert_eq!(readings.len(), all);
    }
}

#[test]
fn sensors_of_a_room_see_each_person_once() {
    let plan = plan(3, 14, Some(40));
    let mut city = CitySimulation::new(
        plan.clone(),
        3,
        START_MS,
        behaviour_with(types_of(&[EventType::Detections, EventType::Traffic])),
    );
    let (mut total_seen, mut total_present) = (0.0, 0.0);
    let mut messages = Vec::new();
    for _ in 0..400 {
        let before = city.truth();
        city.advance(&mut messages);
        let after = city.truth();
        for (index, room) in plan.rooms.iter().enumerate() {
            let people = before.spaces[index].1;
            let crossed = messages
                .iter()
                .any(|message| message.place == CityPlace::Sensor(room.door));
            if crossed {
                continue;
            }
            assert_eq!(people, after.spaces[index].1);
            let seen = |index| {
                messages
                    .iter()
                    .filter(move |message| message.place == CityPlace::Sensor(index))
                    .filter_map(|message| match &message.data {
                        MessageData::Detections(positions) => Some(positions.len() as u32),
                        _ => None,
                    })
            };
            if room.sensors.len() == 1 {
                assert!(
                    seen(room.sensors.start).all(|seen| seen == people),
                    "{room:?}"
                );
            }
            // People walk from one part to another between readings, so only the average is exact.
            let counts: Vec<_> = room
                .sensors
                .clone()
                .map(|index| seen(index).next())
                .collect();
            if let Some(counts) = counts.into_iter().collect::<Option<Vec<_>>>() {
                total_seen += f64::from(counts.iter().sum::<u32>());
                total_present += f64::from(people);
            }
        }
        messages.clear();
    }
    assert!(total_present > 2_000.0);
    assert!(
        (total_seen / total_present - 1.0).abs() < 0.01,
        "{total_seen} of {total_present}"
    );
}

#[test]
fn a_clock_error_changes_only_the_timestamp() {
    let plan = plan(4, 100, None);
    let types = types_of(&[
        EventType::Detections,
        EventType::PirMotion,
        EventType::PirNoMotion,
        EventType::Traffic,
    ]);
    let compute = |skewed| {
        compute_messages(
            &plan,
            4,
            START_MS,
            &CityBehaviour {
                types,
                skewed,
                ..CityBehaviour::default()
            },
            3,
        )
    };
    let (right, wrong) = (compute(0.0), compute(0.4));
    assert_eq!(right.len(), wrong.len());
    let mut off: HashMap<CityPlace, i64> = HashMap::new();
    for (right, wrong) in right.iter().zip(&wrong) {
        let skew = wrong.timestamp_ms - right.timestamp_ms;
        assert_eq!(
            *off.entry(right.place).or_insert(skew),
            skew,
            "the error is constant per sensor"
        );
        let corrected = CityMessage {
            timestamp_ms: right.timestamp_ms,
            id: right.id,
            ..wrong.clone()
        };
        assert_eq!(*right, corrected);
        assert_eq!(wrong.id == right.id, skew == 0);
        assert!(
            skew == 0 || right.event_type != EventType::Traffic,
            "doors have no clock error"
        );
        assert!(skew.abs() <= 7_200_000);
        let CityPlace::Sensor(sensor) = right.place else {
            panic!("{right:?}")
        };
        assert!(skew == 0 || skew % i64::from(plan.sensors[sensor as usize].period_ms) == 0);
    }
    let skews: Vec<_> = off.values().copied().filter(|skew| *skew != 0).collect();
    assert!((25..=55).contains(&skews.len()), "{} of 100", skews.len());
    let seconds = skews.iter().filter(|skew| skew.abs() <= 30_000).count();
    assert!(seconds * 2 > skews.len() && seconds < skews.len());
    assert!(skews.iter().any(|skew| *skew > 0) && skews.iter().any(|skew| *skew < 0));
}

#[test]
fn rooms_without_sensors_report_no_detections_and_no_motion() {
    let plan = plan(5, 20, Some(5));
    let with: Vec<_> = plan
        .rooms
        .iter()
        .filter(|room| !room.sensors.is_empty())
        .collect();
    assert_eq!(with.len(), 5);
    for message in compute_messages(&plan, 5, START_MS, &CityBehaviour::default(), 6) {
        match message.event_type {
            EventType::Detections | EventType::PirMotion | EventType::PirNoMotion => {
                let room = room(&plan, &message);
                assert!(
                    with.iter()
                        .any(|other| other.door == plan.rooms[room as usize].door)
                );
            }
            _ => {}
        }
    }
}

#[test]
fn parts_cover_and_do_not_overlap() {
    let area = Rect {
        min: [2.0, 9.4],
        max: [13.5, 16.4],
    };
    for count in 1..=9 {
        let mut parts = Vec::new();
        area.divide(count, &mut |part| parts.push(part));
        assert_eq!(parts.len() as u32, count);
        for x in 0..40 {
            for y in 0..40 {
                let point = [2.0 + 11.5 * x as f32 / 40.0, 9.4 + 7.0 * y as f32 / 40.0];
                assert_eq!(
                    parts.iter().filter(|part| part.contains(point)).count(),
                    1,
                    "{point:?} of {count}"
                );
            }
        }
    }
}

fn room(plan: &crate::city::CityPlan, message: &CityMessage) -> u32 {
    let CityPlace::Sensor(index) = message.place else {
        panic!("{message:?}")
    };
    plan.sensors[index as usize]
        .room
        .expect("presence sensors are in rooms")
}
