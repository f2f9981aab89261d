//! Messages of the simulated city, and their deliveries.

use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// One event as the city's computers produced it.
#[derive(Clone, Debug, PartialEq)]
pub struct CityMessage {
    /// Event type.
    pub event_type: EventType,
    /// Subject of the event: a floor, room, zone or sensor, depending on the type.
    pub place: CityPlace,
    /// Time of the reading by the sensor's clock, ms since 1970.
    pub timestamp_ms: i64,
    /// Simulated time of the computation, ms since 1970; its seconds are in the id.
    pub computed_ms: i64,
    /// Id without the prefix `event_`.
    pub id: Ksuid,
    /// Payload.
    pub data: MessageData,
    /// Relation to earlier computations of the same reading.
    pub computation: Computation,
}

/// Subject of a message, as an index into the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CityPlace {
    /// A floor.
    Floor(u32),
    /// A room.
    Room(u32),
    /// A zone.
    Zone(u32),
    /// A sensor, which belongs to a room or a floor.
    Sensor(u32),
}

/// Payload of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum MessageData {
    /// No data (PIR).
    None,
    /// Number of people in the space.
    Occupancy(u32),
    /// Number of people who entered and left since the previous message.
    Traffic {
        /// People who entered.
        entered: u32,
        /// People who left.
        left: u32,
    },
    /// Positions of people.
    Detections(Box<[DetectedPosition]>),
}

/// Position of a person as a sensor sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DetectedPosition {
    /// Position in metres from the floor plan's origin.
    pub world: [f32; 2],
    /// Position in the sensor's field of view, 0 to 1.
    pub local: [f32; 2],
}

/// Relation of a message to the previous computation of the same (type, space, timestamp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Computation {
    /// The first computation.
    First,
    /// A later computation with the same value.
    Repeat,
    /// A later computation with another value.
    Revision,
}

/// A message to be delivered at a given time.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedDelivery {
    /// Due time on the simulated clock, ms since 1970. Deliveries are sorted by it.
    pub due_ms: i64,
    /// Message to send.
    pub message: CityMessage,
    /// Kind under which the ledger counts it.
    pub kind: DeliveryKind,
    /// Fault of a delivery that is to be refused.
    pub fault: Option<EventFault>,
}

/// Kind of a delivery. Each has exactly one; where several apply, the later one in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeliveryKind {
    /// The first delivery of a reading.
    First,
    /// A later computation of a reading with the same value.
    Repeat,
    /// A later computation of a reading with another value.
    Revision,
    /// A value computed before the last delivered one but delivered after it, and different from
    /// it.
    Stale,
    /// A delivery that is minutes late.
    Late,
    /// The same event at the same moment over another connection.
    Overlapping,
    /// The same event again under the same id.
    Redelivery,
    /// An item that the bridge must reject.
    Invalid,
}

impl DeliveryKind {
    /// All kinds, in the column order of the ledger.
    pub const ALL: [DeliveryKind; 8] = [
        DeliveryKind::First,
        DeliveryKind::Repeat,
        DeliveryKind::Revision,
        DeliveryKind::Stale,
        DeliveryKind::Late,
        DeliveryKind::Overlapping,
        DeliveryKind::Redelivery,
        DeliveryKind::Invalid,
    ];

    /// Name in the summary.
    pub const fn name(self) -> &'static str {
        match self {
            DeliveryKind::First => "first",
            DeliveryKind::Repeat => "repeat",
            DeliveryKind::Revision => "revision",
            DeliveryKind::Stale => "stale",
            DeliveryKind::Late => "late",
            DeliveryKind::Overlapping => "overlapping",
            DeliveryKind::Redelivery => "redelivery",
            DeliveryKind::Invalid => "invalid",
        }
    }

    /// Returns `true` for a copy of an event that is sent under the same id.
    pub const fn is_copy(self) -> bool {
        matches!(self, DeliveryKind::Redelivery | DeliveryKind::Overlapping)
    }
}

/// Fault of an invalid item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventFault {
    /// The `version` is `v2.0.0`.
    NewerVersion,
    /// The type does not exist.
    UnknownType,
    /// The JSON is truncated.
    Truncated,
    /// The id of the space is missing.
    NoSpace,
    /// The `timestamp` is a string.
    WrongTimestamp,
}

impl EventFault {
    /// All faults.
    pub const ALL: [EventFault; 5] = [
        EventFault::NewerVersion,
        EventFault::UnknownType,
        EventFault::Truncated,
        EventFault::NoSpace,
        EventFault::WrongTimestamp,
    ];
}
