//! A city of buildings, people and sensors, and the messages computed from what the sensors see.
//!
//! ```text
//!  CityPlan::generate       plan plan_generator labels names   buildings, rooms, zones and sensors
//!        │
//!  CitySimulation::advance  people        agenda: one pending activity per person
//!                           day meetings  what people do then, and next
//!                           presence      who is where now
//!        │
//!           doors              TRAFFIC       after each tick, people counted at each door
//!           motion             PIR           when a room is entered, or has been empty for a while
//!           detections stroll  DETECTIONS    one to three times a second per sensor
//!           occupancy          *_OCCUPANCY*  after each full minute, for the last five minutes
//!        │
//!  CityMessage    issuer             with an id, in the order of computation
//! ```
//!
//! Pure: no wall clock, no I/O. Deterministic: people draw from one generator in the order of
//! events. Everything that sensors and computers add is a hash of its subject (`chance`), so
//! leaving out a type changes nothing about the others.
//!
//! # Invariants
//!
//! 1. A person is in one zone or outside, and moves at a single moment: zones always add up to
//!    rooms, and rooms to floors.
//! 2. A room never holds more people than its capacity.
//! 3. At the end of every tick, entries minus exits at each door equal the occupancy behind it (see
//!    `doors`).
//! 4. The last computation of an occupancy reading is the truth at its timestamp.
//! 5. `computed_ms` never decreases.

mod behaviour;
mod chance;
mod clock;
mod day;
mod detections;
mod doors;
mod issuer;
mod labels;
mod meetings;
mod motion;
mod names;
mod occupancy;
mod people;
pub mod plan;
mod plan_generator;
mod presence;
mod simulation;
mod stroll;

#[cfg(test)]
mod tests;

pub use behaviour::{CityBehaviour, TypeSet};
pub use plan::{CityPlan, CitySize};
pub use simulation::{CitySimulation, GroundTruth};
