use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::city::plan::Floor;
use crate::city::{CityBehaviour, CitySize};
use crate::message::{EventFault, MessageData};
use butlr_event::ksuid::Ksuid;

const START: i64 = 1_727_690_400_000;
const SEED: u64 = 11;

fn new_city() -> CitySimulation {
    let size = CitySize {
        rooms: 60,
        sensors: Some(20),
    };
    let plan = Arc::new(CityPlan::generate(SEED, size));
    CitySimulation::new(plan, SEED, START, CityBehaviour::default())
}

/// Messages computed until `until_ms`, by id.
fn compute_messages(until_ms: i64) -> HashMap<Ksuid, CityMessage> {
    let mut city = new_city();
    let mut messages = Vec::new();
    while city.now_ms() < until_ms {
        city.advance(&mut messages);
    }
    let count = messages.len();
    let by_id: HashMap<_, _> = messages
        .into_iter()
        .map(|message| (message.id, message))
        .collect();
    assert_eq!(by_id.len(), count, "ids are used once");
    by_id
}

/// All deliveries of the first `minutes`, and the clock at the end.
fn collect_deliveries(behaviour: SenderBehaviour, minutes: i64) -> (Vec<PlannedDelivery>, i64) {
    let mut stream = DeliveryStream::new(new_city(), SEED, behaviour);
    let mut deliveries = Vec::new();
    while stream.now_ms() < START + minutes * 60_000 {
        deliveries.push(stream.next().expect("a stream is endless"));
    }
    stream.end();
    deliveries.extend(&mut stream);
    assert_eq!(stream.next(), None);
    assert_eq!(stream.truth().at_ms, stream.now_ms());
    (deliveries, stream.now_ms())
}

fn lively_behaviour() -> SenderBehaviour {
    SenderBehaviour {
        redelivered: 0.05,
        late: 0.05,
        shuffled: 0.1,
        invalid: 0.05,
        outages: Some(OutageSettings {
            every: Duration::from_secs(300),
            ..OutageSettings::default()
        }),
        ..SenderBehaviour::plain()
    }
}

fn kind_of(computation: Computation) -> DeliveryKind {
    match computation {
        Computation::First => DeliveryKind::First,
        Computation::Repeat => DeliveryKind::Repeat,
        Computation::Revision => DeliveryKind::Revision,
    }
}

#[test]
fn a_plain_sender_delivers_each_message_once_and_at_once() {
    let (deliveries, now_ms) = collect_deliveries(SenderBehaviour::plain(), 10);
    let mut computed = compute_messages(now_ms);
    assert!(deliveries.is_sorted_by_key(|delivery| delivery.due_ms));
    for delivery in deliveries {
        let message = computed.remove(&delivery.message.id);
        assert_eq!(message.as_ref(), Some(&delivery.message));
        assert_eq!(delivery.kind, kind_of(delivery.message.computation));
        assert_eq!(delivery.fault, None);
        let delay = delivery.due_ms - delivery.message.computed_ms;
        assert!((100..=400).contains(&delay) || delivery.due_ms == now_ms);
    }
    assert!(computed.is_empty(), "{} are lost", computed.len());
}

#[test]
fn quirks_lose_and_invent_nothing() {
    let (deliveries, now_ms) = collect_deliveries(lively_behaviour(), 20);
    let mut computed = compute_messages(now_ms);
    assert!(deliveries.is_sorted_by_key(|delivery| delivery.due_ms));
    let mut seen: HashMap<Ksuid, PlannedDelivery> = HashMap::new();
    let mut copies = 0;
    let mut invalid = 0;
    for delivery in deliveries {
        let id = delivery.message.id;
        assert!(delivery.due_ms >= delivery.message.computed_ms);
        assert_eq!(id.seconds(), delivery.message.computed_ms.div_euclid(1000));
        match delivery.kind {
            DeliveryKind::Invalid => {
                assert!(delivery.fault.is_some());
                assert!(!computed.contains_key(&id) && !seen.contains_key(&id));
                invalid += 1;
                continue;
            }
            DeliveryKind::Redelivery => {
                let first = &seen[&id];
                assert_eq!(first.message, delivery.message);
                let after = delivery.due_ms - first.due_ms;
                assert!((1_000..=20_000).contains(&after) || delivery.due_ms == now_ms);
                copies += 1;
            }
            kind => {
                assert_eq!(computed.remove(&id).as_ref(), Some(&delivery.message));
                let late = delivery.due_ms - delivery.message.computed_ms > 60_000;
                match kind {
                    DeliveryKind::Late => assert!(late || delivery.due_ms == now_ms),
                    kind => assert!(!late && kind == kind_of(delivery.message.computation)),
                }
                seen.insert(id, delivery.clone());
            }
        }
        assert_eq!(delivery.fault, None);
    }
    assert!(computed.is_empty(), "{} are lost", computed.len());
    assert!(copies > 0 && invalid > 0);
}

#[test]
fn quirks_have_the_configured_frequency() {
    let behaviour = SenderBehaviour {
        outages: None,
        ..lively_behaviour()
    };
    let (deliveries, now_ms) = collect_deliveries(behaviour, 20);
    // Deliveries that come out at the end are less late than they would have been.
    let own: Vec<_> = deliveries
        .iter()
        .filter(|delivery| {
            !matches!(
                delivery.kind,
                DeliveryKind::Redelivery | DeliveryKind::Invalid
            )
        })
        .collect();
    let share = |matches: &dyn Fn(&PlannedDelivery) -> bool| {
        deliveries
            .iter()
            .filter(|delivery| matches(delivery))
            .count() as f64
            / own.len() as f64
    };
    let waited = |delivery: &PlannedDelivery| delivery.due_ms - delivery.message.computed_ms;
    let close = |share: f64, expected: f64| {
        assert!(
            (share / expected - 1.0).abs() < 0.15,
            "{share} is not {expected}"
        );
    };
    close(
        share(&|delivery| delivery.kind == DeliveryKind::Redelivery),
        0.05,
    );
    close(
        share(&|delivery| delivery.kind == DeliveryKind::Invalid),
        0.05,
    );
    close(share(&|delivery| delivery.kind == DeliveryKind::Late), 0.05);
    // 94 % of the shuffled deliveries wait longer than usual (over 400 ms).
    let shuffled = own
        .iter()
        .filter(|delivery| delivery.kind != DeliveryKind::Late && waited(delivery) > 400);
    close(
        shuffled.count() as f64 / own.len() as f64,
        0.1 * 0.95 * 0.97,
    );
    for delivery in &own {
        let range = match delivery.kind {
            DeliveryKind::Late => 60_100..=600_400,
            _ => 100..=5_400,
        };
        assert!(range.contains(&waited(delivery)) || delivery.due_ms == now_ms);
    }
    for fault in [
        EventFault::NewerVersion,
        EventFault::UnknownType,
        EventFault::Truncated,
        EventFault::NoSpace,
        EventFault::WrongTimestamp,
    ] {
        let share = share(&|delivery| delivery.fault == Some(fault));
        assert!((0.008..0.012).contains(&share), "{fault:?}: {share}");
    }
}

/// The building of a place, searched for from the top of the plan.
fn building_index(plan: &CityPlan, place: CityPlace) -> usize {
    let is_in = |floor: u32| {
        let Floor { rooms, door, .. } = &plan.floors[floor as usize];
        let mut each = plan.rooms[rooms.start as usize..rooms.end as usize].iter();
        match place {
            CityPlace::Floor(it) => it == floor,
            CityPlace::Room(it) => rooms.contains(&it),
            CityPlace::Zone(it) => each.any(|room| room.zones.contains(&it)),
            CityPlace::Sensor(it) => {
                it == *door || each.any(|room| it == room.door || room.sensors.contains(&it))
            }
        }
    };
    let mut buildings = plan.buildings.iter();
    let home = buildings.position(|building| building.floors.clone().any(is_in));
    home.expect("every place is in a building")
}

#[test]
fn messages_held_back_by_an_outage_come_together_and_in_order() {
    let behaviour = SenderBehaviour {
        outages: Some(OutageSettings {
            every: Duration::from_secs(240),
            ..OutageSettings::default()
        }),
        ..SenderBehaviour::plain()
    };
    let (deliveries, now_ms) = collect_deliveries(behaviour, 20);
    let plan = new_city().plan().clone();
    assert!(plan.buildings.len() > 1);
    // Messages held back, by building and end of the outage.
    let mut held: HashMap<(usize, i64), Vec<i64>> = HashMap::new();
    for delivery in &deliveries {
        let waited = delivery.due_ms - delivery.message.computed_ms;
        if waited > 400 {
            let building = building_index(&plan, delivery.message.place);
            let outage = held.entry((building, delivery.due_ms)).or_default();
            outage.push(delivery.message.computed_ms);
        }
    }
    assert!(held.len() >= 2 * plan.buildings.len(), "{}", held.len());
    for ((building, until_ms), computed_ms) in held {
        assert!(computed_ms.is_sorted());
        assert!(until_ms - computed_ms[0] <= 60_000);
        // No message of the building computed during the outage was delivered before its end.
        for delivery in &deliveries {
            let during = (computed_ms[0]..until_ms).contains(&delivery.message.computed_ms);
            if during && building_index(&plan, delivery.message.place) == building {
                assert_eq!(delivery.due_ms, until_ms);
            }
        }
        assert!(until_ms <= now_ms);
    }
}

#[test]
fn the_same_seed_delivers_the_same_and_another_does_not() {
    let first: Vec<_> = DeliveryStream::new(new_city(), SEED, lively_behaviour())
        .take(20_000)
        .collect();
    let again = DeliveryStream::new(new_city(), SEED, lively_behaviour()).take(20_000);
    assert!(first.iter().cloned().eq(again));
    let other = DeliveryStream::new(new_city(), SEED + 1, lively_behaviour()).take(20_000);
    assert!(!first.into_iter().eq(other));
}

#[test]
fn one_quirk_does_not_change_another() {
    let with = |behaviour| {
        let (deliveries, _) = collect_deliveries(behaviour, 5);
        let late = deliveries
            .into_iter()
            .filter(|delivery| delivery.kind == DeliveryKind::Late);
        let mut late: Vec<_> = late.map(|delivery| delivery.message.id).collect();
        late.sort();
        late
    };
    let late = SenderBehaviour {
        late: 0.02,
        ..SenderBehaviour::plain()
    };
    let more = SenderBehaviour {
        redelivered: 0.1,
        shuffled: 0.1,
        invalid: 0.1,
        ..late
    };
    assert_eq!(with(late), with(more));
}

#[test]
fn the_clock_does_not_pass_the_limit() {
    let mut all = DeliveryStream::new(new_city(), SEED, lively_behaviour());
    let mut stream = DeliveryStream::new(new_city(), SEED, lively_behaviour());
    assert_eq!(stream.next_until(START), None);
    assert_eq!(stream.now_ms(), START);
    for until_ms in (START..START + 30_000).step_by(700) {
        while let Some(delivery) = stream.next_until(until_ms) {
            assert_eq!(Some(delivery), all.next());
        }
        assert!((until_ms..until_ms + 1_000).contains(&stream.now_ms()));
    }
}

#[test]
fn a_stream_can_move_to_another_thread() {
    fn can_move<T: Send>(_: T) {}
    can_move(DeliveryStream::new(new_city(), SEED, lively_behaviour()));
}

/// Delivered entries and exits add up to the true positions.
#[test]
fn deliveries_add_up_to_the_truth_at_the_end() {
    let (deliveries, now_ms) = collect_deliveries(lively_behaviour(), 15);
    let mut stream = DeliveryStream::new(new_city(), SEED, SenderBehaviour::plain());
    while stream.now_ms() < now_ms {
        stream.next();
    }
    assert_eq!(stream.now_ms(), now_ms);
    let plan = stream.plan().clone();
    let mut people: HashMap<&str, i64> = HashMap::new();
    for delivery in &deliveries {
        if matches!(
            delivery.kind,
            DeliveryKind::Redelivery | DeliveryKind::Invalid
        ) {
            continue;
        }
        if let (MessageData::Traffic { entered, left }, CityPlace::Sensor(sensor)) =
            (&delivery.message.data, delivery.message.place)
        {
            let sensor = &plan.sensors[sensor as usize];
            let space = match sensor.room {
                Some(room) => &plan.rooms[room as usize].id,
                None => &plan.floors[sensor.floor as usize].id,
            };
            *people.entry(space).or_default() += i64::from(*entered) - i64::from(*left);
        }
    }
    let truth = stream.truth();
    assert!(truth.spaces.iter().any(|(_, count)| *count > 0));
    for (space, count) in truth.spaces {
        let sum = people.get(&*space).copied().unwrap_or_default();
        assert_eq!(sum, i64::from(count), "{space}");
    }
}

/// Frequent quirks that concern readings.
fn revising_behaviour() -> SenderBehaviour {
    SenderBehaviour {
        redelivered: 0.05,
        overlapping: 0.04,
        repeated: 0.3,
        corrected: 0.2,
        stale: 0.1,
        ..SenderBehaviour::plain()
    }
}

#[test]
fn companions_have_their_order_and_configured_frequency() {
    let (deliveries, now_ms) = collect_deliveries(revising_behaviour(), 20);
    let (plain, _) = collect_deliveries(SenderBehaviour::plain(), 20);
    let mut readings: HashMap<_, Vec<&PlannedDelivery>> = HashMap::new();
    let mut copies = 0.0;
    for pair in deliveries.windows(2) {
        if pair[1].kind == DeliveryKind::Overlapping {
            assert_eq!(
                pair[0].message, pair[1].message,
                "directly after the original"
            );
            assert_eq!(pair[0].due_ms, pair[1].due_ms);
            copies += 1.0;
        }
    }
    for delivery in &deliveries {
        let message = &delivery.message;
        let key = (message.event_type, message.place, message.timestamp_ms);
        readings.entry(key).or_default().push(delivery);
    }
    let occupancy = |d: &&PlannedDelivery| matches!(d.message.data, MessageData::Occupancy(_));
    let base = plain.iter().filter(occupancy).count() as f64;
    let more = |kind: DeliveryKind| {
        let of = |all: &[PlannedDelivery]| all.iter().filter(|d| d.kind == kind).count() as f64;
        of(&deliveries) - of(&plain)
    };
    let close = |found: f64, expected: f64| {
        assert!((found / expected - 1.0).abs() < 0.15, "{found}, {expected}");
    };
    close(more(DeliveryKind::Repeat) / base, 0.3);
    close(more(DeliveryKind::Revision) / base, 0.2);
    close(more(DeliveryKind::Stale) / base, 0.1);
    let valid = deliveries.len() as f64 - copies - more(DeliveryKind::Redelivery);
    close(copies / valid, 0.04);
    close(more(DeliveryKind::Redelivery) / valid, 0.05);
    let mut stale = 0;
    for deliveries in readings.values() {
        for (index, delivery) in deliveries.iter().enumerate() {
            if delivery.kind != DeliveryKind::Stale || delivery.due_ms == now_ms {
                continue;
            }
            stale += 1;
            let before = &deliveries[..index];
            assert!(
                before
                    .iter()
                    .any(|d| d.message.id.seconds() > delivery.message.id.seconds())
            );
        }
    }
    assert!(stale > 100, "{stale}");
}

#[test]
fn companions_change_nothing_about_the_others() {
    let own = |behaviour| {
        let (deliveries, now_ms) = collect_deliveries(behaviour, 5);
        let own = deliveries.into_iter().filter(move |d| d.due_ms < now_ms);
        own.map(|d| (d.due_ms, d.message.id, d.fault))
            .collect::<std::collections::HashSet<_>>()
    };
    let all = own(SenderBehaviour {
        invalid: 0.05,
        late: 0.05,
        shuffled: 0.1,
        ..revising_behaviour()
    });
    let without = own(SenderBehaviour {
        redelivered: 0.05,
        invalid: 0.05,
        late: 0.05,
        shuffled: 0.1,
        ..SenderBehaviour::plain()
    });
    assert!(without.is_subset(&all));
    assert!(without.len() < all.len());
}
