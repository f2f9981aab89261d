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
//!        │          └► no event: kept in a topic of its own, then refused
//!        │        route                  one topic a type
//!        │        claim      dedup       is this event new? who asks second, waits for the first
//!        │        deliver    spool       behind those that wait on disk, if any do
//!        │                   record      key, timestamp, headers: decided purely
//!        │                   kafka::lane a budget for each topic; missing and forbidden ones answer at once
//!        │                   kafka::producer → librdkafka → all in-sync replicas
//!        │        keep       spool       what Kafka does not confirm in time: on disk, fsynced; drained when it does again
//!        │        commit     delivery    the delivery report decides the claim and wakes the task; metrics: exactly one outcome
//!        │
//!  http::problem  200 with partition and offset, 202, or a problem that says what to do
//! ```
//!
//! Modules stand in that order. `ARCHITECTURE.md` tells the invariants and where to add things.

pub mod config;

mod sync;

pub mod http;

pub mod auth;

pub mod pipeline;

pub mod delivery;

pub mod dedup;

pub mod record;

pub mod marks;

pub mod provenance;

pub mod kafka;

pub mod spool;

pub mod replay;

pub mod rejection;

pub mod metrics;

pub mod telemetry;

pub mod app;

pub mod commands;
