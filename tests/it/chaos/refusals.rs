//! What a bridge refused with 503, as its log tells, and when it may do so although it has a spool.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::evidence::TrialEvidence;
use super::schedule::{FaultKind, FaultSite};

/// A full disk that is free again, or a bridge that was started again, may refuse for so long: until it has looked.
const RECOVERY_GRACE: Duration = Duration::from_secs(5);
/// A fault is felt so long after it is over, at most: connections have to be made anew, and what was given up is sent again.
const FAULT_AFTEREFFECT: Duration = Duration::from_secs(20);
/// Longer than any trial.
const HOUR: Duration = Duration::from_secs(3_600);
/// Before a fault begins: what had come but was not stored yet.
const FAULT_LEAD: Duration = Duration::from_secs(3);

/// A request, or one of several that were refused at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRefusal {
    /// By the bridge's clock, ms since 1970.
    pub at_ms: i64,
    pub code: String,
}

impl LoggedRefusal {
    /// From a log in JSON.
    pub fn from_log(output: &str) -> Vec<Self> {
        let lines = output.lines();
        let lines = lines.filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let refused = lines.filter(|l| l["message"] == "request refused" && l["status"] == 503);
        let refused = refused.filter_map(|line| {
            Some(Self {
                at_ms: parse_ms(line["timestamp"].as_str()?)?,
                code: line["code"].as_str()?.to_owned(),
            })
        });
        refused.collect()
    }
}

/// ms since 1970.
pub fn parse_ms(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// When what is said by the bridge's clock happened; where that was put forward or back it may be one or the other.
struct ClockReadings<'e>(&'e TrialEvidence);

impl ClockReadings<'_> {
    fn has_candidate(&self, at_ms: i64, is: impl Fn(i64) -> bool) -> bool {
        let off = self.0.schedule.faults.iter().map(|f| match f.kind {
            FaultKind::ClockStep(seconds) => 1_000 * seconds,
            _ => 0,
        });
        let mut off = off.chain([0]);
        off.any(|off| is(at_ms - off))
    }
}

fn to_ms(duration: Duration) -> i64 {
    duration.as_millis() as i64
}

/// Whether Kafka, or what leads there, was in trouble when something was received, or was about to be or had been shortly
/// before: only then does a bridge not know whether something is stored.
pub fn is_during_kafka_trouble(evidence: &TrialEvidence, received_at: &str) -> bool {
    let began = evidence.load_began_ms;
    let troubles = evidence.applied_faults.iter();
    let troubles =
        troubles.filter(|d| matches!(d.kind.site(), FaultSite::Kafka | FaultSite::Network));
    let first = troubles.clone().map(|d| to_ms(d.began)).min();
    let last = troubles.map(|d| to_ms(d.ended)).max();
    let Some(((first, last), at_ms)) = first.zip(last).zip(parse_ms(received_at)) else {
        return false;
    };
    let span = began + first - to_ms(FAULT_LEAD)..began + last + to_ms(FAULT_AFTEREFFECT);
    ClockReadings(evidence).has_candidate(at_ms, |at| span.contains(&at))
}

/// What was refused although there was a spool with room for it.
pub fn find_unexcused(evidence: &TrialEvidence) -> Option<String> {
    let heard = evidence.answers.status_503;
    if !evidence.has_spool || heard == 0 {
        return None;
    }
    let all = || evidence.processes.iter().flat_map(|life| &life.refusals);
    let ended = |what| what == FaultKind::BridgeEnded;
    if all().next().is_none() && !evidence.schedule.has_fault(ended) {
        return Some(format!(
            "{heard} answers 503 although there was a spool, and no log tells why"
        ));
    }
    let unexcused: Vec<_> = all()
        .filter(|refused| !is_excused(evidence, refused))
        .collect();
    let first = unexcused.first()?;
    let after = first.at_ms - evidence.load_began_ms;
    Some(format!(
        "{heard} answers 503 although there was a spool with room; {} in the logs, the first {after} ms after the load began: {}",
        unexcused.len(),
        first.code,
    ))
}

/// One that is full, or a bridge that is about to end, may refuse.
fn is_excused(evidence: &TrialEvidence, refused: &LoggedRefusal) -> bool {
    let began = evidence.load_began_ms;
    let within = |from: Duration, until: Duration| {
        let span = began + to_ms(from)..=began + to_ms(until);
        ClockReadings(evidence).has_candidate(refused.at_ms, |at| span.contains(&at))
    };
    let of_the_disk = refused.code.starts_with("spool_");
    let faults = || evidence.applied_faults.iter();
    let while_it_lasts = faults().any(|done| match done.kind {
        FaultKind::DiskFull => of_the_disk && within(done.began, done.ended + RECOVERY_GRACE),
        FaultKind::BridgeEnded => within(done.began, done.ended + RECOVERY_GRACE),
        _ => false,
    });
    // A small one is full until what it holds is in Kafka.
    let troubles =
        faults().filter(|d| matches!(d.kind.site(), FaultSite::Kafka | FaultSite::Network));
    let full = evidence.schedule.small_spool
        && refused.code == "spool_full"
        && troubles
            .map(|d| d.began)
            .min()
            .is_some_and(|first| within(first, HOUR));
    while_it_lasts || full
}
