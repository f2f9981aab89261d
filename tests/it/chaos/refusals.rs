//! Requests refused with 503 according to the log, and the cases in which a bridge with a spool may
//! do so.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::evidence::TrialEvidence;
use super::schedule::{FaultKind, FaultSite};

/// A bridge may refuse for this long after a full disk was freed or after a restart, until it has
/// noticed.
const RECOVERY_GRACE: Duration = Duration::from_secs(5);
/// Longest effect of a fault after its end: connections are made anew, and failed records are sent
/// again.
const FAULT_AFTEREFFECT: Duration = Duration::from_secs(20);
/// Longer than any trial.
const HOUR: Duration = Duration::from_secs(3_600);
/// Time before a fault in which an event may have been received but not stored yet.
const FAULT_LEAD: Duration = Duration::from_secs(3);

/// Refused request, or several that were refused at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRefusal {
    /// By the clock of the bridge, in ms since 1970.
    pub at_ms: i64,
    pub code: String,
}

impl LoggedRefusal {
    /// Parses a JSON log.
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

/// Parses a time to ms since 1970.
pub fn parse_ms(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// Maps times of the bridge's clock to real times. If the clock was stepped, either time is
/// possible.
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

/// Returns `true` if Kafka or the network was in trouble when the event was received, or shortly
/// before or after. Only then may the bridge not know if an event is stored.
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

/// Describes a refusal that happened although the spool had room.
pub fn find_unexcused(evidence: &TrialEvidence) -> Option<String> {
    let refused = evidence.responses.status_503;
    if !evidence.has_spool || refused == 0 {
        return None;
    }
    let all = || {
        evidence
            .processes
            .iter()
            .flat_map(|process| &process.refusals)
    };
    let ended = |what| what == FaultKind::BridgeEnded;
    if all().next().is_none() && !evidence.schedule.has_fault(ended) {
        return Some(format!(
            "{refused} responses were 503 although there was a spool, and no log says why"
        ));
    }
    let unexcused: Vec<_> = all()
        .filter(|refused| !is_excused(evidence, refused))
        .collect();
    let first = unexcused.first()?;
    let after = first.at_ms - evidence.load_began_ms;
    Some(format!(
        "{refused} responses were 503 although the spool had room; {} in the logs, the first {after} ms after the load began: {}",
        unexcused.len(),
        first.code,
    ))
}

/// A bridge with a full spool may refuse, and so may one that is shutting down.
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
    // A small spool is full until its entries are stored in Kafka.
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
