//! What can go wrong, and where.

use std::fmt;
use std::time::Duration;

use butlr_event::EventType;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// SIGKILL, and started again after a while.
    KafkaKilled,
    /// SIGTERM, and started again after a while.
    KafkaStopped,
    /// SIGSTOP and SIGCONT.
    KafkaPaused,
    /// One topic is deleted, and made again after a while.
    TopicDeleted(EventType),
    /// `min.insync.replicas` of one topic is 2, and there is one broker.
    TooFewReplicas(EventType),
    /// Each piece of the network's traffic is held back for so long.
    NetworkSlow(Duration),
    /// Nothing comes through.
    NetworkSilent,
    /// What Kafka answers does not come through, and is lost.
    AnswersLost,
    /// Kafka's port is closed.
    NetworkRefuses,
    /// Connections are cut off, again and again.
    NetworkCut(Duration),
    /// Kafka says that it has not got what it confirmed before: fatal to the producer.
    ProducerFatal,
    /// `kill -9` of the bridge, and started again after a while.
    BridgeKilled,
    /// SIGTERM to the bridge, and started again after a while.
    BridgeEnded,
    /// No byte is left on the spool's disk.
    DiskFull,
    /// The bridge's clock is off by so many seconds.
    ClockStep(i64),
}

/// Where faults happen: one after the other in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Kafka,
    Network,
    Bridge,
    Disk,
    Clock,
}

impl Place {
    pub const ALL: [Place; 5] = [
        Place::Kafka,
        Place::Network,
        Place::Bridge,
        Place::Disk,
        Place::Clock,
    ];
}

impl What {
    /// One of each kind.
    pub const KINDS: [What; 15] = [
        What::KafkaKilled,
        What::KafkaStopped,
        What::KafkaPaused,
        What::TopicDeleted(EventType::ALL[0]),
        What::TooFewReplicas(EventType::ALL[0]),
        What::NetworkSlow(Duration::ZERO),
        What::NetworkSilent,
        What::AnswersLost,
        What::NetworkRefuses,
        What::NetworkCut(Duration::ZERO),
        What::ProducerFatal,
        What::BridgeKilled,
        What::BridgeEnded,
        What::DiskFull,
        What::ClockStep(0),
    ];

    /// The name of its kind.
    pub const fn kind(self) -> &'static str {
        match self {
            What::KafkaKilled => "Kafka killed",
            What::KafkaStopped => "Kafka stopped",
            What::KafkaPaused => "Kafka paused",
            What::TopicDeleted(_) => "topic deleted and made again",
            What::TooFewReplicas(_) => "min.insync.replicas not met",
            What::NetworkSlow(_) => "network slow",
            What::NetworkSilent => "network silent",
            What::AnswersLost => "Kafka's answers lost",
            What::NetworkRefuses => "connections refused",
            What::NetworkCut(_) => "connections cut",
            What::ProducerFatal => "producer made fatal",
            What::BridgeKilled => "bridge killed",
            What::BridgeEnded => "bridge ended (SIGTERM)",
            What::DiskFull => "spool's disk full",
            What::ClockStep(_) => "clock step",
        }
    }

    pub const fn place(self) -> Place {
        match self {
            What::KafkaKilled
            | What::KafkaStopped
            | What::KafkaPaused
            | What::TopicDeleted(_)
            | What::TooFewReplicas(_) => Place::Kafka,
            What::NetworkSlow(_)
            | What::NetworkSilent
            | What::AnswersLost
            | What::NetworkRefuses
            | What::NetworkCut(_)
            | What::ProducerFatal => Place::Network,
            What::BridgeKilled | What::BridgeEnded => Place::Bridge,
            What::DiskFull => Place::Disk,
            What::ClockStep(_) => Place::Clock,
        }
    }

    /// How much likelier than others it is.
    pub(super) const fn weight(self) -> u32 {
        match self {
            // Takes a start of Kafka, which is some 5 s of both processors.
            What::KafkaKilled => 2,
            What::KafkaStopped => 1,
            // What a spool is judged by.
            What::BridgeKilled => 5,
            What::KafkaPaused | What::NetworkSilent | What::AnswersLost | What::NetworkRefuses => 3,
            _ => 2,
        }
    }

    /// Whether events have to be spooled while it lasts.
    pub(super) const fn keeps_kafka_away(self) -> bool {
        matches!(
            self,
            What::KafkaKilled
                | What::KafkaStopped
                | What::KafkaPaused
                | What::NetworkSilent
                | What::AnswersLost
                | What::NetworkRefuses
        )
    }

    /// How long it lasts, ms. Of what ends with a start it is the pause before that.
    pub(super) const fn lasts_ms(self) -> std::ops::Range<u64> {
        match self {
            What::KafkaKilled | What::KafkaStopped => 0..1_000,
            What::BridgeKilled | What::BridgeEnded => 0..1_200,
            // It takes effect within a second.
            What::ClockStep(_) => 2_000..3_500,
            What::TopicDeleted(_) => 500..2_000,
            _ => 600..3_500,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            What::TopicDeleted(of) | What::TooFewReplicas(of) => write!(f, " ({of})"),
            What::NetworkSlow(by) => write!(f, " (each piece by {} ms)", by.as_millis()),
            What::NetworkCut(every) => write!(f, " (every {} ms)", every.as_millis()),
            What::ClockStep(seconds) => write!(f, " ({seconds:+} s)"),
            _ => Ok(()),
        }
    }
}
