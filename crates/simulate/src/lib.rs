//! Simulator of a city of Butlr sensors, with a sender that behaves like Butlr's, and a verifier of
//! the records that arrived in Kafka.
//!
//! ```text
//!  city      people come, meet, move and leave; sensors and computers observe them
//!    │         CityMessage: one event as it was computed            ── pure: no clock, no network ──
//!  stream    the sender's quirks: copies, late and shuffled deliveries, bursts, invalid items
//!    │         PlannedDelivery: one event with its due time
//!  payload   its JSON
//!    │
//!  oracle    the expected verdict of each delivery: first, redelivery, repeat, revision or stale
//!    │
//!  sender    pace → connections → tries, timeouts, drops            ── from here on the clock is real ──
//!    │
//!  ledger    counts each delivery and each try once; latencies
//!  journal   each try with its response, on disk
//!    │
//!  verify    reads the topics back and compares them with the journal
//! ```
//!
//! The same seed, start and options give the same deliveries in the same order, whatever the
//! responses are.

pub mod city;
pub mod hash;
pub mod journal;
pub mod ledger;
mod limits;
pub mod message;
pub mod oracle;
mod outcome;
pub mod payload;
pub mod progress;
pub mod sender;
pub mod stream;
pub mod verify;
