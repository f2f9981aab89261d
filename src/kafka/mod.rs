//! Kafka: lanes into librdkafka, delivery reports out of it, and the watch over topics and producer.

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
