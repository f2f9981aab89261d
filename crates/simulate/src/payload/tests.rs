mod faults;

use proptest::prelude::*;
use serde_json::Value;

use super::super::city::plan::{
    Building, Floor, Rect, Room, RoomUse, Sensor, SensorMode, Site, Zone,
};
use super::super::message::{Computation, DeliveryKind};
use super::*;
use butlr_event::ksuid::Ksuid;
use butlr_event::{
    EventType, FieldErrorCode, ParseLimits, ParsedBody, RejectedItem, UnreadableBodyCode,
};

/// The samples of Butlr's documentation, in the order of [`EventType::ALL`].
const SAMPLES: [&str; 10] = [
    include_str!("../../../../tests/events/detections.json"),
    include_str!("../../../../tests/events/traffic.json"),
    include_str!("../../../../tests/events/floor_occupancy.json"),
    include_str!("../../../../tests/events/floor_occupancy_1min.json"),
    include_str!("../../../../tests/events/room_occupancy.json"),
    include_str!("../../../../tests/events/room_occupancy_1min.json"),
    include_str!("../../../../tests/events/zone_occupancy.json"),
    include_str!("../../../../tests/events/zone_occupancy_1min.json"),
    include_str!("../../../../tests/events/pir_motion.json"),
    include_str!("../../../../tests/events/pir_no_motion.json"),
];

/// A plan with the room of the samples and a floor entrance.
fn quay_plan() -> CityPlan {
    let area = Rect::default();
    let sensor = |room, mode| Sensor {
        floor: 0,
        room,
        mode,
        id: "2p0SS2sTKvCE32oqEvhdrIiDMTi".into(),
        mac_address: "00-17-0d-00-00-5e-19-c4".into(),
        hive_id: "hive_2puj3xhud0CSV2esogToVupdqpj".into(),
        hive_serial: "3f19c02be77d4a51".into(),
        sensor_model: "Heatic 2+".into(),
        hive_model: "2.0".into(),
        hive_version: "2.4.4".into(),
        area,
        period_ms: 0,
        phase_ms: 0,
    };
    CityPlan {
        org_id: "org_2pn2hw57pZIhZccwNV1MaqgF3dE".into(),
        org_name: "Harbour Works".into(),
        sites: vec![Site {
            id: "site_2p9TAcHP1m8N9Vo8eYw1YSp9Ib8".into(),
            name: "Rotterdam".into(),
        }],
        buildings: vec![Building {
            site: 0,
            id: "building_2pGW6S6Di8mNJrIzUrIiCQB1DOh".into(),
            name: "Pier 4".into(),
            floors: 0..1,
        }],
        floors: vec![Floor {
            building: 0,
            id: "space_2p9XmFRHOU30QKJlhnvrR22UFKs".into(),
            name: "Level 2".into(),
            custom_id: Some("L2".into()),
            rooms: 0..1,
            door: 2,
            size: [100.0, 50.0],
        }],
        rooms: vec![Room {
            floor: 0,
            id: "room_2pEPJsoyqg4pCQfnO3NWMQTjHa2".into(),
            name: "Quay Room".into(),
            custom_id: Some("P4-L2-QR".into()),
            room_use: RoomUse::Meeting,
            area,
            capacity: 8,
            zones: 0..1,
            sensors: 0..1,
            door: 1,
        }],
        zones: vec![Zone {
            room: 0,
            id: "zone_2pT5dq3TzOUCxhL5Vpzt1Bx0cHm".into(),
            name: "Desk 07".into(),
            custom_id: Some("P4-L2-D07".into()),
            area,
        }],
        sensors: vec![
            sensor(Some(0), SensorMode::Presence),
            sensor(Some(0), SensorMode::Traffic),
            sensor(None, SensorMode::Traffic),
        ],
    }
}

/// Place and data of the sample of a type.
fn sample_data(event_type: EventType) -> (CityPlace, MessageData) {
    use EventType::*;
    let position = |world, local| DetectedPosition { world, local };
    match event_type {
        Detections => (
            CityPlace::Sensor(0),
            MessageData::Detections(Box::new([
                position([85.694, 27.829], [0.5625, 0.125]),
                position([87.439, 28.577], [0.75, 0.5625]),
            ])),
        ),
        Traffic => (
            CityPlace::Sensor(1),
            MessageData::Traffic {
                entered: 0,
                left: 1,
            },
        ),
        FloorOccupancy | FloorOccupancy1Min => (CityPlace::Floor(0), MessageData::Occupancy(25)),
        RoomOccupancy | RoomOccupancy1Min => (CityPlace::Room(0), MessageData::Occupancy(4)),
        ZoneOccupancy | ZoneOccupancy1Min => (CityPlace::Zone(0), MessageData::Occupancy(1)),
        PirMotion | PirNoMotion => (CityPlace::Sensor(0), MessageData::None),
    }
}

fn delivery(event_type: EventType, place: CityPlace, data: MessageData) -> PlannedDelivery {
    let sample: Value = serde_json::from_str(SAMPLES[event_type.index()]).unwrap();
    let id = sample["id"].as_str().unwrap().strip_prefix("event_");
    let id = Ksuid::parse(id.unwrap()).expect("the ids of the samples are KSUIDs");
    PlannedDelivery {
        due_ms: 0,
        message: CityMessage {
            event_type,
            place,
            timestamp_ms: 1_727_735_832_000,
            computed_ms: id.seconds() * 1000,
            id,
            data,
            computation: Computation::First,
        },
        kind: DeliveryKind::First,
        fault: None,
    }
}

fn sample(event_type: EventType) -> PlannedDelivery {
    let (place, data) = sample_data(event_type);
    delivery(event_type, place, data)
}

fn render(renderer: &PayloadRenderer, delivery: &PlannedDelivery) -> String {
    let mut body = Vec::new();
    renderer.render(delivery, &mut body);
    String::from_utf8(body).unwrap()
}

/// Result of the bridge's parser: the space, or the errors.
fn parse_body(
    body: &[u8],
) -> Result<Result<String, Vec<(String, FieldErrorCode)>>, UnreadableBodyCode> {
    let limits = ParseLimits {
        max_events: 1,
        max_event_bytes: 256 << 10,
    };
    match butlr_event::parse(body, None, limits).map_err(|unreadable| unreadable.code)? {
        ParsedBody::Single(Ok(event)) => Ok(Ok(event.space_id().to_owned())),
        ParsedBody::Single(Err(RejectedItem::Invalid { errors, .. })) => Ok(Err(errors
            .into_iter()
            .map(|error| (error.pointer, error.code))
            .collect())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bodies_are_those_of_the_documentation_byte_for_byte() {
    let renderer = PayloadRenderer::new(Arc::new(quay_plan()));
    for event_type in EventType::ALL {
        let compact: String = SAMPLES[event_type.index()]
            .lines()
            .map(str::trim)
            .collect::<String>()
            .replace("\": ", "\":")
            // The plan has a resolution of millimetres.
            .replace("85.694195,27.829299", "85.694,27.829")
            .replace("87.439295,28.577199", "87.439,28.577");
        assert_eq!(render(&renderer, &sample(event_type)), compact);
    }
}

#[test]
fn a_body_is_appended_and_its_data_range_is_returned() {
    let renderer = PayloadRenderer::new(Arc::new(quay_plan()));
    for event_type in EventType::ALL {
        let mut body = b"before".to_vec();
        let data = renderer.render(&sample(event_type), &mut body);
        assert!(body.starts_with(br#"before{"id":"#));
        let value: Value = serde_json::from_slice(&body[6..]).unwrap();
        match value.get("data") {
            None => assert!(data.is_empty()),
            Some(expected) => {
                let data: Value = serde_json::from_slice(&body[data]).unwrap();
                assert_eq!(data, *expected);
            }
        }
    }
}

#[test]
fn a_floors_entrance_has_no_room() {
    let renderer = PayloadRenderer::new(Arc::new(quay_plan()));
    let traffic = MessageData::Traffic {
        entered: 3,
        left: 0,
    };
    let delivery = delivery(EventType::Traffic, CityPlace::Sensor(2), traffic);
    let body = render(&renderer, &delivery);
    assert!(!body.contains("room_"), "{body}");
    let space = renderer.space_id(&delivery.message);
    assert_eq!(space, "space_2p9XmFRHOU30QKJlhnvrR22UFKs");
    assert_eq!(parse_body(body.as_bytes()), Ok(Ok(space.to_owned())));
}

#[test]
fn custom_ids_are_written_only_if_set() {
    let mut plan = quay_plan();
    plan.floors[0].custom_id = None;
    plan.rooms[0].custom_id = None;
    plan.zones[0].custom_id = None;
    let renderer = PayloadRenderer::new(Arc::new(plan));
    for event_type in EventType::ALL {
        let body = render(&renderer, &sample(event_type));
        assert!(!body.contains("custom_id"), "{body}");
        assert!(matches!(parse_body(body.as_bytes()), Ok(Ok(_))), "{body}");
    }
}

#[test]
fn empty_detections() {
    let renderer = PayloadRenderer::new(Arc::new(quay_plan()));
    let nobody = MessageData::Detections(Box::default());
    let body = render(
        &renderer,
        &delivery(EventType::Detections, CityPlace::Sensor(0), nobody),
    );
    assert!(
        body.ends_with(r#","data":{"local":[],"world":[]}}"#),
        "{body}"
    );
    assert!(matches!(parse_body(body.as_bytes()), Ok(Ok(_))), "{body}");
}

proptest! {
    #[test]
    fn any_name_and_number_is_accepted(
        names in prop::array::uniform4("\\PC*|[\\x00-\\x1f\"\\\\/\u{2028}]*"),
        custom_id in prop::option::of(".*"),
        points in prop::collection::vec(prop::array::uniform4(prop::num::f32::NORMAL | prop::num::f32::ZERO), 0..5),
        people: u32,
        left: u32,
        timestamp_ms in 0..=butlr_event::MAX_TIMESTAMP_MS,
    ) {
        let mut plan = quay_plan();
        let [building, floor, room, zone] = names;
        plan.buildings[0].name.clone_from(&building);
        plan.floors[0].name = floor;
        plan.rooms[0].name.clone_from(&room);
        plan.zones[0].name = zone;
        plan.rooms[0].custom_id.clone_from(&custom_id);
        let renderer = PayloadRenderer::new(Arc::new(plan));
        for event_type in EventType::ALL {
            let (place, data) = sample_data(event_type);
            let data = match data {
                MessageData::Occupancy(_) => MessageData::Occupancy(people),
                MessageData::Traffic { .. } => MessageData::Traffic { entered: people, left },
                MessageData::Detections(_) => MessageData::Detections(
                    points
                        .iter()
                        .map(|&[a, b, c, d]| DetectedPosition { world: [a, b], local: [c, d] })
                        .collect(),
                ),
                MessageData::None => MessageData::None,
            };
            let mut delivery = delivery(event_type, place, data.clone());
            delivery.message.timestamp_ms = timestamp_ms;
            let body = render(&renderer, &delivery);
            let space = renderer.space_id(&delivery.message).to_owned();
            prop_assert_eq!(parse_body(body.as_bytes()), Ok(Ok(space)), "{}", body);
            let value: Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(&value["timestamp"], timestamp_ms);
            prop_assert_eq!(value["metadata"]["building_name"].as_str(), Some(&*building));
            if !matches!(place, CityPlace::Floor(_)) {
                prop_assert_eq!(value["metadata"]["room_name"].as_str(), Some(&*room));
                prop_assert_eq!(value["metadata"]["room_custom_id"].as_str(), custom_id.as_deref());
            }
            if let MessageData::Detections(people) = data {
                for (index, person) in people.iter().enumerate() {
                    let read = value["data"]["world"][index][0].as_f64().unwrap() as f32;
                    prop_assert_eq!(read, person.world[0]);
                    let read = value["data"]["local"][index][1].as_f64().unwrap() as f32;
                    prop_assert_eq!(read, person.local[1]);
                }
            }
        }
    }
}
