//! The promises, each held against the evidence.

mod documented_copies;

use std::collections::HashSet;

use butlr_simulate::journal::RecordedOutcome;
use butlr_simulate::verify::{Property, PropertyFinding, VerificationReport};

use super::bridge::ProcessEnd;
use super::evidence::{RecoveryLoad, TrialEvidence};
use super::refusals;
use super::schedule::FaultKind;
use documented_copies::DocumentedCopies;

/// So much memory a bridge may take at most, bytes: several times what it takes under such a load.
const MAX_MEMORY: u64 = 400 << 20;
/// So many examples are told.
const MAX_EXAMPLES: usize = 5;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenPromise {
    /// Its name.
    pub promise: String,
    /// What is wrong, with examples.
    pub details: String,
}

/// What the judgement found.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    pub broken_promises: Vec<BrokenPromise>,
    /// Records beyond the first of their event.
    pub copies: u64,
    /// Of those: sent again by librdkafka itself, or from the spool, because a result was not known.
    pub unexplained_copies: [u64; 2],
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

    /// A promise about which somebody else has an objection, or not.
    fn check_promise(&mut self, promise: &str, objection: Option<String>) {
        if let Some(what) = objection {
            self.report_broken(promise, what);
        }
    }
}

/// Judges all of it.
pub fn judge(evidence: &TrialEvidence) -> Judgement {
    let mut judgement = Judgement {
        records: evidence.records.len() as u64,
        ..Judgement::default()
    };
    check_processes(evidence, &mut judgement);
    check_answers(evidence, &mut judgement);
    check_ledgers(evidence, &mut judgement);
    judgement.check_promise("at rest", evidence.idle.clone().err());
    check_recovery(evidence, &mut judgement);
    check_deleted_topics(evidence, &mut judgement);
    check_quarantine(evidence, &mut judgement);
    match evidence.verify() {
        Ok(report) => check_verification(evidence, &report, &mut judgement),
        Err(error) => judgement.report_broken("verified", error),
    }
    judgement
}

/// Each process ended as it was asked to, and took no more memory than it may.
fn check_processes(evidence: &TrialEvidence, judgement: &mut Judgement) {
    for (number, life) in (1..).zip(&evidence.processes) {
        if let ProcessEnd::Unexpected(how) = &life.end {
            judgement.report_broken("ends", format!("process {number}: {how}"));
        }
        if life.peak_memory > MAX_MEMORY {
            let (took, most) = (life.peak_memory >> 20, MAX_MEMORY >> 20);
            let what = format!("process {number} took {took} MiB, {most} are allowed");
            judgement.report_broken("memory", what);
        }
    }
    if evidence.processes.is_empty() {
        judgement.report_broken("ends", "no process came to its end");
    }
}

/// Each request was answered in time, and each valid event taken in the end.
fn check_answers(evidence: &TrialEvidence, judgement: &mut Judgement) {
    let heard = &evidence.answers;
    if !heard.balanced {
        judgement.report_broken("sent", "the simulator's own ledger does not balance");
    }
    if heard.timeouts > 0 {
        let late = evidence.attempts.iter().filter(|a| a.late);
        let ids = join_examples(late.map(|a| format!("event_{}", a.id)));
        let what = format!("{} requests were not: {ids}", heard.timeouts);
        judgement.report_broken("answered in time", what);
    }
    let lost = heard.dropped + heard.unsent;
    if lost > 0 {
        let what = format!(
            "{} of {} deliveries were refused all along, {} never tried",
            heard.dropped, heard.deliveries, heard.unsent
        );
        judgement.report_broken("taken in the end", what);
    }
    // What a spool is for.
    judgement.check_promise("taken at once", refusals::find_unexcused(evidence));
}

/// Once all is well, each event is taken at once, and soon published without a detour.
fn check_recovery(evidence: &TrialEvidence, judgement: &mut Judgement) {
    for RecoveryLoad { answers: heard, .. } in &evidence.recovery {
        if heard.accepted < heard.deliveries || heard.status_503 + heard.timeouts > 0 {
            judgement.report_broken("works again", format!("{heard:?}"));
        }
    }
    judgement.check_promise("works again", RecoveryLoad::find_detour(&evidence.recovery));
}

/// The ledgers of each process that came to its end balance, and agree with what was sent.
fn check_ledgers(evidence: &TrialEvidence, judgement: &mut Judgement) {
    let mut received = 0;
    for (number, life) in (1..).zip(&evidence.processes) {
        match (&life.end, &life.ledger) {
            (ProcessEnd::Graceful(_), None) => {
                judgement.report_broken("books", format!("process {number} told none"));
            }
            (ProcessEnd::Graceful(_), Some(books)) => {
                let objection = books.find_imbalance();
                judgement
                    .check_promise("books", objection.map(|o| format!("process {number}: {o}")));
                if evidence.has_spool && books.spool.is_none() {
                    let what = format!("process {number} told no ledger of the spool");
                    judgement.report_broken("books", what);
                }
            }
            _ => {}
        }
    }
    check_spool_handover(evidence, judgement);
    judgement.check_promise("books", evidence.metrics.find_imbalance());
    let Some(last) = &evidence.ledger else {
        judgement.report_broken("books", "/status told none");
        return;
    };
    judgement.check_promise(
        "books",
        last.find_imbalance().map(|o| format!("/status: {o}")),
    );
    if evidence.has_spool && last.spool.is_none() {
        judgement.report_broken("books", "/status told no ledger of the spool");
    }
    if evidence
        .schedule
        .has_fault(|what| what == FaultKind::BridgeKilled)
    {
        return;
    }
    // All but the last: of that one, before what came after the load.
    let lives = evidence.processes.len().saturating_sub(1);
    for life in &evidence.processes[..lives] {
        received += life.ledger.as_ref().map_or(0, |books| books.received);
    }
    received += last.received;
    let sent = evidence.all_attempts().count() as u64;
    let unsure = evidence.answers.broken + evidence.answers.timeouts;
    // What comes while a bridge ends is refused unread.
    let least = match evidence
        .schedule
        .has_fault(|what| what == FaultKind::BridgeEnded)
    {
        true => 0,
        false => sent.saturating_sub(unsure),
    };
    if !(least..=sent).contains(&received) {
        let what = format!("{received} received, {sent} sent, of those {unsure} without an answer");
        judgement.report_broken("books", what);
    }
}

/// What a process left in its spool the next one found there.
fn check_spool_handover(evidence: &TrialEvidence, judgement: &mut Judgement) {
    let spools = evidence.processes.iter().map(|life| match life.end {
        ProcessEnd::Graceful(_) => life.ledger.as_ref()?.spool.as_ref(),
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
            judgement.report_broken("books", what);
        }
    }
}

/// Of a topic that was deleted, nothing has to be there; but nothing else, either.
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
            let of = attempt.event_type;
            judgement.report_broken("stored", format!("{id} in {of}, which was made again"));
        }
    }
}

/// What was answered as quarantined is there, and nothing that nobody sent.
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
        let what = format!("{} answered so are not there: {ids}", lost.len());
        judgement.report_broken("quarantined", what);
    }
    let sent: HashSet<u64> = evidence.all_attempts().map(|a| a.value_hash).collect();
    let strange = there.difference(&sent).count();
    if strange > 0 {
        judgement.report_broken("quarantined", format!("{strange} that nobody sent"));
    }
}

/// What the verifier found.
fn check_verification(
    evidence: &TrialEvidence,
    report: &VerificationReport,
    judgement: &mut Judgement,
) {
    judgement.copies = report.copies.all;
    let twins = DocumentedCopies::from_evidence(evidence);
    judgement.unexplained_copies = [twins.same_path, twins.from_spool];
    judgement.check_promise("verified", report.unproved_reason().map(str::to_owned));
    for property in Property::ALL {
        let finding = report.finding(property);
        let excused = match property {
            Property::RecordCount => twins.events,
            _ => 0,
        };
        if finding.violations > excused {
            judgement.report_broken(property.name(), summarize_finding(finding));
        }
    }
    let dropped = count_already_stored(evidence);
    if dropped.is_some_and(|most| report.already_stored > most) {
        let what = format!(
            "{} tries answered spooled have no record of their own, the bridge dropped {} entries as already stored",
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
            judgement.report_broken(property.name(), "nothing was looked at");
        }
    }
    if report.copies.unexplained() > twins.total() {
        let copies = report.copies;
        judgement.report_broken("copies", format!("without a cause: {copies:?}"));
    }
}

/// How many entries of before were dropped because the topics held their events; `None` where a process that may have done
/// so was killed.
fn count_already_stored(evidence: &TrialEvidence) -> Option<u64> {
    // The first process finds nothing.
    let later = evidence.processes.iter().skip(1);
    let dropped = later.map(|life| {
        let books = life.ledger.as_ref()?;
        Some(books.spool.as_ref().map_or(0, |spool| spool.already_stored))
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
