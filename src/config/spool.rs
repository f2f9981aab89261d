//! `[spool]` and `[quarantine]`: what becomes of events that Kafka does not take, or that are none.

use super::http::Http;
use super::kafka::Kafka;
use super::reader::Reader;
use super::value::show_duration;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Where events wait on disk while Kafka does not confirm them.
#[derive(Clone, Debug)]
pub struct Spool {
    /// Its folder, used by this process alone. None: no spool, and such events are answered 503.
    pub dir: Option<PathBuf>,
    /// Most bytes it takes on disk; beyond, events are answered 503. Default 10 GiB.
    pub max_bytes: u64,
    /// Bytes of the disk that it leaves free. Default 1 GiB.
    pub min_free_bytes: u64,
    /// A file of the spool is closed beyond this many bytes, and deleted when nothing in it is needed any more. Default 32 MiB.
    pub segment_bytes: u64,
    /// Whether new events queue behind those that wait. Default ordered.
    pub drain: Drain,
    /// After a start, longest time for looking in Kafka for entries that may be there already, from its first answer.
    /// Default 30 s.
    pub recover_within: Duration,
}

/// Whether a topic's new events queue behind those that wait on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// They do.
    Ordered,
    /// They pass, as soon as Kafka confirms events of the topic again.
    Concurrent,
}

/// What becomes of what is no valid event.
#[derive(Clone, Copy, Debug)]
pub struct Quarantine {
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
const LARGEST: usize = 1 << 50;
const SEGMENT: RangeInclusive<usize> = 1 << 20..=GIB;
const RECOVER: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

pub(super) fn read(section: &Reader<'_>) -> Spool {
    let drains = [
        ("ordered", Drain::Ordered),
        ("concurrent", Drain::Concurrent),
    ];
    let size = |name, bounds| section.size(name, bounds).expect(HAS_DEFAULT) as u64;
    Spool {
        dir: section.read("dir", |written| match written.text()? {
            "" => Err("is empty; allowed: a folder, or leave it out".to_owned()),
            dir => Ok(PathBuf::from(dir)),
        }),
        max_bytes: size("max_bytes", 4 << 20..=LARGEST),
        min_free_bytes: size("min_free_bytes", 0..=LARGEST),
        segment_bytes: size("segment_bytes", SEGMENT),
        drain: section.choice("drain", &drains).expect(HAS_DEFAULT),
        recover_within: section
            .duration("recover_within", RECOVER)
            .expect(HAS_DEFAULT),
    }
}

pub(super) fn read_quarantine(section: &Reader<'_>) -> Quarantine {
    let answers = [
        ("reject", QuarantineAnswer::Reject),
        ("accept", QuarantineAnswer::Accept),
    ];
    Quarantine {
        keep: section
            .read("keep", |written| written.boolean())
            .expect(HAS_DEFAULT),
        answer: section.choice("answer", &answers).expect(HAS_DEFAULT),
    }
}

/// The rules between these sections and others.
pub(super) fn check(spool: &Spool, kafka: &Kafka, http: &Http, root: &Reader<'_>) {
    let sound = root.sound(&["http.answer_within", "kafka.confirm_within"]);
    if sound && spool.dir.is_some() && kafka.confirm_within > latest_confirmation(http) {
        let [confirm, answer, latest] = [
            kafka.confirm_within,
            http.answer_within,
            latest_confirmation(http),
        ]
        .map(show_duration);
        root.section("kafka").mistake(
            "confirm_within",
            format!(
                "{confirm} leaves too little of http.answer_within ({answer}) for storing an event on disk; allowed: up to {latest}"
            ),
        );
    }
    let sound = root.sound(&["spool.max_bytes", "spool.segment_bytes"]);
    if sound && spool.max_bytes < 2 * spool.segment_bytes {
        root.section("spool").mistake(
            "max_bytes",
            "holds less than two files of spool.segment_bytes; allowed: at least twice that",
        );
    }
}

/// How long Kafka may take at most for the disk to have its time, too.
fn latest_confirmation(http: &Http) -> Duration {
    http.answer_within.mul_f32(0.75)
}
