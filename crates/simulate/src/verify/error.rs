//! Reasons why a verification has no result.

use std::io;

/// The reason why a verification has no result, good or bad.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The topic template does not contain `{type}` exactly once.
    #[error(
        "{0:?} is not a template of topic names: it must contain {{type}} once, as in butlr.event.{{type}}.v1"
    )]
    InvalidTemplate(String),
    /// librdkafka does not accept a property.
    #[error("{name}: {text}")]
    InvalidProperty {
        /// The property.
        name: String,
        /// librdkafka's explanation.
        text: String,
    },
    /// A request to Kafka failed.
    #[error("Kafka request about {what} failed: {text}")]
    Kafka {
        /// The subject of the request.
        what: String,
        /// The error.
        text: String,
    },
    /// Topics do not exist.
    #[error("these topics do not exist: {}; `butlr-bridge topics --apply` creates the bridge's topics, `--topics` selects others", .0.join(", "))]
    MissingTopics(Vec<String>),
    /// A topic is no longer the one that the run wrote to.
    #[error("{topic} has changed since the run began ({what}), so it proves nothing")]
    TopicChanged {
        /// The topic.
        topic: String,
        /// The difference.
        what: String,
    },
    /// No record arrived for too long.
    #[error(
        "no record arrived for {seconds} s: {first}, {further} further partitions of this topic are unread{trouble}"
    )]
    Stalled {
        /// The time waited.
        seconds: u64,
        /// The first unread partition.
        first: String,
        /// The number of other unread partitions of its topic.
        further: usize,
        /// The last error that librdkafka reported.
        trouble: String,
    },
    /// The journal is damaged, or the disk is full.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl Error {
    pub(super) fn kafka(what: String, text: &dyn std::fmt::Display) -> Self {
        let text = text.to_string();
        Self::Kafka { what, text }
    }

    /// Returns `true` if different arguments would avoid the error.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::InvalidTemplate(_) | Error::InvalidProperty { .. }
        )
    }
}
