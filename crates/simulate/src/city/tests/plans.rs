//! Plans: references are consistent, and a seed always gives the same city.

use std::collections::HashSet;

use super::plan;
use crate::city::plan::{CityPlan, RoomUse, SensorMode};

#[test]
fn references_are_consistent() {
    for (seed, rooms, sensors) in [(1, 1, 1), (2, 14, 14), (3, 100, 37), (4, 1_000, 2_500)] {
        let plan = plan(seed, rooms, Some(sensors));
        assert_eq!(plan.rooms.len(), rooms);
        let presence = plan
            .sensors
            .iter()
            .filter(|sensor| sensor.mode == SensorMode::Presence)
            .count();
        assert_eq!(presence, sensors);
        assert_eq!(plan.sensors.len(), sensors + rooms + plan.floors.len());
        let mut last_site = 0;
        for (building, index) in plan.buildings.iter().zip(0..) {
            assert!((building.site as usize) < plan.sites.len() && building.site >= last_site);
            last_site = building.site;
            assert!(building.floors.len() <= 8);
            assert!(
                building
                    .floors
                    .clone()
                    .all(|floor| plan.floors[floor as usize].building == index)
            );
        }
        for (floor, index) in plan.floors.iter().zip(0..) {
            assert!((1..=14).contains(&floor.rooms.len()));
            assert!(
                floor
                    .rooms
                    .clone()
                    .all(|room| plan.rooms[room as usize].floor == index)
            );
            let door = &plan.sensors[floor.door as usize];
            assert_eq!(
                (door.mode, door.floor, door.room),
                (SensorMode::Traffic, index, None)
            );
            assert_eq!(
                plan.rooms[floor.rooms.start as usize].room_use,
                RoomUse::Office
            );
        }
        for (room, index) in plan.rooms.iter().zip(0..) {
            assert!((1..=4).contains(&room.zones.len()) && room.capacity > 0);
            assert!(
                room.zones
                    .clone()
                    .all(|zone| plan.zones[zone as usize].room == index)
            );
            let door = &plan.sensors[room.door as usize];
            assert_eq!(
                (door.mode, door.floor, door.room),
                (SensorMode::Traffic, room.floor, Some(index))
            );
            for sensor in room.sensors.clone() {
                let sensor = &plan.sensors[sensor as usize];
                assert_eq!(
                    (sensor.mode, sensor.floor, sensor.room),
                    (SensorMode::Presence, room.floor, Some(index))
                );
                assert!(
                    (333..=1000).contains(&sensor.period_ms) && sensor.phase_ms < sensor.period_ms
                );
            }
            let spread = room.sensors.len();
            assert!(spread == sensors / rooms || spread == sensors.div_ceil(rooms));
        }
    }
}

#[test]
fn rooms_do_not_overlap_and_zones_and_sensors_cover_them() {
    let plan = plan(5, 60, Some(150));
    for floor in &plan.floors {
        let rooms = &plan.rooms[floor.rooms.start as usize..floor.rooms.end as usize];
        for x in 0..200 {
            for y in 0..40 {
                let point = [
                    floor.size[0] * x as f32 / 200.0,
                    floor.size[1] * y as f32 / 40.0,
                ];
                let here: Vec<_> = rooms
                    .iter()
                    .filter(|room| room.area.contains(point))
                    .collect();
                assert!(here.len() <= 1, "{point:?}: {here:?}");
                for room in here {
                    let zones =
                        plan.zones[room.zones.start as usize..room.zones.end as usize].iter();
                    assert_eq!(zones.filter(|zone| zone.area.contains(point)).count(), 1);
                    let sensors =
                        plan.sensors[room.sensors.start as usize..room.sensors.end as usize].iter();
                    assert_eq!(
                        sensors.filter(|sensor| sensor.area.contains(point)).count(),
                        1
                    );
                }
            }
        }
        for room in rooms {
            assert!(
                (0..2)
                    .all(|axis| room.area.min[axis] >= 0.0
                        && room.area.max[axis] <= floor.size[axis])
            );
        }
    }
}

#[test]
fn ids_are_unique_and_have_their_prefixes() {
    let plan = plan(6, 2_000, Some(5_000));
    let mut ids = HashSet::new();
    let mut check = |id: &str, prefix: &str| {
        assert_eq!(id.strip_prefix(prefix).map(str::len), Some(27), "{id}");
        assert!(ids.insert(id.to_owned()), "{id}");
    };
    check(&plan.org_id, "org_");
    plan.sites.iter().for_each(|site| check(&site.id, "site_"));
    plan.buildings
        .iter()
        .for_each(|building| check(&building.id, "building_"));
    plan.floors
        .iter()
        .for_each(|floor| check(&floor.id, "space_"));
    plan.rooms.iter().for_each(|room| check(&room.id, "room_"));
    plan.zones.iter().for_each(|zone| check(&zone.id, "zone_"));
    plan.sensors.iter().for_each(|sensor| check(&sensor.id, ""));
    let hives: HashSet<_> = plan
        .sensors
        .iter()
        .map(|sensor| (sensor.floor, &sensor.hive_id))
        .collect();
    assert_eq!(hives.len(), plan.floors.len(), "one per floor");
    let macs: HashSet<_> = plan
        .sensors
        .iter()
        .map(|sensor| &sensor.mac_address)
        .collect();
    assert_eq!(macs.len(), plan.sensors.len());
    let custom = plan
        .zones
        .iter()
        .filter(|zone| zone.custom_id.is_some())
        .count();
    assert!(custom * 2 > plan.zones.len() && custom < plan.zones.len());
}

#[test]
fn a_seed_determines_the_city() {
    assert_eq!(plan(7, 300, Some(500)), plan(7, 300, Some(500)));
    let other = plan(8, 300, Some(500));
    assert!(
        plan(7, 300, None)
            .rooms
            .iter()
            .all(|room| other.rooms.iter().all(|other| other.id != room.id))
    );
    // Stable across versions, because tests of consumers may rely on these ids.
    let plan = plan(1, 100, None);
    assert_eq!(
        (plan.org_id.as_str(), plan.rooms[99].id.as_str()),
        (
            "org_2pTn52pZoU6OlHiBjvQLhtcubGt",
            "room_2j32EaiJshfyYftqa9kDHOGREdT"
        )
    );
}

#[test]
fn a_larger_city_begins_with_the_smaller() {
    let (small, large) = (plan(9, 95, None), plan(9, 400, None));
    assert_eq!(small.rooms[..], large.rooms[..95]);
    assert_eq!(small.zones[..], large.zones[..small.zones.len()]);
    // More sensors do not rename the spaces.
    let dense = plan(9, 95, Some(300));
    let ids = |plan: &CityPlan| {
        plan.rooms
            .iter()
            .map(|room| (room.id.clone(), room.area))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&small), ids(&dense));
}
