//! The JSON of a message, with the fields and their order as in Butlr's documentation.
//!
//! The `metadata` of each place is rendered once. A message then costs a few copies and its own
//! numbers.

mod metadata;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use self::metadata::SpaceIds;
use super::city::plan::CityPlan;
use super::message::{
    CityMessage, CityPlace, DetectedPosition, EventFault, MessageData, PlannedDelivery,
};

/// Renders bodies. Holds about half a kilobyte for each floor, room, zone and sensor.
#[derive(Debug)]
pub struct PayloadRenderer {
    plan: Arc<CityPlan>,
    /// Rendered `metadata` of all places: floors, rooms, zones, sensors.
    metadata: Vec<u8>,
    /// End of each place's part of `metadata`.
    ends: Vec<usize>,
}

impl PayloadRenderer {
    /// A renderer for the messages of this plan.
    pub fn new(plan: Arc<CityPlan>) -> Self {
        let mut metadata = Vec::new();
        let mut ends = Vec::new();
        let count = |places: usize| 0..places as u32;
        let places = count(plan.floors.len())
            .map(CityPlace::Floor)
            .chain(count(plan.rooms.len()).map(CityPlace::Room))
            .chain(count(plan.zones.len()).map(CityPlace::Zone))
            .chain(count(plan.sensors.len()).map(CityPlace::Sensor));
        for place in places {
            metadata::write_metadata(&plan, place, SpaceIds::Include, &mut metadata);
            ends.push(metadata.len());
        }
        metadata.shrink_to_fit();
        Self {
            plan,
            metadata,
            ends,
        }
    }

    /// Appends the body of a delivery. Returns the range of the value of `data` in `body`; empty if
    /// there is none or the body is truncated.
    pub fn render(&self, delivery: &PlannedDelivery, body: &mut Vec<u8>) -> Range<usize> {
        let PlannedDelivery { message, fault, .. } = delivery;
        let fault = *fault;
        let begin = body.len();
        body.extend_from_slice(br#"{"id":"event_"#);
        message.id.write_to(body);
        body.extend_from_slice(br#"","type":""#);
        body.extend_from_slice(match fault {
            Some(EventFault::UnknownType) => b"AIR_QUALITY",
            _ => message.event_type.name().as_bytes(),
        });
        body.extend_from_slice(br#"","timestamp":"#);
        let quote: &[u8] = match fault {
            Some(EventFault::WrongTimestamp) => b"\"",
            _ => b"",
        };
        body.extend_from_slice(quote);
        write_integer(message.timestamp_ms, body);
        body.extend_from_slice(quote);
        body.extend_from_slice(match fault {
            Some(EventFault::NewerVersion) => br#","version":"v2.0.0","metadata":"#,
            _ => br#","version":"v1.0.0","metadata":"#,
        });
        match fault {
            Some(EventFault::NoSpace) => {
                metadata::write_metadata(&self.plan, message.place, SpaceIds::Omit, body)
            }
            _ => body.extend_from_slice(self.place_metadata(message.place)),
        }
        let data = write_data(&message.data, body);
        body.push(b'}');
        if fault == Some(EventFault::Truncated) {
            // Between the first byte and the last, at a position that the id decides.
            let length = body.len() - begin;
            let [.., last_byte] = *message.id.as_bytes();
            body.truncate(begin + 1 + (length - 2) * usize::from(last_byte) / 256);
            return body.len()..body.len();
        }
        data
    }

    /// Id of the space that the bridge assigns the message to: the record's key.
    pub fn space_id(&self, message: &CityMessage) -> &str {
        let plan = &*self.plan;
        match message.place {
            CityPlace::Floor(floor) => &plan.floors[floor as usize].id,
            CityPlace::Room(room) => &plan.rooms[room as usize].id,
            CityPlace::Zone(zone) => &plan.zones[zone as usize].id,
            CityPlace::Sensor(sensor) => {
                let sensor = &plan.sensors[sensor as usize];
                match sensor.room {
                    Some(room) => &plan.rooms[room as usize].id,
                    None => &plan.floors[sensor.floor as usize].id,
                }
            }
        }
    }

    fn place_metadata(&self, place: CityPlace) -> &[u8] {
        let plan = &*self.plan;
        let index = match place {
            CityPlace::Floor(floor) => floor as usize,
            CityPlace::Room(room) => plan.floors.len() + room as usize,
            CityPlace::Zone(zone) => plan.floors.len() + plan.rooms.len() + zone as usize,
            CityPlace::Sensor(sensor) => {
                plan.floors.len() + plan.rooms.len() + plan.zones.len() + sensor as usize
            }
        };
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.metadata[begin..self.ends[index]]
    }
}

/// Writes the comma, the name and the value of `data`, if any. Returns the range of the value.
fn write_data(data: &MessageData, body: &mut Vec<u8>) -> Range<usize> {
    if *data == MessageData::None {
        return body.len()..body.len();
    }
    body.extend_from_slice(br#","data":"#);
    let begin = body.len();
    match data {
        MessageData::None => {}
        MessageData::Occupancy(people) => write_integer(*people, body),
        MessageData::Traffic { entered, left } => {
            body.extend_from_slice(br#"{"in":"#);
            write_integer(*entered, body);
            body.extend_from_slice(br#","out":"#);
            write_integer(*left, body);
            body.push(b'}');
        }
        MessageData::Detections(people) => {
            body.extend_from_slice(br#"{"local":"#);
            write_points(people, |person| person.local, body);
            body.extend_from_slice(br#","world":"#);
            write_points(people, |person| person.world, body);
            body.push(b'}');
        }
    }
    begin..body.len()
}

fn write_points(
    people: &[DetectedPosition],
    point: fn(&DetectedPosition) -> [f32; 2],
    body: &mut Vec<u8>,
) {
    body.push(b'[');
    for (index, person) in people.iter().enumerate() {
        body.extend_from_slice(if index == 0 { b"[" } else { b",[" });
        let [x, y] = point(person);
        write_coordinate(x, body);
        body.push(b',');
        write_coordinate(y, body);
        body.push(b']');
    }
    body.push(b']');
}

/// Writes the shortest decimal number with this value. JSON has no numbers that are not finite.
fn write_coordinate(value: f32, body: &mut Vec<u8>) {
    debug_assert!(value.is_finite(), "coordinate {value} is not finite");
    let value = if value.is_finite() { value } else { 0.0 };
    body.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
}

fn write_integer(value: impl itoa::Integer, body: &mut Vec<u8>) {
    body.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}
