//! A city of buildings, people and sensors, and what the sensors tell of the people.
//!
//! ```text
//!  Plan::grow     plan grow label names sites, buildings, floors, rooms, zones, sensors: who could be where
//!        │
//!  Life::advance  people            an agenda: whose time has come?
//!                 day meetings      what they do then, and next
//!                 presence          who is where now
//!        │
//!                 doors             TRAFFIC       at the end of each tick, what went through
//!                 motion            PIR           when a room is entered, and when it has been empty for a while
//!                 detections stroll DETECTIONS    each sensor one to three times a second
//!                 occupancy         *_OCCUPANCY*  after each full minute, over the last five
//!        │
//!  Message        issue             with an id, in the order of computation
//! ```
//!
//! Pure: no wall clock, no I/O. Deterministic: what people do draws from one generator in the order of what happens; all
//! that sensors and computers add is a hash of what it is about (`chance`), so leaving types out changes nothing else.
//!
//! # Invariants
//!
//! 1. A person is in one zone or outside, and moves at one moment: zones add up to rooms, rooms to floors, always.
//! 2. No room ever has more people than its capacity.
//! 3. At the end of every tick, entries minus exits of each door are the occupancy behind it (`doors` says how).
//! 4. The last computation of an occupancy is the truth at its timestamp.
//! 5. `computed_ms` never goes back.

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

pub use plan::{CityPlan, CitySize};
pub use simulation::{CityBehaviour, CitySimulation, GroundTruth, TypeSet};
