//! The plan of the city: sites, buildings, floors, rooms, zones and sensors.
//!
//! Assets refer to each other by index into the plan's lists. Related assets are adjacent, so the
//! floors of a building, the rooms of a floor and the zones of a room are ranges.

use std::ops::Range;

/// The plan of a city: one organisation with its buildings and sensors. Created by
/// [`CityPlan::generate`] and never changed afterwards.
#[derive(Clone, Debug, PartialEq)]
pub struct CityPlan {
    /// `org_…`
    pub org_id: String,
    /// Name of the organisation.
    pub org_name: String,
    /// All sites.
    pub sites: Vec<Site>,
    /// All buildings, in the order of their sites.
    pub buildings: Vec<Building>,
    /// All floors, in the order of their buildings.
    pub floors: Vec<Floor>,
    /// All rooms, in the order of their floors.
    pub rooms: Vec<Room>,
    /// All zones, in the order of their rooms.
    pub zones: Vec<Zone>,
    /// All sensors. Per floor: those of each room (presence, then the door), then that of its own
    /// door.
    pub sensors: Vec<Sensor>,
}

/// Size of a city to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CitySize {
    /// Number of rooms, at least one.
    pub rooms: usize,
    /// Number of presence sensors, spread evenly over the rooms; `None`: one per room. If there are
    /// fewer sensors than rooms, some rooms have none and report neither DETECTIONS nor PIR.
    pub sensors: Option<usize>,
}

/// A group of buildings in one town.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Id, `site_…`.
    pub id: String,
    /// Name, a town.
    pub name: String,
}

/// A building.
#[derive(Clone, Debug, PartialEq)]
pub struct Building {
    /// Index of its site.
    pub site: u32,
    /// Id, `building_…`.
    pub id: String,
    /// Name.
    pub name: String,
    /// Range of its floors, from the ground up.
    pub floors: Range<u32>,
}

/// A floor. Everyone on it is in one of its rooms.
#[derive(Clone, Debug, PartialEq)]
pub struct Floor {
    /// Index of its building.
    pub building: u32,
    /// Id, `space_…`.
    pub id: String,
    /// Name.
    pub name: String,
    /// Id given by the customer.
    pub custom_id: Option<String>,
    /// Range of its rooms.
    pub rooms: Range<u32>,
    /// Index of the traffic sensor at its entrance.
    pub door: u32,
    /// Extent in metres from the floor plan's origin.
    pub size: [f32; 2],
}

/// A room.
#[derive(Clone, Debug, PartialEq)]
pub struct Room {
    /// Index of its floor.
    pub floor: u32,
    /// Id, `room_…`.
    pub id: String,
    /// Name.
    pub name: String,
    /// Id given by the customer.
    pub custom_id: Option<String>,
    /// Use of the room.
    pub room_use: RoomUse,
    /// Area on the floor plan, in metres.
    pub area: Rect,
    /// Maximum number of people.
    pub capacity: u32,
    /// Range of its zones; they cover the room without overlap.
    pub zones: Range<u32>,
    /// Range of its presence sensors, possibly empty; their areas cover the room without overlap.
    pub sensors: Range<u32>,
    /// Index of the traffic sensor at its door.
    pub door: u32,
}

/// Use of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoomUse {
    /// Desks. Every floor has at least one office.
    Office,
    /// Meetings, on the half hour.
    Meeting,
    /// Coffee, and lunch for some.
    Kitchen,
    /// Short visits.
    Restroom,
    /// Sofas.
    Lounge,
    /// Calls by one person.
    Booth,
}

/// A part of a room.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Index of its room.
    pub room: u32,
    /// Id, `zone_…`.
    pub id: String,
    /// Name.
    pub name: String,
    /// Id given by the customer.
    pub custom_id: Option<String>,
    /// Area on the floor plan, in metres.
    pub area: Rect,
}

/// A sensor on the ceiling.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensor {
    /// Index of its floor.
    pub floor: u32,
    /// Index of its room; `None` for the sensor at a floor's entrance.
    pub room: Option<u32>,
    /// Mode of operation.
    pub mode: SensorMode,
    /// Id, without a prefix.
    pub id: String,
    /// EUI-64 with dashes.
    pub mac_address: String,
    /// Id of the gateway, `hive_…`; each floor has one gateway.
    pub hive_id: String,
    /// Serial number of the gateway, 16 hex digits.
    pub hive_serial: String,
    /// Product name of the sensor.
    pub sensor_model: String,
    /// Product name of the gateway.
    pub hive_model: String,
    /// Software version of the gateway.
    pub hive_version: String,
    /// Field of view on the floor plan, in metres: its part of the room; empty at doors.
    pub area: Rect,
    /// Interval between readings of a presence sensor, 333 to 1000 ms; 0 at doors. All sensors of a
    /// room have the same period and different phases, so no two of them read at the same moment.
    pub period_ms: u32,
    /// Phase of a presence sensor: it reads when ms since 1970, modulo its period, equal this.
    pub phase_ms: u32,
}

/// Mode of a sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SensorMode {
    /// Senses where people are: DETECTIONS and PIR.
    Presence,
    /// Counts people at a door: TRAFFIC.
    Traffic,
}

impl SensorMode {
    /// Name in events.
    pub const fn name(self) -> &'static str {
        match self {
            SensorMode::Presence => "presence",
            SensorMode::Traffic => "traffic",
        }
    }
}

/// A rectangle on a floor plan, in metres. A point on an edge belongs to the rectangle to its right
/// or above it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rect {
    /// Corner nearest to the origin.
    pub min: [f32; 2],
    /// Opposite corner.
    pub max: [f32; 2],
}

impl Rect {
    /// Extent along both axes.
    pub fn size(&self) -> [f32; 2] {
        [self.max[0] - self.min[0], self.max[1] - self.min[1]]
    }

    /// Returns `true` if a point lies in the rectangle.
    pub fn contains(&self, point: [f32; 2]) -> bool {
        (0..2).all(|axis| (self.min[axis]..self.max[axis]).contains(&point[axis]))
    }

    /// Divides the rectangle into `count` parts of about the same size, always across the longer
    /// side, and passes them to `part` in order.
    pub fn divide(&self, count: u32, part: &mut impl FnMut(Rect)) {
        if count <= 1 {
            return part(*self);
        }
        let first = count / 2;
        let [width, depth] = self.size();
        let axis = usize::from(depth > width);
        let cut = self.min[axis] + self.size()[axis] * (first as f32 / count as f32);
        let (mut low, mut high) = (*self, *self);
        low.max[axis] = cut;
        high.min[axis] = cut;
        low.divide(first, part);
        high.divide(count - first, part);
    }
}
