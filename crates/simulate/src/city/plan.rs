//! What the city is made of: who could be where, and what could sense them there.
//!
//! Everything refers to everything else by its index in the plan's lists; what belongs together stands together, so a
//! building's floors, a floor's rooms and a room's zones are ranges.

use std::ops::Range;

/// A city: one organisation with all that it has put sensors into. Grown by [`Plan::grow`], never changed after.
#[derive(Clone, Debug, PartialEq)]
pub struct CityPlan {
    /// `org_…`
    pub org_id: String,
    /// The organisation's name.
    pub org_name: String,
    /// Where buildings stand together.
    pub sites: Vec<Site>,
    /// In the order of their sites.
    pub buildings: Vec<Building>,
    /// In the order of their buildings.
    pub floors: Vec<Floor>,
    /// In the order of their floors.
    pub rooms: Vec<Room>,
    /// In the order of their rooms.
    pub zones: Vec<Zone>,
    /// Of each floor: its rooms' (presence, then the door), then its own door's.
    pub sensors: Vec<Sensor>,
}

/// How large a city is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CitySize {
    /// How many rooms, at least one.
    pub rooms: usize,
    /// How many presence sensors, spread evenly over the rooms; with fewer than rooms, some rooms have none and so
    /// neither DETECTIONS nor PIR. One a room unless told.
    pub sensors: Option<usize>,
}

/// A few buildings in one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// `site_…`
    pub id: String,
    /// Its name: a town.
    pub name: String,
}

/// A building.
#[derive(Clone, Debug, PartialEq)]
pub struct Building {
    /// Where it stands.
    pub site: u32,
    /// `building_…`
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its floors, from the ground up.
    pub floors: Range<u32>,
}

/// A floor. Whoever is on it is in one of its rooms.
#[derive(Clone, Debug, PartialEq)]
pub struct Floor {
    /// Whose floor it is.
    pub building: u32,
    /// `space_…`
    pub id: String,
    /// Its name.
    pub name: String,
    /// The customer's own id.
    pub custom_id: Option<String>,
    /// Its rooms.
    pub rooms: Range<u32>,
    /// The traffic sensor at its entrance.
    pub door: u32,
    /// Metres, from the floor plan's origin.
    pub size: [f32; 2],
}

/// A room.
#[derive(Clone, Debug, PartialEq)]
pub struct Room {
    /// Where it is.
    pub floor: u32,
    /// `room_…`
    pub id: String,
    /// Its name.
    pub name: String,
    /// The customer's own id.
    pub custom_id: Option<String>,
    /// What people do there.
    pub room_use: RoomUse,
    /// On the floor's plan, metres.
    pub area: Rect,
    /// More people never are in it.
    pub capacity: u32,
    /// Its zones; they cover it without overlap.
    pub zones: Range<u32>,
    /// Its presence sensors; their parts cover it without overlap. May be empty.
    pub sensors: Range<u32>,
    /// The traffic sensor at its door.
    pub door: u32,
}

/// What people do in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoomUse {
    /// Desks. Every floor has one such room.
    Office,
    /// Meetings, at half hours.
    Meeting,
    /// Coffee, and lunch for some.
    Kitchen,
    /// Short visits.
    Restroom,
    /// Sofas.
    Lounge,
    /// Calls, alone.
    Booth,
}

/// A part of a room.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Whose part it is.
    pub room: u32,
    /// `zone_…`
    pub id: String,
    /// Its name.
    pub name: String,
    /// The customer's own id.
    pub custom_id: Option<String>,
    /// On the floor's plan, metres.
    pub area: Rect,
}

/// A sensor on the ceiling.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensor {
    /// The floor that it is on.
    pub floor: u32,
    /// Its room; none for the sensor at a floor's entrance.
    pub room: Option<u32>,
    /// What it looks for.
    pub mode: SensorMode,
    /// Without a prefix.
    pub id: String,
    /// EUI-64, with dashes.
    pub mac_address: String,
    /// `hive_…`: the gateway, one a floor.
    pub hive_id: String,
    /// The gateway's, 16 hex digits.
    pub hive_serial: String,
    /// What it is sold as.
    pub sensor_model: String,
    /// What the gateway is sold as.
    pub hive_model: String,
    /// The gateway's software.
    pub hive_version: String,
    /// What it sees of the floor's plan, metres: its part of the room; nothing at doors.
    pub area: Rect,
    /// Presence: it reads every so often, 333 to 1000 ms; the same for all sensors of a room, with other phases, so that
    /// no two of them read at the same moment. 0 at doors.
    pub period_ms: u32,
    /// Presence: it reads whenever ms since 1970 modulo its period are this.
    pub phase_ms: u32,
}

/// What a sensor looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SensorMode {
    /// Who is where: DETECTIONS and PIR.
    Presence,
    /// Who comes and goes through a door: TRAFFIC.
    Traffic,
}

impl SensorMode {
    /// As it stands in events.
    pub const fn name(self) -> &'static str {
        match self {
            SensorMode::Presence => "presence",
            SensorMode::Traffic => "traffic",
        }
    }
}

/// A rectangle on a floor's plan, metres. A point on an edge belongs to the rectangle to the right or above.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rect {
    /// Its corner nearest to the origin.
    pub min: [f32; 2],
    /// The opposite one.
    pub max: [f32; 2],
}

impl Rect {
    /// How far it reaches along both axes.
    pub fn size(&self) -> [f32; 2] {
        [self.max[0] - self.min[0], self.max[1] - self.min[1]]
    }

    /// Whether a point lies in it.
    pub fn contains(&self, point: [f32; 2]) -> bool {
        (0..2).all(|axis| (self.min[axis]..self.max[axis]).contains(&point[axis]))
    }

    /// Cuts it into `count` parts of about the same size, always across the longer side, and hands them over in order.
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
