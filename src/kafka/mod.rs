//! Kafka: topic lanes, the producer and its delivery reports, the watch, topic tails and topic
//! creation.

pub mod client;
pub mod contact;
pub mod embedded;
pub mod headers;
pub mod lane;
pub mod producer;
pub mod quiet_context;
pub mod report;
pub mod tail;
pub mod topics;
pub mod watch;
