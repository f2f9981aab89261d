//! What can go wrong, and where.

use std::fmt;
use std::time::Duration;

use butlr_event::EventType;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
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
pub enum FaultSite {
    Kafka,
    Network,
    Bridge,
    Disk,
    Clock,
}

impl FaultSite {
    pub const ALL: [FaultSite; 5] = [
        FaultSite::Kafka,
        FaultSite::Network,
        FaultSite::Bridge,
        FaultSite::Disk,
        FaultSite::Clock,
    ];
}

impl FaultKind {
    /// One of each kind.
    pub const ALL: [FaultKind; 15] = [
        FaultKind::KafkaKilled,
        FaultKind::KafkaStopped,
        FaultKind::KafkaPaused,
        FaultKind::TopicDeleted(EventType::ALL[0]),
        FaultKind::TooFewReplicas(EventType::ALL[0]),
        FaultKind::NetworkSlow(Duration::ZERO),
        FaultKind::NetworkSilent,
        FaultKind::AnswersLost,
        FaultKind::NetworkRefuses,
        FaultKind::NetworkCut(Duration::ZERO),
        FaultKind::ProducerFatal,
        FaultKind::BridgeKilled,
        FaultKind::BridgeEnded,
        FaultKind::DiskFull,
        FaultKind::ClockStep(0),
    ];

    /// The name of its kind.
    pub const fn name(self) -> &'static str {
        match self {
            FaultKind::KafkaKilled => "Kafka killed",
            FaultKind::KafkaStopped => "Kafka stopped",
            FaultKind::KafkaPaused => "Kafka paused",
            FaultKind::TopicDeleted(_) => "topic deleted and made again",
            FaultKind::TooFewReplicas(_) => "min.insync.replicas not met",
            FaultKind::NetworkSlow(_) => "network slow",
            FaultKind::NetworkSilent => "network silent",
            FaultKind::AnswersLost => "Kafka's answers lost",
            FaultKind::NetworkRefuses => "connections refused",
            FaultKind::NetworkCut(_) => "connections cut",
            FaultKind::ProducerFatal => "producer made fatal",
            FaultKind::BridgeKilled => "bridge killed",
            FaultKind::BridgeEnded => "bridge ended (SIGTERM)",
            FaultKind::DiskFull => "spool's disk full",
            FaultKind::ClockStep(_) => "clock step",
        }
    }

    pub const fn site(self) -> FaultSite {
        match self {
            FaultKind::KafkaKilled
            | FaultKind::KafkaStopped
            | FaultKind::KafkaPaused
            | FaultKind::TopicDeleted(_)
            | FaultKind::TooFewReplicas(_) => FaultSite::Kafka,
            FaultKind::NetworkSlow(_)
            | FaultKind::NetworkSilent
            | FaultKind::AnswersLost
            | FaultKind::NetworkRefuses
            | FaultKind::NetworkCut(_)
            | FaultKind::ProducerFatal => FaultSite::Network,
            FaultKind::BridgeKilled | FaultKind::BridgeEnded => FaultSite::Bridge,
            FaultKind::DiskFull => FaultSite::Disk,
            FaultKind::ClockStep(_) => FaultSite::Clock,
        }
    }

    /// How much likelier than others it is.
    pub(super) const fn weight(self) -> u32 {
        match self {
            // Takes a start of Kafka, which is some 5 s of both processors.
            FaultKind::KafkaKilled => 2,
            FaultKind::KafkaStopped => 1,
            // What a spool is judged by.
            FaultKind::BridgeKilled => 5,
            FaultKind::KafkaPaused
            | FaultKind::NetworkSilent
            | FaultKind::AnswersLost
            | FaultKind::NetworkRefuses => 3,
            _ => 2,
        }
    }

    /// Whether events have to be spooled while it lasts.
    pub(super) const fn is_kafka_outage(self) -> bool {
        matches!(
            self,
            FaultKind::KafkaKilled
                | FaultKind::KafkaStopped
                | FaultKind::KafkaPaused
                | FaultKind::NetworkSilent
                | FaultKind::AnswersLost
                | FaultKind::NetworkRefuses
        )
    }

    /// How long it lasts, ms. Of what ends with a start it is the pause before that.
    pub(super) const fn duration_range_ms(self) -> std::ops::Range<u64> {
        match self {
            FaultKind::KafkaKilled | FaultKind::KafkaStopped => 0..1_000,
            FaultKind::BridgeKilled | FaultKind::BridgeEnded => 0..1_200,
            // It takes effect within a second.
            FaultKind::ClockStep(_) => 2_000..3_500,
            FaultKind::TopicDeleted(_) => 500..2_000,
            _ => 600..3_500,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            FaultKind::TopicDeleted(of) | FaultKind::TooFewReplicas(of) => write!(f, " ({of})"),
            FaultKind::NetworkSlow(by) => write!(f, " (each piece by {} ms)", by.as_millis()),
            FaultKind::NetworkCut(every) => write!(f, " (every {} ms)", every.as_millis()),
            FaultKind::ClockStep(seconds) => write!(f, " ({seconds:+} s)"),
            _ => Ok(()),
        }
    }
}
