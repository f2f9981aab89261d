//! Simulated days: people, doors, motion sensors and occupancy together.

use super::reference_model::CityReferenceModel;
use super::{
    HOUR_MS, MINUTE_MS, START_MS, behaviour_with, compute_messages, plan, types_of,
    without_detections,
};
use crate::city::{CityBehaviour, CitySimulation};
use crate::message::{CityMessage, Computation};
use butlr_event::EventType;

#[test]
fn a_day_adds_up() {
    let behaviour = CityBehaviour {
        types: without_detections(),
        revised: 0.2,
        skewed: 0.5,
        ..CityBehaviour::default()
    };
    for (seed, hours) in [(1, 25), (2, 5), (3, 5)] {
        let plan = plan(seed, 7, Some(9));
        let model = CityReferenceModel::new(&plan, &behaviour).watch(
            CitySimulation::new(plan.clone(), seed, START_MS, behaviour.clone()),
            hours,
        );
        assert!(model.most_people > 15, "{}", model.most_people);
        let spaces = plan.floors.len() + plan.rooms.len() + plan.zones.len();
        assert!(
            model.finished_readings >= 2 * spaces * (hours as usize * 60 - 5),
            "{}",
            model.finished_readings
        );
        // Some errors make two revisions (0, +1, 0), some make one (+1, 0).
        let revised = model.revisions as f64 / model.finished_readings as f64;
        assert!((0.25..0.40).contains(&revised), "{revised}");
    }
}

#[test]
fn the_smallest_cities_add_up() {
    let behaviour = behaviour_with(without_detections());
    for rooms in 1..=8 {
        let plan = plan(rooms, rooms as usize, Some(rooms as usize / 2));
        let city = CitySimulation::new(plan.clone(), rooms, START_MS, behaviour.clone());
        let model = CityReferenceModel::new(&plan, &behaviour).watch(city, 3);
        assert!(model.most_people > 0);
    }
}

#[test]
fn shorter_ticks_add_up() {
    let behaviour = behaviour_with(without_detections());
    let plan = plan(2, 9, None);
    for tick_ms in [500, 20] {
        let city =
            CitySimulation::with_tick_ms(plan.clone(), 2, START_MS, behaviour.clone(), tick_ms);
        let model = CityReferenceModel::new(&plan, &behaviour).watch(city, 1);
        assert!(model.most_people > 5);
    }
}

#[test]
fn a_city_of_several_buildings_adds_up() {
    let behaviour = behaviour_with(without_detections());
    let plan = plan(3, 90, None);
    assert!(plan.buildings.len() > 1);
    CityReferenceModel::new(&plan, &behaviour).watch(
        CitySimulation::new(plan.clone(), 3, START_MS, behaviour.clone()),
        1,
    );
}

#[test]
fn without_recomputation_each_reading_is_computed_once_and_correctly() {
    let behaviour = CityBehaviour {
        types: without_detections(),
        revised: 1.0,
        recompute: false,
        ..CityBehaviour::default()
    };
    let plan = plan(4, 12, None);
    // The reference model compares each last computation, here the only one, with the truth.
    let model = CityReferenceModel::new(&plan, &behaviour).watch(
        CitySimulation::new(plan.clone(), 4, START_MS, behaviour.clone()),
        8,
    );
    assert_eq!(model.revisions, 0);
}

#[test]
fn the_revision_probability_ranges_from_none_to_all() {
    let plan = plan(4, 6, None);
    let rooms = types_of(&[EventType::RoomOccupancy]);
    let compute = |revised| {
        compute_messages(
            &plan,
            4,
            START_MS,
            &CityBehaviour {
                revised,
                types: rooms,
                ..CityBehaviour::default()
            },
            30,
        )
    };
    let revisions = |revised| {
        let messages = compute(revised);
        messages
            .iter()
            .filter(|message| message.computation == Computation::Revision)
            .count()
    };
    assert_eq!(revisions(0.0), 0);
    let most = revisions(1.0);
    assert!(most >= 6 * 25, "{most}");
    // Times and ids do not depend on the probability.
    let moments = |revised| {
        compute(revised)
            .iter()
            .map(|message| (message.computed_ms, message.id))
            .collect::<Vec<_>>()
    };
    assert_eq!(moments(0.0), moments(1.0));
}

#[test]
fn people_arrive_early_go_home_and_return() {
    let plan = plan(5, 30, None);
    let types = types_of(&[EventType::Traffic]);
    let mut city = CitySimulation::new(
        plan.clone(),
        5,
        START_MS,
        CityBehaviour {
            types,
            ..CityBehaviour::default()
        },
    );
    let mut messages = Vec::new();
    let mut people_at = |after_ms: i64| {
        while city.now_ms() < START_MS + after_ms {
            city.advance(&mut messages);
        }
        let people: u32 = city.truth().spaces[..plan.rooms.len()]
            .iter()
            .map(|space| space.1)
            .sum();
        (people, std::mem::take(&mut messages).len())
    };
    assert_eq!(people_at(0), (0, 0));
    let (first, _) = people_at(90_000);
    assert!(first > 60, "{first} people in {} rooms", plan.rooms.len());
    // The start is at ten o'clock: these are 15:00 and then, twice, 22:00, 07:00 and 12:00.
    assert!(people_at(5 * HOUR_MS).0 > first / 2);
    for day in 0..2 {
        assert_eq!(people_at((12 + day * 24) * HOUR_MS).0, 0);
        assert_eq!(
            people_at((21 + day * 24) * HOUR_MS),
            (0, 0),
            "nobody is there at night"
        );
        let (people, crossings) = people_at((26 + day * 24) * HOUR_MS);
        assert!(
            people > first / 2 && crossings > 500,
            "{people} {crossings}"
        );
    }
}

#[test]
fn people_use_every_kind_of_room() {
    let plan = plan(6, 14, None);
    let mut city = CitySimulation::new(plan.clone(), 6, START_MS, behaviour_with(types_of(&[])));
    let mut most = vec![0; plan.rooms.len()];
    while city.now_ms() < START_MS + 7 * HOUR_MS {
        city.advance(&mut Vec::new());
        if city.now_ms() % MINUTE_MS == 0 {
            for (most, (_, people)) in most.iter_mut().zip(city.truth().spaces) {
                *most = people.max(*most);
            }
        }
    }
    for (room, most) in plan.rooms.iter().zip(most) {
        let expected = if room.capacity == 1 { 1 } else { 2 };
        assert!(most >= expected, "{most} at most in {room:?}");
    }
}

#[test]
fn the_same_seed_and_start_give_the_same_messages() {
    let plan = plan(7, 8, None);
    let compute =
        |seed, start_ms| compute_messages(&plan, seed, start_ms, &CityBehaviour::default(), 12);
    let messages = compute(7, START_MS);
    assert!(messages.len() > 1_000);
    assert!(messages == compute(7, START_MS));
    assert!(messages != compute(8, START_MS));
    assert!(messages != compute(7, START_MS + MINUTE_MS));
    // Another start is not just a shift in time.
    let traffic = |start_ms| {
        let mut doors = compute(7, start_ms);
        doors.retain(|message| message.event_type == EventType::Traffic);
        doors.sort_unstable_by_key(|message| (message.timestamp_ms, message.place));
        let crossing = |message: &CityMessage| (message.timestamp_ms - start_ms, message.place);
        doors.iter().map(crossing).collect::<Vec<_>>()
    };
    assert_ne!(traffic(START_MS), traffic(START_MS + MINUTE_MS));
}

#[test]
fn a_type_left_out_changes_nothing_else() {
    let plan = plan(8, 10, Some(14));
    let all = compute_messages(
        &plan,
        8,
        START_MS,
        &CityBehaviour {
            skewed: 0.3,
            ..CityBehaviour::default()
        },
        25,
    );
    for (nth, &one) in EventType::ALL.iter().enumerate() {
        let other = EventType::ALL[(nth + 3) % EventType::ALL.len()];
        for types in [types_of(&[one]), types_of(&[one, other])] {
            let some = compute_messages(
                &plan,
                8,
                START_MS,
                &CityBehaviour {
                    skewed: 0.3,
                    types,
                    ..CityBehaviour::default()
                },
                25,
            );
            assert!(!some.is_empty(), "{one}");
            assert!(
                some.iter().eq(all
                    .iter()
                    .filter(|message| types[message.event_type.index()])),
                "{one} {other}"
            );
        }
    }
}
