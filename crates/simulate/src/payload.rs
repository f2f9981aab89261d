//! The JSON that the sender makes of a message: the documentation's fields in the documentation's order.
//!
//! What a place says of itself is rendered once. A message then costs a few copies and its own numbers.

mod metadata;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use super::city::plan::Plan;
use super::message::{Data, Delivery, Fault, Message, Place, Position};

/// Writes bodies. Holds about half a kilobyte for each floor, room, zone and sensor.
#[derive(Debug)]
pub struct Renderer {
    plan: Arc<Plan>,
    /// The places' `metadata` one after the other: floors, rooms, zones, sensors.
    metadata: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Renderer {
    /// A renderer for the messages of this plan.
    pub fn new(plan: Arc<Plan>) -> Self {
        let mut metadata = Vec::new();
        let mut ends = Vec::new();
        let count = |places: usize| 0..places as u32;
        let places = count(plan.floors.len())
            .map(Place::Floor)
            .chain(count(plan.rooms.len()).map(Place::Room))
            .chain(count(plan.zones.len()).map(Place::Zone))
            .chain(count(plan.sensors.len()).map(Place::Sensor));
        for place in places {
            metadata::write(&plan, place, true, &mut metadata);
            ends.push(metadata.len());
        }
        metadata.shrink_to_fit();
        Self {
            plan,
            metadata,
            ends,
        }
    }

    /// Appends the delivery's body. Returns where in `body` the value of `data` stands: empty where there is none, or
    /// where the body is cut off.
    pub fn render(&self, delivery: &Delivery, body: &mut Vec<u8>) -> Range<usize> {
        let Delivery { message, fault, .. } = delivery;
        let fault = *fault;
        let begin = body.len();
        body.extend_from_slice(br#"{"id":"event_"#);
        message.id.write_to(body);
        body.extend_from_slice(br#"","type":""#);
        body.extend_from_slice(match fault {
            Some(Fault::UnknownType) => b"AIR_QUALITY",
            _ => message.event_type.name().as_bytes(),
        });
        body.extend_from_slice(br#"","timestamp":"#);
        let quote: &[u8] = match fault {
            Some(Fault::WrongTimestamp) => b"\"",
            _ => b"",
        };
        body.extend_from_slice(quote);
        write_integer(message.timestamp_ms, body);
        body.extend_from_slice(quote);
        body.extend_from_slice(match fault {
            Some(Fault::NewerVersion) => br#","version":"v2.0.0","metadata":"#,
            _ => br#","version":"v1.0.0","metadata":"#,
        });
        match fault {
            Some(Fault::NoSpace) => metadata::write(&self.plan, message.place, false, body),
            _ => body.extend_from_slice(self.metadata(message.place)),
        }
        let data = write_data(&message.data, body);
        body.push(b'}');
        if fault == Some(Fault::CutOff) {
            // Anywhere after the first byte and before the last, which one its id decides.
            let length = body.len() - begin;
            let [.., by] = *message.id.as_bytes();
            body.truncate(begin + 1 + (length - 2) * usize::from(by) / 256);
            return body.len()..body.len();
        }
        data
    }

    /// The space that the bridge takes the message to be about: its record's key.
    pub fn space_id(&self, message: &Message) -> &str {
        let plan = &*self.plan;
        match message.place {
            Place::Floor(floor) => &plan.floors[floor as usize].id,
            Place::Room(room) => &plan.rooms[room as usize].id,
            Place::Zone(zone) => &plan.zones[zone as usize].id,
            Place::Sensor(sensor) => {
                let sensor = &plan.sensors[sensor as usize];
                match sensor.room {
                    Some(room) => &plan.rooms[room as usize].id,
                    None => &plan.floors[sensor.floor as usize].id,
                }
            }
        }
    }

    fn metadata(&self, place: Place) -> &[u8] {
        let plan = &*self.plan;
        let number = match place {
            Place::Floor(floor) => floor as usize,
            Place::Room(room) => plan.floors.len() + room as usize,
            Place::Zone(zone) => plan.floors.len() + plan.rooms.len() + zone as usize,
            Place::Sensor(sensor) => {
                plan.floors.len() + plan.rooms.len() + plan.zones.len() + sensor as usize
            }
        };
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.metadata[begin..self.ends[number]]
    }
}

/// Writes `data` with its name and the comma before, if there is any. Returns where its value stands.
fn write_data(data: &Data, body: &mut Vec<u8>) -> Range<usize> {
    if *data == Data::None {
        return body.len()..body.len();
    }
    body.extend_from_slice(br#","data":"#);
    let begin = body.len();
    match data {
        Data::None => {}
        Data::Occupancy(people) => write_integer(*people, body),
        Data::Traffic { entered, left } => {
            body.extend_from_slice(br#"{"in":"#);
            write_integer(*entered, body);
            body.extend_from_slice(br#","out":"#);
            write_integer(*left, body);
            body.push(b'}');
        }
        Data::Detections(people) => {
            body.extend_from_slice(br#"{"local":"#);
            write_points(people, |person| person.local, body);
            body.extend_from_slice(br#","world":"#);
            write_points(people, |person| person.world, body);
            body.push(b'}');
        }
    }
    begin..body.len()
}

fn write_points(people: &[Position], point: fn(&Position) -> [f32; 2], body: &mut Vec<u8>) {
    body.push(b'[');
    for (number, person) in people.iter().enumerate() {
        body.extend_from_slice(if number == 0 { b"[" } else { b",[" });
        let [x, y] = point(person);
        write_coordinate(x, body);
        body.push(b',');
        write_coordinate(y, body);
        body.push(b']');
    }
    body.push(b']');
}

/// The shortest decimal number that is this one. (What is not finite is no number in JSON.)
fn write_coordinate(value: f32, body: &mut Vec<u8>) {
    debug_assert!(value.is_finite(), "a coordinate is {value}");
    let value = if value.is_finite() { value } else { 0.0 };
    body.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
}

fn write_integer(value: impl itoa::Integer, body: &mut Vec<u8>) {
    body.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}
