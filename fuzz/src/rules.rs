//! The basic rules of a valid event, as the documentation states them.

use std::ops::BitAnd;

use crate::json::JsonTree;

/// The result of a rule. A double has lost its digits, so some rules cannot be decided on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ruling {
    Valid,
    Invalid,
    Unknown,
}

impl Ruling {
    fn when(valid: bool) -> Self {
        if valid {
            Ruling::Valid
        } else {
            Ruling::Invalid
        }
    }
}

/// Both rules hold.
impl BitAnd for Ruling {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        match (self, other) {
            (Ruling::Invalid, _) | (_, Ruling::Invalid) => Ruling::Invalid,
            (Ruling::Unknown, _) | (_, Ruling::Unknown) => Ruling::Unknown,
            (Ruling::Valid, Ruling::Valid) => Ruling::Valid,
        }
    }
}

/// Every documented field of `metadata`.
const METADATA: [&str; 23] = [
    "building_id",
    "building_name",
    "floor_custom_id",
    "floor_id",
    "floor_name",
    "hive_id",
    "hive_model",
    "hive_serial",
    "hive_version",
    "mac_address",
    "org_id",
    "org_name",
    "room_custom_id",
    "room_id",
    "room_name",
    "sensor_id",
    "sensor_mode",
    "sensor_model",
    "site_id",
    "site_name",
    "zone_custom_id",
    "zone_id",
    "zone_name",
];

/// 9999-12-31T23:59:59.999Z.
const LATEST: i128 = 253_402_300_799_999;

/// The largest integer that a double holds exactly, together with its neighbours.
const LARGEST_COUNT: i128 = (1 << 53) - 1;

/// Applies every rule to one event.
pub fn event(event: &JsonTree) -> Ruling {
    if !matches!(event, JsonTree::Object(_)) {
        return Ruling::Invalid;
    }
    let is_known = |kind: &JsonTree| Ruling::when(spelled(kind).is_some());
    let (Ruling::Valid, Some(kind)) = required(event, "type", is_known) else {
        return Ruling::Invalid;
    };
    let kind = spelled(kind).unwrap_or_default();
    required(event, "id", |id| Ruling::when(is_id(id))).0
        & required(event, "timestamp", |at| whole(at, LATEST)).0
        & required(event, "version", |version| {
            Ruling::when(is_version(version))
        })
        .0
        & required(event, "metadata", |places| metadata(places, &kind)).0
        & data(event, &kind)
}

/// Applies `rule` to a field that must be there exactly once.
fn required<'a>(
    object: &'a JsonTree,
    key: &'a str,
    rule: impl Fn(&JsonTree) -> Ruling,
) -> (Ruling, Option<&'a JsonTree>) {
    let mut values = object.values(key);
    match (values.next(), values.next()) {
        (Some(value), None) => (rule(value), Some(value)),
        _ => (Ruling::Invalid, None),
    }
}

/// Returns the type in capitals and with the long ending.
fn spelled(kind: &JsonTree) -> Option<String> {
    let JsonTree::Text(kind) = kind else {
        return None;
    };
    let is_mixed = kind.contains(char::is_lowercase) && kind.contains(char::is_uppercase);
    let mut name = kind.to_ascii_uppercase();
    if name.ends_with("_1M") {
        name.push_str("IN");
    }
    let known = match name.strip_suffix("_1MIN").unwrap_or(&name) {
        "FLOOR_OCCUPANCY" | "ROOM_OCCUPANCY" | "ZONE_OCCUPANCY" => true,
        "DETECTIONS" | "TRAFFIC" | "PIR_MOTION" | "PIR_NO_MOTION" => !name.ends_with("_1MIN"),
        _ => false,
    };
    (known && !is_mixed).then_some(name)
}

fn is_id(id: &JsonTree) -> bool {
    match id {
        JsonTree::Text(id) => (1..=256).contains(&id.len()) && !id.chars().any(char::is_control),
        _ => false,
    }
}

fn is_version(version: &JsonTree) -> bool {
    let JsonTree::Text(version) = version else {
        return false;
    };
    let mut parts = version.split('.');
    let is_digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    parts.next() == Some("v1") && parts.clone().count() <= 2 && parts.all(is_digits)
}

fn whole(number: &JsonTree, max: i128) -> Ruling {
    match number {
        JsonTree::Integer(number) => Ruling::when((0..=max).contains(number)),
        JsonTree::Double(_) => Ruling::Unknown,
        _ => Ruling::Invalid,
    }
}

fn metadata(places: &JsonTree, kind: &str) -> Ruling {
    if !matches!(places, JsonTree::Object(_)) {
        return Ruling::Invalid;
    }
    let texts = METADATA.iter().all(|name| {
        let mut values = places.values(name);
        matches!(
            values.next(),
            None | Some(JsonTree::Null | JsonTree::Text(_))
        ) && values.next().is_none()
    });
    let has_room =
        matches!(places.values("room_id").next(), Some(value) if !matches!(value, JsonTree::Null));
    let space = match kind {
        "DETECTIONS" | "TRAFFIC" if has_room => "room_id",
        "DETECTIONS" | "TRAFFIC" => "floor_id",
        _ if kind.starts_with("FLOOR") => "floor_id",
        _ if kind.starts_with("ZONE") => "zone_id",
        _ => "room_id",
    };
    Ruling::when(texts && places.values(space).next().is_some_and(is_id))
}

fn data(event: &JsonTree, kind: &str) -> Ruling {
    match kind {
        "PIR_MOTION" | "PIR_NO_MOTION" => {
            let mut values = event.values("data");
            let fits = matches!(
                values.next(),
                None | Some(JsonTree::Null | JsonTree::Object(_))
            );
            Ruling::when(fits && values.next().is_none())
        }
        "TRAFFIC" => {
            let count = |count: &JsonTree| whole(count, LARGEST_COUNT);
            required(event, "data", |data| {
                required(data, "in", count).0 & required(data, "out", count).0
            })
            .0
        }
        "DETECTIONS" => {
            let points = |points: &JsonTree| Ruling::when(is_points(points));
            required(event, "data", |data| {
                required(data, "local", points).0 & required(data, "world", points).0
            })
            .0
        }
        _ => required(event, "data", |data| whole(data, LARGEST_COUNT)).0,
    }
}

fn is_points(points: &JsonTree) -> bool {
    let is_number =
        |number: &JsonTree| matches!(number, JsonTree::Integer(_) | JsonTree::Double(_));
    let is_point = |point: &JsonTree| match point {
        JsonTree::Array(pair) => pair.len() == 2 && pair.iter().all(is_number),
        _ => false,
    };
    matches!(points, JsonTree::Array(points) if points.iter().all(is_point))
}
