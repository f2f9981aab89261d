use super::*;
use crate::spool::store::DamagedFile;

fn life(present: u64, lost: u64) -> EntryLedger {
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

fn summary(found: &OpenReport, why: DrainEndReason, end: DrainResult) -> DrainSummary<'_> {
    DrainSummary {
        dir: Path::new("/spool"),
        end,
        reason: why,
        within: Some(Duration::from_secs(90)),
        found,
        took: Duration::from_millis(1_500),
    }
}

fn end(present: u64, lost: u64, set_aside: usize) -> DrainResult {
    let left = (present > 0).then(|| {
        (
            Destination::Quarantine,
            present,
            Some("it is away".to_owned()),
        )
    });
    DrainResult {
        ledger: life(present, lost),
        dead_letters: Some(set_aside),
        remaining: left.into_iter().collect(),
    }
}

#[test]
fn what_was_set_aside_is_not_forgotten() {
    let found = OpenReport::default();
    let summary = summary(&found, DrainEndReason::Empty, end(0, 0, 4));
    // Whoever deletes the volume then is not to lose them.
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
fn an_empty_spool_is_good() {
    let found = OpenReport::default();
    assert!(summary(&found, DrainEndReason::Empty, end(0, 0, 0)).is_complete());
}

#[test]
fn what_is_left_is_told_with_the_reason() {
    let found = OpenReport::default();
    let late = summary(&found, DrainEndReason::DeadlineReached, end(7, 0, 0));
    assert!(!late.is_complete());
    let text = late.to_text();
    for part in [
        "not empty within 1m 30s: 7 entries are left in /spool, all of them on disk",
        "quarantine",
        "7: it is away",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("SET ASIDE"));
    let stopped = summary(&found, DrainEndReason::Interrupted, end(7, 0, 0)).to_text();
    assert!(
        stopped.contains("ended before it was empty: 7 entries"),
        "{stopped}"
    );
    // The last report may come while it ends.
    assert!(summary(&found, DrainEndReason::Interrupted, end(0, 0, 0)).is_complete());
}

#[test]
fn empty_by_damage_is_not_good() {
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
