//! A few rooms whose people come and go, so that `dev` has something to show: all ten types, one event a request.
//!
//! Deliberately small: it neither repeats nor shuffles events.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::event::EventType;

const ROOMS: [&str; 3] = ["Quay Room", "Harbour Room", "Crane Room"];
const STEP: Duration = Duration::from_millis(500);

struct Room {
    name: &'static str,
    people: u32,
    moving: bool,
}

/// Sends events to `url` until the process ends; while the bridge does not answer, events are lost, as a sender's are.
pub fn run(url: &str) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(5)))
        .http_status_as_error(false)
        .build()
        .into();
    let mut random = Random::new();
    let mut rooms = ROOMS.map(|name| Room {
        name,
        people: 2,
        moving: true,
    });
    for step in 0_u64.. {
        let mut events = Vec::new();
        for (number, room) in rooms.iter_mut().enumerate() {
            live(room, number, step, &mut random, &mut events);
        }
        if step % 10 == 0 {
            let people: u32 = rooms.iter().map(|room| room.people).sum();
            events.push(event(
                EventType::FloorOccupancy,
                0,
                &rooms[0],
                json!(people),
                &mut random,
            ));
            events.push(event(
                EventType::FloorOccupancy1Min,
                0,
                &rooms[0],
                json!(people),
                &mut random,
            ));
        }
        for event in events {
            let _ = agent
                .post(url)
                .header("content-type", "application/json")
                .send(event.to_string());
        }
        std::thread::sleep(STEP);
    }
}

/// One step of a room: perhaps somebody comes or goes, and its sensors tell.
fn live(room: &mut Room, number: usize, step: u64, random: &mut Random, events: &mut Vec<Value>) {
    let mut tell = |event_type, room: &Room, data, random: &mut Random| {
        events.push(event(event_type, number, room, data, random));
    };
    let points = |random: &mut Random, scale: f64, people: u32| -> Vec<[f64; 2]> {
        let mut metre = || (random.below(8000) as f64 * scale).round() / 1000.0;
        (0..people).map(|_| [metre(), metre()]).collect()
    };
    let data = json!({
        "local": points(random, 0.125, room.people),
        "world": points(random, 1.0, room.people),
    });
    tell(EventType::Detections, room, data, random);
    if random.below(8) == 0 {
        let comes = room.people == 0 || (room.people < 9 && random.below(2) == 0);
        room.people = if comes {
            room.people + 1
        } else {
            room.people - 1
        };
        let data = json!({"in": u32::from(comes), "out": u32::from(!comes)});
        tell(EventType::Traffic, room, data, random);
    }
    if room.moving != (room.people > 0) {
        room.moving = !room.moving;
        let motion = match room.moving {
            true => EventType::PirMotion,
            false => EventType::PirNoMotion,
        };
        tell(motion, room, Value::Null, random);
    }
    if step % 10 == number as u64 {
        let desk = room.people.min(1);
        tell(EventType::RoomOccupancy, room, json!(room.people), random);
        tell(
            EventType::RoomOccupancy1Min,
            room,
            json!(room.people),
            random,
        );
        tell(EventType::ZoneOccupancy, room, json!(desk), random);
        tell(EventType::ZoneOccupancy1Min, room, json!(desk), random);
    }
}

fn event(
    event_type: EventType,
    number: usize,
    room: &Room,
    data: Value,
    random: &mut Random,
) -> Value {
    use EventType::*;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut metadata = json!({
        "org_id": "org_2pn2hw57pZIhZccwNV1MaqgF3dE",
        "site_id": "site_2p9TAcHP1m8N9Vo8eYw1YSp9Ib8",
        "building_id": "building_2pGW6S6Di8mNJrIzUrIiCQB1DOh",
        "floor_id": "space_2p9XmFRHOU30QKJlhnvrR22UFKs",
        "org_name": "Harbour Works", "site_name": "Rotterdam", "building_name": "Pier 4", "floor_name": "Level 2",
    });
    if !matches!(event_type, FloorOccupancy | FloorOccupancy1Min) {
        metadata["room_id"] = format!("room_2pEPJsoyqg4pCQfnO3NWMQTjHa{number}").into();
        metadata["room_name"] = room.name.into();
    }
    match event_type {
        ZoneOccupancy | ZoneOccupancy1Min => {
            metadata["zone_id"] = format!("zone_2pT5dq3TzOUCxhL5Vpzt1Bx0cH{number}").into();
            metadata["zone_name"] = "Desk 07".into();
        }
        Detections | Traffic | PirMotion | PirNoMotion => {
            metadata["hive_id"] = "hive_2puj3xhud0CSV2esogToVupdqpj".into();
            metadata["sensor_id"] = format!("2p0SS2sTKvCE32oqEvhdrIiDMT{number}").into();
            metadata["sensor_mode"] = if event_type == Traffic {
                "traffic"
            } else {
                "presence"
            }
            .into();
            metadata["sensor_model"] = "Heatic 2+".into();
        }
        _ => {}
    }
    let mut event = json!({
        "id": format!("event_{}", random.letters(27)),
        "type": event_type.name(),
        "timestamp": now.unwrap_or_default().as_millis() as u64,
        "version": "v1.0.0",
        "metadata": metadata,
    });
    if !data.is_null() {
        event["data"] = data;
    }
    event
}

/// Good enough for a demonstration: xorshift64*.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(now.unwrap_or_default().as_nanos() as u64 | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn letters(&mut self, length: usize) -> String {
        const BASE_62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        (0..length)
            .map(|_| char::from(BASE_62[self.below(62) as usize]))
            .collect()
    }
}
