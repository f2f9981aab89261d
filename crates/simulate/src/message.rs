//! What the sender computes and delivers.

use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// One event as the sender computed it.
#[derive(Clone, Debug, PartialEq)]
pub struct CityMessage {
    /// Its type.
    pub event_type: EventType,
    /// Whom it is about: an index into the plan's floors, rooms, zones or sensors, whichever the type is about.
    pub place: CityPlace,
    /// The moment of sensing as the sensor's clock has it, ms since 1970.
    pub timestamp_ms: i64,
    /// The simulated moment at which the sender computed it, ms since 1970; its id's seconds.
    pub computed_ms: i64,
    /// Its id, without the prefix `event_`.
    pub id: Ksuid,
    /// What it tells.
    pub data: MessageData,
    /// Which computation of its reading it is.
    pub computation: Computation,
}

/// Whom a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CityPlace {
    /// A floor of the plan.
    Floor(u32),
    /// A room of the plan.
    Room(u32),
    /// A zone of the plan.
    Zone(u32),
    /// A sensor of the plan; it knows its room or floor.
    Sensor(u32),
}

/// What a message tells.
#[derive(Clone, Debug, PartialEq)]
pub enum MessageData {
    /// PIR: that it came is all.
    None,
    /// How many people are there.
    Occupancy(u32),
    /// How many came in and went out since the message before.
    Traffic {
        /// Came in.
        entered: u32,
        /// Went out.
        left: u32,
    },
    /// Where people are.
    Detections(Box<[DetectedPosition]>),
}

/// A person as a sensor sees them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DetectedPosition {
    /// Metres from the floor plan's origin.
    pub world: [f32; 2],
    /// In the sensor's field of view, 0 to 1.
    pub local: [f32; 2],
}

/// Which computation of a (type, space, timestamp) a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Computation {
    /// The first.
    First,
    /// A later one, with the value of the one before.
    Repeat,
    /// A later one, with another value.
    Revision,
}

/// A message on its way out: what is to be sent, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedDelivery {
    /// When it is due on the simulated clock, ms since 1970. Deliveries come in this order.
    pub due_ms: i64,
    /// What is sent.
    pub message: CityMessage,
    /// What the ledger counts it as.
    pub kind: DeliveryKind,
    /// What is wrong with it, where it is to be refused.
    pub fault: Option<EventFault>,
}

/// What a delivery is, each exactly one; where several fit, the later in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeliveryKind {
    /// A reading that was not sent before.
    First,
    /// Computed again, with the same value.
    Repeat,
    /// Computed again, with another value.
    Revision,
    /// Computed before what was delivered last, and delivered after it, with another value.
    Stale,
    /// Minutes late.
    Late,
    /// The very event at the same moment, over another connection.
    Overlapping,
    /// The very event once more, under the same id.
    Redelivery,
    /// Not what the bridge takes.
    Invalid,
}

/// What can be wrong with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventFault {
    /// `version` is `v2.0.0`.
    NewerVersion,
    /// A type that does not exist yet.
    UnknownType,
    /// JSON that ends in the middle.
    CutOff,
    /// Without its space's id.
    NoSpace,
    /// `timestamp` is text.
    WrongTimestamp,
}

impl EventFault {
    /// Every one.
    pub const ALL: [EventFault; 5] = [
        EventFault::NewerVersion,
        EventFault::UnknownType,
        EventFault::CutOff,
        EventFault::NoSpace,
        EventFault::WrongTimestamp,
    ];
}
