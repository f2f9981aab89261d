//! `[spool]` and `[quarantine]`: what becomes of events that Kafka does not take, or that are none.

use super::http::HttpConfig;
use super::kafka::KafkaConfig;
use super::reader::SectionReader;
use super::units::format_duration;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Where events wait on disk while Kafka does not confirm them.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Its folder, used by this process alone. None: no spool, and such events are answered 503.
    pub dir: Option<PathBuf>,
    /// Most bytes it takes on disk; beyond, events are answered 503. Default 10 GiB.
    pub max_bytes: u64,
    /// Bytes of the disk that it leaves free. Default 1 GiB.
    pub min_free_bytes: u64,
    /// A file of the spool is closed beyond this many bytes, and deleted when nothing in it is needed any more. Default 32 MiB.
    pub segment_bytes: u64,
    /// Whether new events queue behind those that wait. Default ordered.
    pub drain: DrainOrder,
    /// After a start, longest time for looking in Kafka for entries that may be there already, from its first answer.
    /// Default 30 s.
    pub recover_within: Duration,
}

/// Whether a topic's new events queue behind those that wait on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOrder {
    /// They do.
    Ordered,
    /// They pass, as soon as Kafka confirms events of the topic again.
    Concurrent,
}

/// What becomes of what is no valid event.
#[derive(Clone, Copy, Debug)]
pub struct QuarantineConfig {
    /// Whether it is published to `topics.quarantine`. Default yes.
    pub keep: bool,
    /// What the sender is told. Default reject.
    pub answer: QuarantineAnswer,
}

/// How a quarantined event is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuarantineAnswer {
    /// With its 4xx.
    Reject,
    /// With 202.
    Accept,
}

const HAS_DEFAULT: &str = "the table of keys has a default for it";
const GIB: usize = 1 << 30;
/// No disk is larger: 1 PiB.
const MAX_DISK_BYTES: usize = 1 << 50;
const SEGMENT_BYTES: RangeInclusive<usize> = 1 << 20..=GIB;
const RECOVER_WITHIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

pub(super) fn read(section: &SectionReader<'_>) -> SpoolConfig {
    let drains = [
        ("ordered", DrainOrder::Ordered),
        ("concurrent", DrainOrder::Concurrent),
    ];
    let size = |name, bounds| section.size(name, bounds).expect(HAS_DEFAULT) as u64;
    SpoolConfig {
        dir: section.read("dir", |written| match written.text()? {
            "" => Err("is empty; allowed: a folder, or leave it out".to_owned()),
            dir => Ok(PathBuf::from(dir)),
        }),
        max_bytes: size("max_bytes", 4 << 20..=MAX_DISK_BYTES),
        min_free_bytes: size("min_free_bytes", 0..=MAX_DISK_BYTES),
        segment_bytes: size("segment_bytes", SEGMENT_BYTES),
        drain: section.choice("drain", &drains).expect(HAS_DEFAULT),
        recover_within: section
            .duration("recover_within", RECOVER_WITHIN)
            .expect(HAS_DEFAULT),
    }
}

pub(super) fn read_quarantine(section: &SectionReader<'_>) -> QuarantineConfig {
    let answers = [
        ("reject", QuarantineAnswer::Reject),
        ("accept", QuarantineAnswer::Accept),
    ];
    QuarantineConfig {
        keep: section
            .read("keep", |written| written.parse_boolean())
            .expect(HAS_DEFAULT),
        answer: section.choice("answer", &answers).expect(HAS_DEFAULT),
    }
}

/// The rules between these sections and others.
pub(super) fn check(
    spool: &SpoolConfig,
    kafka: &KafkaConfig,
    http: &HttpConfig,
    root: &SectionReader<'_>,
) {
    let keys_valid = root.is_valid(&["http.answer_within", "kafka.confirm_within"]);
    if keys_valid && spool.dir.is_some() && kafka.confirm_within > max_confirm_within(http) {
        let [confirm, answer, latest] = [
            kafka.confirm_within,
            http.answer_within,
            max_confirm_within(http),
        ]
        .map(format_duration);
        root.section("kafka").report_error(
            "confirm_within",
            format!(
                "{confirm} leaves too little of http.answer_within ({answer}) for storing an event on disk; allowed: up to {latest}"
            ),
        );
    }
    let keys_valid = root.is_valid(&["spool.max_bytes", "spool.segment_bytes"]);
    if keys_valid && spool.max_bytes < 2 * spool.segment_bytes {
        root.section("spool").report_error(
            "max_bytes",
            "holds less than two files of spool.segment_bytes; allowed: at least twice that",
        );
    }
}

/// How long Kafka may take at most for the disk to have its time, too.
fn max_confirm_within(http: &HttpConfig) -> Duration {
    http.answer_within.mul_f32(0.75)
}
