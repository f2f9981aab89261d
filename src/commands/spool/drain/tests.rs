use super::*;
use crate::spool::store::DamagedFile;

fn ledger(present: u64, lost: u64) -> EntryLedger {
    EntryLedger {
        recovered: 10 + present + lost,
        spooled: 0,
        drained: 6,
        confirmed_late: 0,
        already_stored: 3,
        dead_letters: 1,
        lost,
        present,
    }
}

fn summary(found: &OpenReport, reason: DrainEndReason, end: DrainResult) -> DrainSummary<'_> {
    DrainSummary {
        dir: Path::new("/spool"),
        end,
        reason,
        within: Some(Duration::from_secs(90)),
        found,
        took: Duration::from_millis(1_500),
    }
}

fn end(present: u64, lost: u64, set_aside: usize) -> DrainResult {
    let remaining = (present > 0).then(|| {
        (
            Destination::Quarantine,
            present,
            Some("the topic is missing".to_owned()),
        )
    });
    DrainResult {
        ledger: ledger(present, lost),
        dead_letters: Some(set_aside),
        remaining: remaining.into_iter().collect(),
    }
}

#[test]
fn entries_set_aside_are_reported() {
    let found = OpenReport::default();
    let summary = summary(&found, DrainEndReason::Empty, end(0, 0, 4));
    // Deleting the volume then would lose them.
    assert!(!summary.is_complete());
    let text = summary.to_text();
    for part in [
        "/spool is empty",
        "drained 6, already stored 3, confirmed late 0, set aside 1, took 1.5 s",
        "SET ASIDE: 4 entries",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("DAMAGE"));
}

#[test]
fn an_empty_spool_is_complete() {
    let found = OpenReport::default();
    assert!(summary(&found, DrainEndReason::Empty, end(0, 0, 0)).is_complete());
}

#[test]
fn remaining_entries_are_reported_with_the_reason() {
    let found = OpenReport::default();
    let late = summary(&found, DrainEndReason::DeadlineReached, end(7, 0, 0));
    assert!(!late.is_complete());
    let text = late.to_text();
    for part in [
        "not empty within 1m 30s: 7 entries are left in /spool, all of them on disk",
        "quarantine",
        "7: the topic is missing",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("SET ASIDE"));
    let stopped = summary(&found, DrainEndReason::Interrupted, end(7, 0, 0)).to_text();
    assert!(
        stopped.contains("stopped before the spool was empty: 7 entries"),
        "{stopped}"
    );
    // The last delivery report may arrive while the command stops.
    assert!(summary(&found, DrainEndReason::Interrupted, end(0, 0, 0)).is_complete());
}

#[test]
fn a_spool_emptied_by_damage_is_not_complete() {
    let sound = OpenReport::default();
    assert!(!summary(&sound, DrainEndReason::Empty, end(0, 2, 0)).is_complete());
    let missing = OpenReport {
        missing: vec!["1.redb".to_owned()],
        ..OpenReport::default()
    };
    assert!(!summary(&missing, DrainEndReason::Empty, end(0, 0, 0)).is_complete());
    let damaged = DamagedFile {
        file: "1.redb".to_owned(),
        moved_to: None,
        why: String::new(),
        lost: None,
    };
    let damaged = OpenReport {
        damaged: vec![damaged],
        ..OpenReport::default()
    };
    let text = summary(&damaged, DrainEndReason::Empty, end(0, 0, 0));
    assert!(!text.is_complete() && text.to_text().contains("DAMAGE was found: 1 files"));
}
