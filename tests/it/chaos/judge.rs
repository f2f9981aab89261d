//! Promises of the bridge, each checked against the evidence.

mod documented_copies;

use std::collections::HashSet;

use butlr_simulate::journal::RecordedOutcome;
use butlr_simulate::verify::{Property, PropertyFinding, VerificationReport};

use super::bridge::ProcessEnd;
use super::evidence::{RecoveryLoad, TrialEvidence};
use super::refusals;
use super::schedule::FaultKind;
use documented_copies::DocumentedCopies;

/// Memory limit of a bridge in bytes, several times its use under such a load.
const MAX_MEMORY: u64 = 400 << 20;
/// Number of examples in the details.
const MAX_EXAMPLES: usize = 5;

/// Promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenPromise {
    pub promise: String,
    /// Description with examples.
    pub details: String,
}

/// Result of the judgement.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    pub broken_promises: Vec<BrokenPromise>,
    /// Records beyond the first of each event.
    pub copies: u64,
    /// Copies for a documented reason: sent again by librdkafka, or from the spool.
    pub documented_copies: [u64; 2],
    pub records: u64,
}

impl Judgement {
    fn report_broken(&mut self, promise: &str, what: impl Into<String>) {
        let (promise, what) = (promise.to_owned(), what.into());
        self.broken_promises.push(BrokenPromise {
            promise,
            details: what,
        });
    }

    /// Records a failure if there is an objection.
    fn check_promise(&mut self, promise: &str, objection: Option<String>) {
        if let Some(what) = objection {
            self.report_broken(promise, what);
        }
    }
}

/// Checks all promises.
pub fn judge(evidence: &TrialEvidence) -> Judgement {
    let mut judgement = Judgement {
        records: evidence.records.len() as u64,
        ..Judgement::default()
    };
    check_processes(evidence, &mut judgement);
    check_responses(evidence, &mut judgement);
    check_ledgers(evidence, &mut judgement);
    judgement.check_promise("idle", evidence.idle.clone().err());
    check_recovery(evidence, &mut judgement);
    check_deleted_topics(evidence, &mut judgement);
    check_quarantine(evidence, &mut judgement);
    match evidence.verify() {
        Ok(report) => check_verification(evidence, &report, &mut judgement),
        Err(error) => judgement.report_broken("verified", error),
    }
    judgement
}

/// Each process ended as requested and stayed within the memory limit.
fn check_processes(evidence: &TrialEvidence, judgement: &mut Judgement) {
    for (number, process) in (1..).zip(&evidence.processes) {
        if let ProcessEnd::Unexpected(how) = &process.end {
            judgement.report_broken("ends", format!("process {number}: {how}"));
        }
        if process.peak_memory > MAX_MEMORY {
            let (took, most) = (process.peak_memory >> 20, MAX_MEMORY >> 20);
            let what = format!("process {number} used {took} MiB, the limit is {most} MiB");
            judgement.report_broken("memory", what);
        }
    }
    if evidence.processes.is_empty() {
        judgement.report_broken("ends", "no process has ended");
    }
}

/// Each request got a response in time, and each valid event was accepted in the end.
fn check_responses(evidence: &TrialEvidence, judgement: &mut Judgement) {
    let responses = &evidence.responses;
    if !responses.balanced {
        judgement.report_broken("sent", "the simulator's own ledger does not balance");
    }
    if responses.timeouts > 0 {
        let late = evidence.attempts.iter().filter(|a| a.late);
        let ids = join_examples(late.map(|a| format!("event_{}", a.id)));
        let what = format!("{} requests got none: {ids}", responses.timeouts);
        judgement.report_broken("response in time", what);
    }
    let lost = responses.dropped + responses.unsent;
    if lost > 0 {
        let what = format!(
            "{} of {} deliveries were refused to the end, {} were never attempted",
            responses.dropped, responses.deliveries, responses.unsent
        );
        judgement.report_broken("accepted in the end", what);
    }
    // The purpose of a spool.
    judgement.check_promise("accepted at once", refusals::find_unexcused(evidence));
}

/// Once all faults have ended, each event is accepted at once and soon published without a detour.
fn check_recovery(evidence: &TrialEvidence, judgement: &mut Judgement) {
    for RecoveryLoad { responses, .. } in &evidence.recovery {
        if responses.accepted < responses.deliveries
            || responses.status_503 + responses.timeouts > 0
        {
            judgement.report_broken("works again", format!("{responses:?}"));
        }
    }
    judgement.check_promise("works again", RecoveryLoad::find_detour(&evidence.recovery));
}

/// The ledgers of each process that ended balance and agree with what was sent.
fn check_ledgers(evidence: &TrialEvidence, judgement: &mut Judgement) {
    let mut received = 0;
    for (number, process) in (1..).zip(&evidence.processes) {
        match (&process.end, &process.ledger) {
            (ProcessEnd::Graceful(_), None) => {
                judgement.report_broken("ledgers", format!("process {number} reported none"));
            }
            (ProcessEnd::Graceful(_), Some(ledger)) => {
                let objection = ledger.find_imbalance();
                judgement.check_promise(
                    "ledgers",
                    objection.map(|o| format!("process {number}: {o}")),
                );
                if evidence.has_spool && ledger.spool.is_none() {
                    let what = format!("process {number} reported no spool ledger");
                    judgement.report_broken("ledgers", what);
                }
            }
            _ => {}
        }
    }
    check_spool_handover(evidence, judgement);
    judgement.check_promise("ledgers", evidence.metrics.find_imbalance());
    let Some(last) = &evidence.ledger else {
        judgement.report_broken("ledgers", "/status reports none");
        return;
    };
    judgement.check_promise(
        "ledgers",
        last.find_imbalance().map(|o| format!("/status: {o}")),
    );
    if evidence.has_spool && last.spool.is_none() {
        judgement.report_broken("ledgers", "/status reports no spool ledger");
    }
    if evidence
        .schedule
        .has_fault(|what| what == FaultKind::BridgeKilled)
    {
        return;
    }
    // All processes but the last, and of the last only what came before the recovery load.
    let earlier = evidence.processes.len().saturating_sub(1);
    for process in &evidence.processes[..earlier] {
        received += process.ledger.as_ref().map_or(0, |ledger| ledger.received);
    }
    received += last.received;
    let sent = evidence.all_attempts().count() as u64;
    let unsure = evidence.responses.broken + evidence.responses.timeouts;
    // A request during a shutdown is refused unread.
    let least = if evidence
        .schedule
        .has_fault(|what| what == FaultKind::BridgeEnded)
    {
        0
    } else {
        sent.saturating_sub(unsure)
    };
    if !(least..=sent).contains(&received) {
        let what =
            format!("{received} received, {sent} sent, of those {unsure} without a response");
        judgement.report_broken("ledgers", what);
    }
}

/// Each process found in the spool what its predecessor had left there.
fn check_spool_handover(evidence: &TrialEvidence, judgement: &mut Judgement) {
    let spools = evidence.processes.iter().map(|process| match process.end {
        ProcessEnd::Graceful(_) => process.ledger.as_ref()?.spool.as_ref(),
        _ => None,
    });
    let spools: Vec<_> = spools.collect();
    for (number, pair) in (1..).zip(spools.windows(2)) {
        if let [Some(before), Some(after)] = pair
            && before.present != after.recovered
        {
            let what = format!(
                "process {number} left {} entries, the next one found {}",
                before.present, after.recovered
            );
            judgement.report_broken("ledgers", what);
        }
    }
}

/// A deleted topic may lack any record but contains no foreign one.
fn check_deleted_topics(evidence: &TrialEvidence, judgement: &mut Judgement) {
    let deleted = evidence.schedule.deleted_topics();
    let by_id = evidence.attempts_by_id();
    let records = evidence.records.iter();
    for record in records.filter(|r| deleted.contains(&r.event_type)) {
        let at = format!(
            "{} in {}, partition {}, offset {}",
            record.id, record.event_type, record.partition, record.offset
        );
        match by_id.get(&record.id) {
            None => judgement.report_broken("sent", format!("{at}: nobody sent it")),
            Some(tries) if tries.iter().all(|t| t.value_hash != record.value_hash) => {
                judgement.report_broken("intact", format!("{at}: other bytes than were sent"));
            }
            Some(_) => {}
        }
    }
    let there: HashSet<&str> = evidence.records.iter().map(|r| r.id.as_str()).collect();
    let after = evidence.recovery_attempts();
    for attempt in after.filter(|a| deleted.contains(&a.event_type)) {
        let id = format!("event_{}", attempt.id);
        let stored = matches!(
            attempt.outcome,
            RecordedOutcome::Published | RecordedOutcome::Spooled
        );
        if stored && !there.contains(id.as_str()) {
            let event_type = attempt.event_type;
            judgement.report_broken(
                "stored",
                format!("{id} in {event_type}, which was recreated"),
            );
        }
    }
}

/// Every item reported as quarantined is stored, and nothing that was not sent.
fn check_quarantine(evidence: &TrialEvidence, judgement: &mut Judgement) {
    let all = &evidence.quarantined;
    let valid = all.iter().filter(|q| q.is_valid).count();
    if valid > 0 {
        judgement.report_broken("quarantined", format!("{valid} that are valid"));
    }
    let there: HashSet<u64> = all.iter().map(|q| q.value_hash).collect();
    let answered = evidence.all_attempts();
    let answered = answered.filter(|a| a.outcome == RecordedOutcome::Quarantined);
    let lost: Vec<_> = answered
        .filter(|a| !there.contains(&a.value_hash))
        .collect();
    if !lost.is_empty() {
        let ids = join_examples(lost.iter().map(|a| format!("event_{}", a.id)));
        let what = format!(
            "{} reported as quarantined are not stored: {ids}",
            lost.len()
        );
        judgement.report_broken("quarantined", what);
    }
    let sent: HashSet<u64> = evidence.all_attempts().map(|a| a.value_hash).collect();
    let strange = there.difference(&sent).count();
    if strange > 0 {
        judgement.report_broken("quarantined", format!("{strange} that were never sent"));
    }
}

/// Checks the findings of the verifier.
fn check_verification(
    evidence: &TrialEvidence,
    report: &VerificationReport,
    judgement: &mut Judgement,
) {
    judgement.copies = report.copies.all;
    let documented = DocumentedCopies::from_evidence(evidence);
    judgement.documented_copies = [documented.same_path, documented.from_spool];
    judgement.check_promise("verified", report.unproved_reason().map(str::to_owned));
    for property in Property::ALL {
        let finding = report.finding(property);
        let excused = match property {
            Property::RecordCount => documented.events,
            _ => 0,
        };
        if finding.violations > excused {
            judgement.report_broken(property.name(), summarize_finding(finding));
        }
    }
    let dropped = count_already_stored(evidence);
    if dropped.is_some_and(|most| report.already_stored > most) {
        let what = format!(
            "{} attempts reported as spooled have no record of their own, but the bridge dropped only \
             {} entries as already stored",
            report.already_stored,
            dropped.unwrap_or_default()
        );
        judgement.report_broken("stored", what);
    }
    for property in [
        Property::Stored,
        Property::Sent,
        Property::Intact,
        Property::RecordCount,
    ] {
        if report.finding(property).checked == 0 {
            judgement.report_broken(property.name(), "no record was checked");
        }
    }
    if report.copies.unexplained() > documented.total() {
        let copies = report.copies;
        judgement.report_broken("copies", format!("without a cause: {copies:?}"));
    }
}

/// Counts the entries of earlier processes that were dropped because their events were stored
/// already. Returns `None` if a process that may have done so was killed.
fn count_already_stored(evidence: &TrialEvidence) -> Option<u64> {
    // The first process starts with an empty spool.
    let later = evidence.processes.iter().skip(1);
    let dropped = later.map(|process| {
        let ledger = process.ledger.as_ref()?;
        Some(
            ledger
                .spool
                .as_ref()
                .map_or(0, |spool| spool.already_stored),
        )
    });
    dropped.sum()
}

fn summarize_finding(finding: &PropertyFinding) -> String {
    let first = finding.first.iter().map(|violation| {
        let id = violation.id.as_deref().unwrap_or("?");
        let at = violation.position.map(|p| format!(" ({p:?})"));
        format!("{id}{}: {}", at.unwrap_or_default(), violation.text)
    });
    format!(
        "{} violations: {}",
        finding.violations,
        join_examples(first)
    )
}

fn join_examples(all: impl Iterator<Item = String>) -> String {
    all.take(MAX_EXAMPLES).collect::<Vec<_>>().join("; ")
}
