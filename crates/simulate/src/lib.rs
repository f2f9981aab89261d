//! Something to test against: a city whose sensors send, a sender that behaves as Butlr's does, and the proof of what
//! arrived.
//!
//! ```text
//!  city      who could be where; people come, meet, move and leave; what the sensors and computers make of it
//!    │         Message: one event as it was computed                  ── pure: no clock, no network ──
//!  stream    what the sender makes of that: copies, late and shuffled ones, bursts, invalid ones
//!    │         Delivery: one event that is due
//!  payload   its JSON
//!    │
//!  oracle    what each delivery is to a bridge that tells redeliveries, repeats, revisions and stale ones apart
//!    │
//!  sender    pace → connections → tries, time-outs, drops             ── from here on it is real ──
//!    │
//!  ledger    each delivery and each try, once; latencies
//!  journal   each try with its answer, on disk
//!    │
//!  verify    the topics read back, and held against the journal
//! ```
//!
//! The same seed, start and options give the same deliveries in the same order, whatever is answered.

pub mod city;
pub mod hash;
pub mod journal;
pub mod ledger;
pub mod message;
pub mod oracle;
pub mod payload;
pub mod progress;
pub mod sender;
pub mod stream;
pub mod verify;
