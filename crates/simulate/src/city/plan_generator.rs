//! Generation of a plan from a seed.
//!
//! Every room takes the same number of draws, and ids are hashes of positions in the plan. A larger
//! city therefore begins with the smaller one of the same seed, room for room (except for the
//! sensors if their number was specified).

use std::ops::Range;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use super::labels::{AssetKind, AssetLabels};
use super::names;
use super::plan::{
    Building, CityPlan, CitySize, Floor, Rect, Room, RoomUse, Sensor, SensorMode, Site, Zone,
};

/// Uses of the rooms on a floor, first to last.
const ROOM_USES: [RoomUse; 14] = [
    RoomUse::Office,
    RoomUse::Meeting,
    RoomUse::Restroom,
    RoomUse::Office,
    RoomUse::Kitchen,
    RoomUse::Office,
    RoomUse::Meeting,
    RoomUse::Booth,
    RoomUse::Office,
    RoomUse::Lounge,
    RoomUse::Office,
    RoomUse::Meeting,
    RoomUse::Office,
    RoomUse::Office,
];

/// Depth of the two rows of rooms along the corridor, in metres.
const ROW_DEPTH: f32 = 7.0;
const CORRIDOR: f32 = 2.4;

impl CityPlan {
    /// Generates a city. The same seed and size always give the same city.
    pub fn generate(seed: u64, size: CitySize) -> CityPlan {
        let rooms = size.rooms.max(1);
        let mut generator = PlanGenerator {
            labels: AssetLabels::new(seed),
            rng: Pcg64Mcg::seed_from_u64(seed),
            target_rooms: rooms,
            target_sensors: size.sensors.unwrap_or(rooms),
            plan: CityPlan {
                org_id: String::new(),
                org_name: names::ORGANISATIONS[(seed % names::ORGANISATIONS.len() as u64) as usize]
                    .to_owned(),
                sites: Vec::new(),
                buildings: Vec::new(),
                floors: Vec::new(),
                rooms: Vec::with_capacity(rooms),
                zones: Vec::new(),
                sensors: Vec::new(),
            },
        };
        generator.plan.org_id = generator.labels.id("org_", AssetKind::Org, 0);
        while generator.is_incomplete() {
            generator.add_site();
        }
        generator.plan
    }
}

struct PlanGenerator {
    labels: AssetLabels,
    rng: Pcg64Mcg,
    target_rooms: usize,
    target_sensors: usize,
    plan: CityPlan,
}

impl PlanGenerator {
    fn is_incomplete(&self) -> bool {
        self.plan.rooms.len() < self.target_rooms
    }

    fn add_site(&mut self) {
        let number = self.plan.sites.len();
        let name = names::SITES[number % names::SITES.len()];
        let name = match number / names::SITES.len() {
            0 => name.to_owned(),
            again => format!("{name} {}", again + 1),
        };
        let id = self.labels.id("site_", AssetKind::Site, number as u64);
        self.plan.sites.push(Site { id, name });
        for _ in 0..self.rng.random_range(1..=4) {
            if self.is_incomplete() {
                self.add_building(number as u32);
            }
        }
    }

    fn add_building(&mut self, site: u32) {
        let number = self.plan.buildings.len();
        let id = self
            .labels
            .id("building_", AssetKind::Building, number as u64);
        let name = format!(
            "{} {}",
            names::BUILDINGS[number % names::BUILDINGS.len()],
            number + 1
        );
        let first = self.plan.floors.len() as u32;
        for level in 0..self.rng.random_range(3..=8) {
            if self.is_incomplete() {
                self.add_floor(number as u32, level);
            }
        }
        let floors = first..self.plan.floors.len() as u32;
        self.plan.buildings.push(Building {
            site,
            id,
            name,
            floors,
        });
    }

    fn add_floor(&mut self, building: u32, level: u32) {
        let number = self.plan.floors.len() as u32;
        let code = format!("B{:02}-L{level}", building + 1);
        let first = self.plan.rooms.len() as u32;
        let mut rows = [0.0; 2];
        for nth in 0..self.rng.random_range(6..=14) {
            if self.is_incomplete() {
                self.add_room(number, level, nth, &code, &mut rows);
            }
        }
        self.add_sensor(number, None, AssetKind::FloorDoor, u64::from(number));
        let door = self.plan.sensors.len() as u32 - 1;
        self.plan.floors.push(Floor {
            building,
            id: self
                .labels
                .id("space_", AssetKind::Floor, u64::from(number)),
            name: if level == 0 {
                "Ground Floor".to_owned()
            } else {
                format!("Level {level}")
            },
            custom_id: self
                .labels
                .custom_id(AssetKind::Floor, u64::from(number), code),
            rooms: first..self.plan.rooms.len() as u32,
            door,
            size: [rows[0].max(rows[1]), 2.0 * ROW_DEPTH + CORRIDOR],
        });
    }

    /// Adds the `nth` room of a floor at the end of one of its rows.
    fn add_room(&mut self, floor: u32, level: u32, nth: u32, code: &str, rows: &mut [f32; 2]) {
        let number = self.plan.rooms.len() as u32;
        let room_use = ROOM_USES[nth as usize % ROOM_USES.len()];
        let (people, square_metres, zones) = match room_use {
            RoomUse::Office => (6..=20, 6.0, 2..=4),
            RoomUse::Meeting => (4..=14, 2.5, 1..=2),
            RoomUse::Kitchen => (8..=16, 2.0, 1..=2),
            RoomUse::Restroom => (3..=5, 3.5, 1..=2),
            RoomUse::Lounge => (6..=14, 3.0, 1..=3),
            RoomUse::Booth => (1..=1, 12.0, 1..=1),
        };
        let capacity = self.rng.random_range(people);
        let zones = self.rng.random_range(zones);
        let name = names::room_name(room_use, self.rng.random_range(0..60), level, nth + 1);
        let period_ms = self.rng.random_range(333..=1000);
        let phase_ms = self.rng.random_range(0..period_ms);

        let row = (nth % 2) as usize;
        let left = rows[row];
        rows[row] += capacity as f32 * square_metres / ROW_DEPTH;
        let front = row as f32 * (ROW_DEPTH + CORRIDOR);
        let area = Rect {
            min: [left, front],
            max: [rows[row], front + ROW_DEPTH],
        };

        let code = format!("{code}-{:02}", nth + 1);
        let zones = self.add_zones(number, room_use, area, zones, &code);
        let sensors = self.add_presence_sensors(floor, number, area, period_ms, phase_ms);
        self.add_sensor(floor, Some(number), AssetKind::RoomDoor, u64::from(number));
        let door = self.plan.sensors.len() as u32 - 1;
        self.plan.rooms.push(Room {
            floor,
            id: self.labels.id("room_", AssetKind::Room, u64::from(number)),
            name,
            custom_id: self
                .labels
                .custom_id(AssetKind::Room, u64::from(number), code),
            room_use,
            area,
            capacity,
            zones,
            sensors,
            door,
        });
    }

    fn add_zones(
        &mut self,
        room: u32,
        room_use: RoomUse,
        area: Rect,
        count: u32,
        code: &str,
    ) -> Range<u32> {
        let first = self.plan.zones.len() as u32;
        area.divide(count, &mut |area| {
            let number = self.plan.zones.len() as u32;
            let letter = char::from(b'A' + (number - first) as u8);
            // Numbered within the room: the zones of earlier rooms must not matter.
            let place = u64::from(room) << 32 | u64::from(number - first);
            self.plan.zones.push(Zone {
                room,
                id: self.labels.id("zone_", AssetKind::Zone, place),
                name: format!("{} {letter}", names::zone_name(room_use)),
                custom_id: self.labels.custom_id(
                    AssetKind::Zone,
                    place,
                    format!("{code}-{letter}"),
                ),
                area,
            });
        });
        first..self.plan.zones.len() as u32
    }

    /// Adds the presence sensors of a room; they take turns within one period.
    fn add_presence_sensors(
        &mut self,
        floor: u32,
        room: u32,
        area: Rect,
        period_ms: u32,
        phase_ms: u32,
    ) -> Range<u32> {
        let first = self.plan.sensors.len() as u32;
        let share = |rooms: u32| (rooms as usize * self.target_sensors / self.target_rooms) as u32;
        let count = share(room + 1) - share(room);
        let mut nth = 0;
        if count > 0 {
            area.divide(count, &mut |area| {
                let place = u64::from(room) << 32 | u64::from(nth);
                let sensor = self.add_sensor(floor, Some(room), AssetKind::Presence, place);
                sensor.mode = SensorMode::Presence;
                sensor.area = area;
                sensor.period_ms = period_ms;
                sensor.phase_ms = (phase_ms + nth * period_ms / count) % period_ms;
                nth += 1;
            });
        }
        first..self.plan.sensors.len() as u32
    }

    /// Adds a sensor with the mode of a door.
    fn add_sensor(
        &mut self,
        floor: u32,
        room: Option<u32>,
        kind: AssetKind,
        number: u64,
    ) -> &mut Sensor {
        let hive = self.labels.hardware(AssetKind::Hive, u64::from(floor));
        let own = self.labels.hardware(kind, number);
        let [.., a, b, c, d, e] = own.to_be_bytes();
        let model = |hardware: u64, rarely: &str, mostly: &str| match hardware >> 62 {
            0 => rarely.to_owned(),
            _ => mostly.to_owned(),
        };
        self.plan.sensors.push(Sensor {
            floor,
            room,
            mode: SensorMode::Traffic,
            id: self.labels.id("", kind, number),
            mac_address: format!("00-17-0d-{a:02x}-{b:02x}-{c:02x}-{d:02x}-{e:02x}"),
            hive_id: self.labels.id("hive_", AssetKind::Hive, u64::from(floor)),
            hive_serial: format!("{hive:016x}"),
            sensor_model: model(own, "Heatic 2", "Heatic 2+"),
            hive_model: "2.0".to_owned(),
            hive_version: model(hive, "2.4.1", "2.4.4"),
            area: Rect::default(),
            period_ms: 0,
            phase_ms: 0,
        });
        self.plan.sensors.last_mut().expect("it was just added")
    }
}
