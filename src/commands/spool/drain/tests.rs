use super::*;
use crate::spool::store::Damaged;

fn life(present: u64, lost: u64) -> Life {
    Life {
        recovered: 10 + present + lost,
        spooled: 0,
        drained: 6,
        confirmed_late: 0,
        already_stored: 3,
        set_aside: 1,
        lost,
        present,
    }
}

fn summary(found: &Found, why: Why, end: End) -> Summary<'_> {
    Summary {
        dir: Path::new("/spool"),
        end,
        why,
        within: Some(Duration::from_secs(90)),
        found,
        took: Duration::from_millis(1_500),
    }
}

fn end(present: u64, lost: u64, set_aside: usize) -> End {
    let left = (present > 0).then(|| {
        (
            Destination::Quarantine,
            present,
            Some("it is away".to_owned()),
        )
    });
    End {
        life: life(present, lost),
        set_aside: Some(set_aside),
        left: left.into_iter().collect(),
    }
}

#[test]
fn what_was_set_aside_is_not_forgotten() {
    let found = Found::default();
    let summary = summary(&found, Why::Empty, end(0, 0, 4));
    // Whoever deletes the volume then is not to lose them.
    assert!(!summary.is_good());
    let text = summary.text();
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
    let found = Found::default();
    assert!(summary(&found, Why::Empty, end(0, 0, 0)).is_good());
}

#[test]
fn what_is_left_is_told_with_the_reason() {
    let found = Found::default();
    let late = summary(&found, Why::Late, end(7, 0, 0));
    assert!(!late.is_good());
    let text = late.text();
    for part in [
        "not empty within 1m 30s: 7 entries are left in /spool, all of them on disk",
        "quarantine",
        "7: it is away",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("SET ASIDE"));
    let stopped = summary(&found, Why::Signal, end(7, 0, 0)).text();
    assert!(
        stopped.contains("ended before it was empty: 7 entries"),
        "{stopped}"
    );
    // The last report may come while it ends.
    assert!(summary(&found, Why::Signal, end(0, 0, 0)).is_good());
}

#[test]
fn empty_by_damage_is_not_good() {
    let sound = Found::default();
    assert!(!summary(&sound, Why::Empty, end(0, 2, 0)).is_good());
    let missing = Found {
        missing: vec!["1.redb".to_owned()],
        ..Found::default()
    };
    assert!(!summary(&missing, Why::Empty, end(0, 0, 0)).is_good());
    let damaged = Damaged {
        file: "1.redb".to_owned(),
        moved_to: None,
        why: String::new(),
        lost: None,
    };
    let damaged = Found {
        damaged: vec![damaged],
        ..Found::default()
    };
    let text = summary(&damaged, Why::Empty, end(0, 0, 0));
    assert!(!text.is_good() && text.text().contains("DAMAGE was found: 1 files"));
}
