//! butlr-bridge: the door between Butlr's webhooks and Kafka.
//!
//! # The path of an event
//!
//! ```text
//!  POST /v1/events
//!        │
//!  http::ingest   admit (limits) → authenticate → read (bounded in time and size)
//!        │                                   finished from here also when the client has gone
//!  pipeline       parse      event       valid, or every mistake at once
//!                 route      record      topic, key, timestamp, headers: decided purely
//!                            kafka::lane a budget for each topic; missing and forbidden ones answer at once
//!                 claim      (nothing yet: is this event new?)
//!                 deliver    kafka::producer → librdkafka → all in-sync replicas
//!                 commit     kafka::report   the delivery report wakes the task; metrics: exactly one outcome
//!        │
//!  http::problem  200 with partition and offset, or a problem that says what to do
//! ```
//!
//! Modules stand in that order. `ARCHITECTURE.md` tells the invariants and where to add things.

pub mod config;

pub mod http;

pub mod auth;

pub mod pipeline;

pub mod ksuid;

pub mod event;

pub mod record;

pub mod kafka;

pub mod rejection;

pub mod metrics;

pub mod telemetry;

pub mod app;

pub mod simulate;

pub mod commands;
