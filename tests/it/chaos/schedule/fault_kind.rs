//! Kinds of faults and the site of each.

use std::fmt;
use std::time::Duration;

use butlr_event::EventType;

/// Kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Kafka is killed with SIGKILL and restarted later.
    KafkaKilled,
    /// Kafka is stopped with SIGTERM and restarted later.
    KafkaStopped,
    /// Kafka is paused with SIGSTOP and continued with SIGCONT.
    KafkaPaused,
    /// One topic is deleted and created again later.
    TopicDeleted(EventType),
    /// `min.insync.replicas` of one topic is 2, with one broker.
    TooFewReplicas(EventType),
    /// Each piece of network traffic is delayed by this much.
    NetworkSlow(Duration),
    /// The network passes nothing.
    NetworkSilent,
    /// Responses from Kafka are lost.
    ResponsesLost,
    /// Kafka's port is closed.
    NetworkRefuses,
    /// Connections are cut at this interval.
    NetworkCut(Duration),
    /// Kafka denies having a record that it confirmed: fatal for the producer.
    ProducerFatal,
    /// The bridge is killed with SIGKILL and restarted later.
    BridgeKilled,
    /// The bridge is stopped with SIGTERM and restarted later.
    BridgeEnded,
    /// The spool's disk is full.
    DiskFull,
    /// The clock of the bridge is off by this many seconds.
    ClockStep(i64),
}

/// Site of a fault. Faults at one site follow each other.
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
    /// One fault of each kind.
    pub const ALL: [FaultKind; 15] = [
        FaultKind::KafkaKilled,
        FaultKind::KafkaStopped,
        FaultKind::KafkaPaused,
        FaultKind::TopicDeleted(EventType::ALL[0]),
        FaultKind::TooFewReplicas(EventType::ALL[0]),
        FaultKind::NetworkSlow(Duration::ZERO),
        FaultKind::NetworkSilent,
        FaultKind::ResponsesLost,
        FaultKind::NetworkRefuses,
        FaultKind::NetworkCut(Duration::ZERO),
        FaultKind::ProducerFatal,
        FaultKind::BridgeKilled,
        FaultKind::BridgeEnded,
        FaultKind::DiskFull,
        FaultKind::ClockStep(0),
    ];

    /// Returns the name of the kind.
    pub const fn name(self) -> &'static str {
        match self {
            FaultKind::KafkaKilled => "Kafka killed",
            FaultKind::KafkaStopped => "Kafka stopped",
            FaultKind::KafkaPaused => "Kafka paused",
            FaultKind::TopicDeleted(_) => "topic deleted and recreated",
            FaultKind::TooFewReplicas(_) => "min.insync.replicas not met",
            FaultKind::NetworkSlow(_) => "network slow",
            FaultKind::NetworkSilent => "network silent",
            FaultKind::ResponsesLost => "Kafka's responses lost",
            FaultKind::NetworkRefuses => "connections refused",
            FaultKind::NetworkCut(_) => "connections cut",
            FaultKind::ProducerFatal => "fatal producer error",
            FaultKind::BridgeKilled => "bridge killed",
            FaultKind::BridgeEnded => "bridge stopped (SIGTERM)",
            FaultKind::DiskFull => "spool disk full",
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
            | FaultKind::ResponsesLost
            | FaultKind::NetworkRefuses
            | FaultKind::NetworkCut(_)
            | FaultKind::ProducerFatal => FaultSite::Network,
            FaultKind::BridgeKilled | FaultKind::BridgeEnded => FaultSite::Bridge,
            FaultKind::DiskFull => FaultSite::Disk,
            FaultKind::ClockStep(_) => FaultSite::Clock,
        }
    }

    /// Returns the relative frequency of the kind.
    pub(super) const fn weight(self) -> u32 {
        match self {
            // A start of Kafka keeps both processors busy for about 5 s.
            FaultKind::KafkaKilled => 2,
            FaultKind::KafkaStopped => 1,
            // The most important faults for a spool.
            FaultKind::BridgeKilled => 5,
            FaultKind::KafkaPaused
            | FaultKind::NetworkSilent
            | FaultKind::ResponsesLost
            | FaultKind::NetworkRefuses => 3,
            _ => 2,
        }
    }

    /// Returns `true` if events have to be spooled during the fault.
    pub(super) const fn is_kafka_outage(self) -> bool {
        matches!(
            self,
            FaultKind::KafkaKilled
                | FaultKind::KafkaStopped
                | FaultKind::KafkaPaused
                | FaultKind::NetworkSilent
                | FaultKind::ResponsesLost
                | FaultKind::NetworkRefuses
        )
    }

    /// Returns the range of durations in ms. If the fault ends with a restart, this is the pause
    /// before it.
    pub(super) const fn duration_range_ms(self) -> std::ops::Range<u64> {
        match self {
            FaultKind::KafkaKilled | FaultKind::KafkaStopped => 0..1_000,
            FaultKind::BridgeKilled | FaultKind::BridgeEnded => 0..1_200,
            // The offset takes effect within a second.
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
