//! Why nothing could be proved.

use std::io;

/// Why nothing could be proved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a template.
    #[error(
        "{0:?} is not what topics' names are made of: it must contain {{type}} once, as in butlr.event.{{type}}.v1"
    )]
    InvalidTemplate(String),
    /// librdkafka does not take it.
    #[error("{name}: {text}")]
    InvalidProperty {
        /// The property.
        name: String,
        /// What librdkafka says.
        text: String,
    },
    /// Kafka did not do what it was asked.
    #[error("Kafka was asked about {what}: {text}")]
    Kafka {
        /// What it was asked about.
        what: String,
        /// What it said.
        text: String,
    },
    /// Topics do not exist.
    #[error("these topics do not exist: {}; `butlr-bridge topics --apply` makes the bridge's topics, `--topics` names others", .0.join(", "))]
    MissingTopics(Vec<String>),
    /// The topics are not those of the run any more.
    #[error(
        "{topic} is not as it was when the run began ({what}), so that nothing can be proved from it"
    )]
    TopicChanged {
        /// The topic.
        topic: String,
        /// What is different.
        what: String,
    },
    /// Nothing came.
    #[error(
        "no record came for {seconds} s: {first}, {further} further partitions of this topic are unread{trouble}"
    )]
    Stalled {
        /// How long was waited.
        seconds: u64,
        /// The first partition that is unread.
        first: String,
        /// How many more of its topic are.
        further: usize,
        /// The last thing that librdkafka complained of.
        trouble: String,
    },
    /// The journal is damaged, or the disk full.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl Error {
    pub(super) fn kafka(what: String, text: &dyn std::fmt::Display) -> Self {
        let text = text.to_string();
        Self::Kafka { what, text }
    }

    /// Whether other arguments would help.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::InvalidTemplate(_) | Error::InvalidProperty { .. }
        )
    }
}
