//! The promises, each held against the evidence.

mod twins;

use std::collections::HashSet;

use butlr_simulate::journal::RecordedOutcome;
use butlr_simulate::verify::{Property, PropertyFinding, VerificationReport};

use super::bridge::Ended;
use super::evidence::{After, Evidence};
use super::refusals;
use super::schedule::What;
use twins::Twins;

/// So much memory a bridge may take at most, bytes: several times what it takes under such a load.
const MEMORY: u64 = 400 << 20;
/// So many examples are told.
const EXAMPLES: usize = 5;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub promise: String,
    /// What is wrong, with examples.
    pub what: String,
}

/// What the judgement found.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    pub broken: Vec<Broken>,
    /// Records beyond the first of their event.
    pub copies: u64,
    /// Of those: sent again by librdkafka itself, or from the spool, because a result was not known.
    pub twins: [u64; 2],
    pub records: u64,
}

impl Judgement {
    fn broken(&mut self, promise: &str, what: impl Into<String>) {
        let (promise, what) = (promise.to_owned(), what.into());
        self.broken.push(Broken { promise, what });
    }

    /// A promise about which somebody else has an objection, or not.
    fn hold(&mut self, promise: &str, objection: Option<String>) {
        if let Some(what) = objection {
            self.broken(promise, what);
        }
    }
}

/// Judges all of it.
pub fn judge(evidence: &Evidence) -> Judgement {
    let mut judgement = Judgement {
        records: evidence.records.len() as u64,
        ..Judgement::default()
    };
    processes(evidence, &mut judgement);
    answers(evidence, &mut judgement);
    books(evidence, &mut judgement);
    judgement.hold("at rest", evidence.rest.clone().err());
    works_again(evidence, &mut judgement);
    deleted_topics(evidence, &mut judgement);
    quarantine(evidence, &mut judgement);
    match evidence.verify() {
        Ok(report) => verified(evidence, &report, &mut judgement),
        Err(error) => judgement.broken("verified", error),
    }
    judgement
}

/// Each process ended as it was asked to, and took no more memory than it may.
fn processes(evidence: &Evidence, judgement: &mut Judgement) {
    for (number, life) in (1..).zip(&evidence.lives) {
        if let Ended::Badly(how) = &life.ended {
            judgement.broken("ends", format!("process {number}: {how}"));
        }
        if life.memory > MEMORY {
            let (took, most) = (life.memory >> 20, MEMORY >> 20);
            let what = format!("process {number} took {took} MiB, {most} are allowed");
            judgement.broken("memory", what);
        }
    }
    if evidence.lives.is_empty() {
        judgement.broken("ends", "no process came to its end");
    }
}

/// Each request was answered in time, and each valid event taken in the end.
fn answers(evidence: &Evidence, judgement: &mut Judgement) {
    let heard = &evidence.heard;
    if !heard.balanced {
        judgement.broken("sent", "the simulator's own ledger does not balance");
    }
    if heard.timeouts > 0 {
        let late = evidence.attempts.iter().filter(|a| a.late);
        let ids = some(late.map(|a| format!("event_{}", a.id)));
        let what = format!("{} requests were not: {ids}", heard.timeouts);
        judgement.broken("answered in time", what);
    }
    let lost = heard.dropped + heard.unsent;
    if lost > 0 {
        let what = format!(
            "{} of {} deliveries were refused all along, {} never tried",
            heard.dropped, heard.deliveries, heard.unsent
        );
        judgement.broken("taken in the end", what);
    }
    // What a spool is for.
    judgement.hold("taken at once", refusals::without_need(evidence));
}

/// Once all is well, each event is taken at once, and soon published without a detour.
fn works_again(evidence: &Evidence, judgement: &mut Judgement) {
    for After { heard, .. } in &evidence.after {
        if heard.accepted < heard.deliveries || heard.status_503 + heard.timeouts > 0 {
            judgement.broken("works again", format!("{heard:?}"));
        }
    }
    judgement.hold("works again", After::detour(&evidence.after));
}

/// The ledgers of each process that came to its end balance, and agree with what was sent.
fn books(evidence: &Evidence, judgement: &mut Judgement) {
    let mut received = 0;
    for (number, life) in (1..).zip(&evidence.lives) {
        match (&life.ended, &life.books) {
            (Ended::Gracefully(_), None) => {
                judgement.broken("books", format!("process {number} told none"));
            }
            (Ended::Gracefully(_), Some(books)) => {
                let objection = books.objection();
                judgement.hold("books", objection.map(|o| format!("process {number}: {o}")));
                if evidence.spool && books.spool.is_none() {
                    let what = format!("process {number} told no ledger of the spool");
                    judgement.broken("books", what);
                }
            }
            _ => {}
        }
    }
    handed_on(evidence, judgement);
    judgement.hold("books", evidence.metrics.objection());
    let Some(last) = &evidence.books else {
        judgement.broken("books", "/status told none");
        return;
    };
    judgement.hold("books", last.objection().map(|o| format!("/status: {o}")));
    if evidence.spool && last.spool.is_none() {
        judgement.broken("books", "/status told no ledger of the spool");
    }
    if evidence.schedule.has(|what| what == What::BridgeKilled) {
        return;
    }
    // All but the last: of that one, before what came after the load.
    let lives = evidence.lives.len().saturating_sub(1);
    for life in &evidence.lives[..lives] {
        received += life.books.as_ref().map_or(0, |books| books.received);
    }
    received += last.received;
    let sent = evidence.all_attempts().count() as u64;
    let unsure = evidence.heard.broken + evidence.heard.timeouts;
    // What comes while a bridge ends is refused unread.
    let least = match evidence.schedule.has(|what| what == What::BridgeEnded) {
        true => 0,
        false => sent.saturating_sub(unsure),
    };
    if !(least..=sent).contains(&received) {
        let what = format!("{received} received, {sent} sent, of those {unsure} without an answer");
        judgement.broken("books", what);
    }
}

/// What a process left in its spool the next one found there.
fn handed_on(evidence: &Evidence, judgement: &mut Judgement) {
    let spools = evidence.lives.iter().map(|life| match life.ended {
        Ended::Gracefully(_) => life.books.as_ref()?.spool.as_ref(),
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
            judgement.broken("books", what);
        }
    }
}

/// Of a topic that was deleted, nothing has to be there; but nothing else, either.
fn deleted_topics(evidence: &Evidence, judgement: &mut Judgement) {
    let deleted = evidence.schedule.deleted();
    let by_id = evidence.by_id();
    let records = evidence.records.iter();
    for record in records.filter(|r| deleted.contains(&r.event_type)) {
        let at = format!(
            "{} in {}, partition {}, offset {}",
            record.id, record.event_type, record.partition, record.offset
        );
        match by_id.get(&record.id) {
            None => judgement.broken("sent", format!("{at}: nobody sent it")),
            Some(tries) if tries.iter().all(|t| t.value_hash != record.value) => {
                judgement.broken("intact", format!("{at}: other bytes than were sent"));
            }
            Some(_) => {}
        }
    }
    let there: HashSet<&str> = evidence.records.iter().map(|r| r.id.as_str()).collect();
    let after = evidence.attempts_after();
    for attempt in after.filter(|a| deleted.contains(&a.event_type)) {
        let id = format!("event_{}", attempt.id);
        let stored = matches!(
            attempt.outcome,
            RecordedOutcome::Published | RecordedOutcome::Spooled
        );
        if stored && !there.contains(id.as_str()) {
            let of = attempt.event_type;
            judgement.broken("stored", format!("{id} in {of}, which was made again"));
        }
    }
}

/// What was answered as quarantined is there, and nothing that nobody sent.
fn quarantine(evidence: &Evidence, judgement: &mut Judgement) {
    let all = &evidence.quarantined;
    let valid = all.iter().filter(|q| q.is_valid).count();
    if valid > 0 {
        judgement.broken("quarantined", format!("{valid} that are valid"));
    }
    let there: HashSet<u64> = all.iter().map(|q| q.value).collect();
    let answered = evidence.all_attempts();
    let answered = answered.filter(|a| a.outcome == RecordedOutcome::Quarantined);
    let lost: Vec<_> = answered
        .filter(|a| !there.contains(&a.value_hash))
        .collect();
    if !lost.is_empty() {
        let ids = some(lost.iter().map(|a| format!("event_{}", a.id)));
        let what = format!("{} answered so are not there: {ids}", lost.len());
        judgement.broken("quarantined", what);
    }
    let sent: HashSet<u64> = evidence.all_attempts().map(|a| a.value_hash).collect();
    let strange = there.difference(&sent).count();
    if strange > 0 {
        judgement.broken("quarantined", format!("{strange} that nobody sent"));
    }
}

/// What the verifier found.
fn verified(evidence: &Evidence, report: &VerificationReport, judgement: &mut Judgement) {
    judgement.copies = report.copies.all;
    let twins = Twins::of(evidence);
    judgement.twins = [twins.same, twins.from_spool];
    judgement.hold("verified", report.unproved_reason().map(str::to_owned));
    for property in Property::ALL {
        let finding = report.finding(property);
        let excused = match property {
            Property::RecordCount => twins.events,
            _ => 0,
        };
        if finding.violations > excused {
            judgement.broken(property.name(), told(finding));
        }
    }
    let dropped = already_stored(evidence);
    if dropped.is_some_and(|most| report.already_stored > most) {
        let what = format!(
            "{} tries answered spooled have no record of their own, the bridge dropped {} entries as already stored",
            report.already_stored,
            dropped.unwrap_or_default()
        );
        judgement.broken("stored", what);
    }
    for property in [
        Property::Stored,
        Property::Sent,
        Property::Intact,
        Property::RecordCount,
    ] {
        if report.finding(property).checked == 0 {
            judgement.broken(property.name(), "nothing was looked at");
        }
    }
    if report.copies.unexplained() > twins.all() {
        let copies = report.copies;
        judgement.broken("copies", format!("without a cause: {copies:?}"));
    }
}

/// How many entries of before were dropped because the topics held their events; `None` where a process that may have done
/// so was killed.
fn already_stored(evidence: &Evidence) -> Option<u64> {
    // The first process finds nothing.
    let later = evidence.lives.iter().skip(1);
    let dropped = later.map(|life| {
        let books = life.books.as_ref()?;
        Some(books.spool.as_ref().map_or(0, |spool| spool.already_stored))
    });
    dropped.sum()
}

fn told(finding: &PropertyFinding) -> String {
    let first = finding.first.iter().map(|violation| {
        let id = violation.id.as_deref().unwrap_or("?");
        let at = violation.position.map(|p| format!(" ({p:?})"));
        format!("{id}{}: {}", at.unwrap_or_default(), violation.text)
    });
    format!("{} violations: {}", finding.violations, some(first))
}

fn some(all: impl Iterator<Item = String>) -> String {
    all.take(EXAMPLES).collect::<Vec<_>>().join("; ")
}
