//! The `metadata` of a message: its origin.

use super::super::city::plan::{Building, CityPlan, Floor, Room, Sensor, Site, Zone};
use super::super::message::CityPlace;

/// A place with everything that contains it.
struct PlaceContext<'p> {
    site: &'p Site,
    building: &'p Building,
    floor: &'p Floor,
    room: Option<&'p Room>,
    zone: Option<&'p Zone>,
    sensor: Option<&'p Sensor>,
}

impl<'p> PlaceContext<'p> {
    fn from_place(plan: &'p CityPlan, place: CityPlace) -> Self {
        match place {
            CityPlace::Floor(floor) => Self::from_floor(plan, floor),
            CityPlace::Room(room) => Self::from_room(plan, room),
            CityPlace::Zone(zone) => {
                let zone = &plan.zones[zone as usize];
                Self {
                    zone: Some(zone),
                    ..Self::from_room(plan, zone.room)
                }
            }
            CityPlace::Sensor(sensor) => {
                let sensor = &plan.sensors[sensor as usize];
                let place = match sensor.room {
                    Some(room) => Self::from_room(plan, room),
                    None => Self::from_floor(plan, sensor.floor),
                };
                Self {
                    sensor: Some(sensor),
                    ..place
                }
            }
        }
    }

    fn from_room(plan: &'p CityPlan, room: u32) -> Self {
        let room = &plan.rooms[room as usize];
        Self {
            room: Some(room),
            ..Self::from_floor(plan, room.floor)
        }
    }

    fn from_floor(plan: &'p CityPlan, floor: u32) -> Self {
        let floor = &plan.floors[floor as usize];
        let building = &plan.buildings[floor.building as usize];
        Self {
            site: &plan.sites[building.site as usize],
            building,
            floor,
            room: None,
            zone: None,
            sensor: None,
        }
    }
}

/// Choice of writing the ids of the floor, the room and the zone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SpaceIds {
    Include,
    Omit,
}

/// Appends the `metadata` of a message about `place`.
pub(super) fn write_metadata(
    plan: &CityPlan,
    place: CityPlace,
    space_ids: SpaceIds,
    out: &mut Vec<u8>,
) {
    let located = space_ids == SpaceIds::Include;
    let PlaceContext {
        site,
        building,
        floor,
        room,
        zone,
        sensor,
    } = PlaceContext::from_place(plan, place);
    let fields = [
        ("org_id", Some(plan.org_id.as_str())),
        ("site_id", Some(&site.id)),
        ("building_id", Some(&building.id)),
        ("floor_id", located.then_some(&floor.id)),
        ("room_id", room.filter(|_| located).map(|room| &*room.id)),
        ("zone_id", zone.filter(|_| located).map(|zone| &*zone.id)),
        ("floor_custom_id", floor.custom_id.as_deref()),
        (
            "room_custom_id",
            room.and_then(|it| it.custom_id.as_deref()),
        ),
        (
            "zone_custom_id",
            zone.and_then(|it| it.custom_id.as_deref()),
        ),
        ("hive_id", sensor.map(|sensor| &*sensor.hive_id)),
        ("sensor_id", sensor.map(|sensor| &*sensor.id)),
        ("org_name", Some(&plan.org_name)),
        ("site_name", Some(&site.name)),
        ("building_name", Some(&building.name)),
        ("floor_name", Some(&floor.name)),
        ("room_name", room.map(|room| &*room.name)),
        ("zone_name", zone.map(|zone| &*zone.name)),
        ("hive_serial", sensor.map(|sensor| &*sensor.hive_serial)),
        ("mac_address", sensor.map(|sensor| &*sensor.mac_address)),
        ("sensor_mode", sensor.map(|sensor| sensor.mode.name())),
        ("sensor_model", sensor.map(|sensor| &*sensor.sensor_model)),
        ("hive_model", sensor.map(|sensor| &*sensor.hive_model)),
        ("hive_version", sensor.map(|sensor| &*sensor.hive_version)),
    ];
    let present = fields
        .iter()
        .filter_map(|(name, value)| value.map(|value| (name, value)));
    for (index, (name, value)) in present.enumerate() {
        out.extend_from_slice(if index == 0 { b"{\"" } else { b",\"" });
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        serde_json::to_writer(&mut *out, value).expect("serializing text to memory cannot fail");
    }
    out.push(b'}');
}
