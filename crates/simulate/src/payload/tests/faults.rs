//! Invalid items are refused, and nothing else is.

use super::*;
use crate::city::{CityBehaviour, CitySimulation, CitySize};
use crate::stream::{DeliveryStream, SenderBehaviour};

/// Each fault is refused, and for that fault alone.
#[test]
fn each_fault_has_its_error() {
    let renderer = PayloadRenderer::new(Arc::new(quay_plan()));
    for event_type in EventType::ALL {
        for fault in EventFault::ALL {
            let mut delivery = sample(event_type);
            delivery.fault = Some(fault);
            let mut body = Vec::new();
            renderer.render(&delivery, &mut body);
            let error = |pointer: &str, code| Ok(Err(vec![(pointer.to_owned(), code)]));
            let space = renderer.space_id(&delivery.message);
            let expected = match fault {
                EventFault::NewerVersion => error("/version", FieldErrorCode::UnsupportedVersion),
                EventFault::UnknownType => error("/type", FieldErrorCode::UnknownType),
                EventFault::Truncated => Err(UnreadableBodyCode::NotJson),
                EventFault::NoSpace => {
                    assert!(!String::from_utf8_lossy(&body).contains(space));
                    let missing = match delivery.message.place {
                        CityPlace::Zone(_) => "/metadata/zone_id",
                        CityPlace::Room(_) => "/metadata/room_id",
                        _ if delivery.message.data == MessageData::None => "/metadata/room_id",
                        // Either id would do, so the bridge names the wider space.
                        _ => "/metadata/floor_id",
                    };
                    error(missing, FieldErrorCode::Missing)
                }
                EventFault::WrongTimestamp => error("/timestamp", FieldErrorCode::WrongType),
            };
            let parsed = parse_body(&body);
            assert_eq!(parsed, expected, "{}", String::from_utf8_lossy(&body));
        }
    }
}

/// A truncated body is never valid JSON and never complete, even if the cut is within a character.
#[test]
fn a_body_can_be_cut_anywhere() {
    let mut plan = quay_plan();
    plan.rooms[0].name = "会議室".repeat(20);
    let renderer = PayloadRenderer::new(Arc::new(plan));
    let mut delivery = sample(EventType::RoomOccupancy);
    let whole = render(&renderer, &delivery);
    delivery.fault = Some(EventFault::Truncated);
    let mut lengths = Vec::new();
    for last in 0..=255 {
        let mut bytes = *delivery.message.id.as_bytes();
        bytes[19] = last;
        delivery.message.id = Ksuid::from_bytes(bytes);
        let mut body = b"before".to_vec();
        let data = renderer.render(&delivery, &mut body);
        assert!(data.is_empty() && data.end == body.len());
        assert!(parse_body(&body[6..]).is_err(), "{last}");
        lengths.push(body.len() - 6);
    }
    assert_eq!(lengths[0], 1);
    assert!((whole.len() - 8..whole.len()).contains(&lengths[255]));
}

#[test]
fn all_events_of_a_city_except_faults_are_accepted() {
    let size = CitySize {
        rooms: 40,
        sensors: None,
    };
    let plan = Arc::new(CityPlan::generate(3, size));
    let renderer = PayloadRenderer::new(plan.clone());
    let behaviour = SenderBehaviour {
        invalid: 0.1,
        ..SenderBehaviour::default()
    };
    let stream = |types| {
        let city_behaviour = CityBehaviour {
            types,
            ..CityBehaviour::default()
        };
        let city = CitySimulation::new(plan.clone(), 3, 1_727_690_400_000, city_behaviour);
        DeliveryStream::new(city, 3, behaviour)
    };
    let all = stream([true; EventType::ALL.len()]).take(10_000);
    // It takes a while until a room is empty again.
    use EventType::{PirMotion, PirNoMotion, Traffic};
    let moves = EventType::ALL.map(|each| matches!(each, Traffic | PirMotion | PirNoMotion));
    let moves = stream(moves).take(1_000);
    let mut seen = [0; EventType::ALL.len()];
    let mut refused = 0;
    for delivery in all.chain(moves) {
        let mut body = Vec::new();
        renderer.render(&delivery, &mut body);
        let parsed = parse_body(&body);
        if delivery.fault.is_some() {
            assert!(!matches!(parsed, Ok(Ok(_))), "{delivery:?}");
            refused += 1;
            continue;
        }
        let space = renderer.space_id(&delivery.message).to_owned();
        assert_eq!(parsed, Ok(Ok(space)), "{delivery:?}");
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["type"], delivery.message.event_type.name());
        assert_eq!(value["timestamp"], delivery.message.timestamp_ms);
        let id = value["id"].as_str().unwrap().strip_prefix("event_");
        assert_eq!(Ksuid::parse(id.unwrap()), Some(delivery.message.id));
        seen[delivery.message.event_type.index()] += 1;
    }
    assert!(
        refused > 0 && seen.iter().all(|&times| times > 0),
        "{seen:?}"
    );
}
