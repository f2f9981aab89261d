//! butlr-bridge receives Butlr's webhooks over HTTP and publishes each event to Kafka. A 2xx means
//! that the event is stored: in Kafka on all in-sync replicas, or on disk with fsync.
//!
//! # Path of an event
//!
//! ```text
//!  POST /v1/events
//!        │
//!  http::ingest    admit         http::connections, budget: limits on what is in flight
//!                  authenticate  auth: constant time, before the body is read
//!                  read          http::body: bounded in time, in size, and in size after gzip
//!        │                       (from here on the request is finished even if the client leaves)
//!  pipeline        parse         butlr_event: a valid event, or every error at once
//!        │           └► rejected   pipeline::quarantine: published to its own topic, then 4xx
//!                  claim         dedup: new, duplicate, or wait for an undecided event
//!                  route         Kafka, or the spool during a failure or behind older entries
//!                  publish       record: topic of the event type, key, timestamp and headers
//!        │                       kafka: topic lane, producer, then all in-sync replicas
//!        │         spool         spool: fsync if Kafka does not confirm in time; drained later
//!                  commit        the delivery report decides the claim and wakes the request
//!                  count         metrics: exactly one outcome for each event
//!        │
//!  http::response  200 with partition and offset, 202, or a problem that says what to do
//! ```
//!
//! The modules below are in that order; the rest follows. `docs/architecture.md` has the
//! invariants, the glossary, and where to add things.

// Without the blank lines, rustfmt would sort the modules.

pub mod http;

pub mod budget;

pub mod auth;

pub mod pipeline;

pub mod dedup;

pub mod record;

pub mod kafka;

pub mod delivery;

pub mod spool;

pub mod metrics;

pub mod rejection;

pub mod marks;

pub mod provenance;

pub mod core;

pub mod app;

pub mod replay;

pub mod config;

pub mod telemetry;

pub mod commands;

mod sync;
