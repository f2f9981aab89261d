//! `[spool]` and `[quarantine]`: events that Kafka does not confirm in time, and rejected items.

use super::http::HttpConfig;
use super::kafka::KafkaConfig;
use super::reader::SectionReader;
use super::units::format_duration;
use std::path::PathBuf;
use std::time::Duration;

/// Spool on disk for events that Kafka does not confirm in time.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Folder for this process alone. `None`: no spool, so these events get a 503.
    pub dir: Option<PathBuf>,
    /// Maximum bytes on disk; above it, events get a 503.
    pub max_bytes: u64,
    /// Bytes of the disk that stay free.
    pub min_free_bytes: u64,
    /// Size of one file, which is deleted as a whole.
    pub segment_bytes: u64,
    /// Order between a topic's backlog and its new events.
    pub drain: DrainOrder,
    /// After a start, maximum time for finding out which entries Kafka already has, counted from
    /// its first response.
    pub recover_within: Duration,
}

/// Order between a topic's backlog on disk and its new events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOrder {
    /// New events queue behind the backlog.
    Ordered,
    /// New events pass the backlog as soon as Kafka confirms events of the topic again.
    Concurrent,
}

/// Handling of rejected items.
#[derive(Clone, Copy, Debug)]
pub struct QuarantineConfig {
    /// `true` if they are published to `topics.quarantine`.
    pub keep: bool,
    /// Response to an item that was published there.
    pub answer: QuarantineAnswer,
}

/// Response to a quarantined item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuarantineAnswer {
    /// Its 4xx.
    Reject,
    /// 202.
    Accept,
}

pub(super) fn read(section: &SectionReader<'_>) -> SpoolConfig {
    let orders = [
        ("ordered", DrainOrder::Ordered),
        ("concurrent", DrainOrder::Concurrent),
    ];
    SpoolConfig {
        dir: section.read_optional("dir", |written| match written.text()? {
            "" => Err("is empty; name a folder, or remove the key".to_owned()),
            dir => Ok(PathBuf::from(dir)),
        }),
        max_bytes: section.size("max_bytes"),
        min_free_bytes: section.size("min_free_bytes"),
        segment_bytes: section.size("segment_bytes"),
        drain: section.choice("drain", &orders),
        recover_within: section.duration("recover_within"),
    }
}

pub(super) fn read_quarantine(section: &SectionReader<'_>) -> QuarantineConfig {
    let answers = [
        ("reject", QuarantineAnswer::Reject),
        ("accept", QuarantineAnswer::Accept),
    ];
    QuarantineConfig {
        keep: section.boolean("keep"),
        answer: section.choice("answer", &answers),
    }
}

/// Checks the rules between these sections and others.
pub(super) fn check(
    spool: &SpoolConfig,
    kafka: &KafkaConfig,
    http: &HttpConfig,
    root: &SectionReader<'_>,
) {
    root.check_rule(&["kafka.confirm_within", "http.answer_within"], || {
        // The rest of the response deadline is for the spool's fsync.
        let max = http.answer_within.mul_f32(0.75);
        let [confirm, answer, max_text] =
            [kafka.confirm_within, http.answer_within, max].map(format_duration);
        (spool.dir.is_some() && kafka.confirm_within > max).then(|| {
            format!(
                "{confirm} leaves too little of http.answer_within ({answer}) for storing an event \
                 on disk; allowed: up to {max_text}"
            )
        })
    });
    root.check_rule(&["spool.max_bytes", "spool.segment_bytes"], || {
        (spool.max_bytes < 2 * spool.segment_bytes).then(|| {
            "less than two files of spool.segment_bytes; allowed: at least twice that".to_owned()
        })
    });
}
