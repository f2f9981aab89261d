//! The dedup window as restored from the spool.

use super::*;
use crate::config::{self, ConfigSources};
use crate::dedup::claim::CurrentReading;
use crate::dedup::deduplicator::{Decision, Deduplicator};
use crate::metrics::Metrics;
use crate::spool::dedup_restore::restore_dedup_window;
use crate::spool::drain::can_start_sending;
use butlr_event::event_id::EventId;
use butlr_event::{ParseLimits, ParsedBody, parse};

fn open_deduplicator() -> (config::DedupConfig, Arc<Deduplicator>) {
    let address = ("kafka.bootstrap_servers".to_owned(), "127.0.0.1:1".into());
    let sources = ConfigSources {
        flags: vec![address],
        ..ConfigSources::default()
    };
    let config = config::load(&sources, &|_, _| Ok(())).expect("a configuration");
    let deduplicator =
        Deduplicator::open(&config, &Metrics::new(&config.topics.names())).expect("no Redis");
    (config.dedup, Arc::new(deduplicator.expect("it is on")))
}

/// An event of one room and time.
fn occupancy(id: &str, people: u32) -> String {
    in_room("r", id, people)
}

fn in_room(room: &str, id: &str, people: u32) -> String {
    format!(
        r#"{{"id":"{id}","type":"ROOM_OCCUPANCY","timestamp":1800000000000,"version":"v1.0.0","metadata":{{"room_id":"{room}"}},"data":{people}}}"#
    )
}

fn with_facts<T>(event: &str, call: impl FnOnce(&EventFacts<'_>) -> T) -> T {
    match parse(event.as_bytes(), None, ParseLimits::UNLIMITED) {
        Ok(ParsedBody::Single(Ok(event))) => call(&EventFacts::from_event(&event, true)),
        other => panic!("{other:?}"),
    }
}

/// Returns the kind of duplicate that an event is, and `true` if the earlier event is still in the
/// spool; `None` if it is to be published.
fn duplicate_verdict(deduplicator: &Deduplicator, event: &str) -> Option<(DuplicateKind, bool)> {
    let claimed = with_facts(event, |facts| deduplicator.try_claim(facts, Instant::now()));
    match claimed.expect("nothing is undecided") {
        Decision::Publish(_) => None,
        Decision::Duplicate { kind, storage } => Some((kind, storage.is_spooled())),
    }
}

async fn append(harness: &SpoolHarness, event: &str) {
    let entry = new_entry(ROOM, event.as_bytes(), false);
    assert_eq!(harness.spool.append(entry, None, None).await, Ok(()));
}

/// Appends an event with its claim, as the pipeline does.
async fn claim_and_append(harness: &SpoolHarness, deduplicator: &Deduplicator, event: &str) {
    let claimed = with_facts(event, |facts| deduplicator.try_claim(facts, Instant::now()));
    let Ok(Decision::Publish(claim)) = claimed else {
        panic!("{claimed:?}");
    };
    let entry = new_entry(ROOM, event.as_bytes(), false);
    assert_eq!(harness.spool.append(entry, Some(claim), None).await, Ok(()));
}

async fn restore_and_wait(
    harness: &SpoolHarness,
    deduplicator: &Arc<Deduplicator>,
    settings: &config::DedupConfig,
) {
    restore_dedup_window(&harness.spool, deduplicator, settings);
    harness
        .wait_until("restored", |_| deduplicator.is_spool_restored())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn entries_that_cannot_be_read_leave_no_value_for_a_repeat() {
    for is_readable in [true, false] {
        // One segment for each entry.
        let harness = SpoolHarness::with_settings(|s| s.segment_bytes = 1);
        append(&harness, &occupancy("a", 4)).await;
        // The first batch ends among these.
        harness.append_all(ROOM, "others", 0..1_000).await;
        append(&harness, &occupancy("b", 5)).await;
        append(&harness, &occupancy("c", 6)).await;
        if !is_readable {
            let segments = harness.spool.store().segments();
            let [.., of_b, _] = &segments[..] else {
                panic!("{segments:?}");
            };
            std::fs::remove_file(harness.dir.path().join(&of_b.file)).unwrap();
        }
        let (settings, deduplicator) = open_deduplicator();
        restore_and_wait(&harness, &deduplicator, &settings).await;
        let redelivery = Some((DuplicateKind::Redelivery, true));
        assert_eq!(
            duplicate_verdict(&deduplicator, &occupancy("a", 4)),
            redelivery
        );
        assert_eq!(deduplicator.incomplete_reason().is_none(), is_readable);
        // The 6 came after the 4, although it cannot be read in one case.
        assert_eq!(duplicate_verdict(&deduplicator, &occupancy("d", 4)), None);
        let repeat = is_readable.then_some((DuplicateKind::Repeat, true));
        assert_eq!(duplicate_verdict(&deduplicator, &occupancy("e", 6)), repeat);
    }
}

/// Entries that are left out may be newer than the readings in the topics.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn beside_very_many_entries_the_topics_leave_no_value_for_a_repeat() {
    for most in [2, 1] {
        let harness = SpoolHarness::new();
        append(&harness, &occupancy("b", 5)).await;
        append(&harness, &in_room("another", "c", 6)).await;
        let (mut settings, deduplicator) = open_deduplicator();
        settings.max_ids = most;
        restore_and_wait(&harness, &deduplicator, &settings).await;
        assert_eq!(deduplicator.incomplete_reason().is_none(), most == 2);
        let repeat = Some((DuplicateKind::Repeat, true));
        assert_eq!(
            duplicate_verdict(&deduplicator, &in_room("another", "d", 6)),
            repeat
        );
        // A reading from before the 5.
        with_facts(&occupancy("a", 4), |facts| {
            let current = CurrentReading {
                reading: facts.reading,
                id: EventId::new("a"),
                revision: 0,
            };
            let (key, now) = (facts.occupancy_key.unwrap(), Instant::now());
            let memory = deduplicator.memory();
            memory.restore_current(key, current, Duration::ZERO, now);
        });
        assert_eq!(duplicate_verdict(&deduplicator, &occupancy("e", 4)), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_lost_to_damage_is_accepted_when_it_is_sent_again() {
    let (_, deduplicator) = open_deduplicator();
    // One segment for each entry.
    let mut harness =
        SpoolHarness::with_deduplicator(Some(Arc::clone(&deduplicator)), |s| s.segment_bytes = 1);
    let (lost, kept) = (occupancy("lost", 4), in_room("another", "kept", 5));
    for event in [&lost, &kept] {
        claim_and_append(&harness, &deduplicator, event).await;
        let redelivery = Some((DuplicateKind::Redelivery, true));
        assert_eq!(duplicate_verdict(&deduplicator, event), redelivery);
    }
    let file = harness.spool.store().segments()[0].file.clone();
    let path = harness.dir.path().join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = memchr::memmem::rfind(&bytes, lost.as_bytes()).expect("it is there");
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    harness.drain();
    harness.wait_until_empty().await;
    assert_eq!(
        (harness.spool.ledger().lost, harness.spool.ledger().drained),
        (1, 1)
    );
    harness
        .wait_until("the loss is noticed", |_| {
            duplicate_verdict(&deduplicator, &lost).is_none()
        })
        .await;
    claim_and_append(&harness, &deduplicator, &lost).await;
    harness.wait_until_empty().await;
    assert_eq!(
        duplicate_verdict(&deduplicator, &lost),
        Some((DuplicateKind::Redelivery, false))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn if_entries_are_silently_gone_no_entry_counts_as_an_earlier_event() {
    let (_, deduplicator) = open_deduplicator();
    let mut harness = SpoolHarness::with_deduplicator(Some(Arc::clone(&deduplicator)), |_| {});
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    harness.drain();
    let event = occupancy("a", 4);
    claim_and_append(&harness, &deduplicator, &event).await;
    harness.wait_until("sent", |h| h.kafka.queued() == 1).await;
    let redelivery = Some((DuplicateKind::Redelivery, true));
    assert_eq!(duplicate_verdict(&deduplicator, &event), redelivery);
    let backlog = &harness.spool.shared.backlogs[TRAFFIC.index()];
    backlog.add(1);
    backlog.add_committed(1);
    harness
        .wait_until("the loss is noticed", |_| {
            duplicate_verdict(&deduplicator, &event).is_none()
        })
        .await;
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    harness.wait_until_empty().await;
}

/// If it learned of the entry afterwards, duplicate detection would take it for stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_sent_before_the_dedup_window_is_restored() {
    let harness = SpoolHarness::new();
    let [refused, taken] = [occupancy("refused", 4), in_room("another", "taken", 5)];
    append(&harness, &refused).await;
    append(&harness, &taken).await;
    harness.kafka.refuse(refused.as_bytes());
    let (settings, deduplicator) = open_deduplicator();
    let mut harness = harness.restart_with_deduplicator(Some(Arc::clone(&deduplicator)));
    deduplicator.expect_spool();
    harness.drain();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(harness.spool.ledger().present, 2);
    assert!(matches!(harness.spool.route(ROOM), Route::Spool));
    restore_and_wait(&harness, &deduplicator, &settings).await;
    harness.wait_until_empty().await;
    let ledger = harness.spool.ledger();
    assert_eq!((ledger.dead_letters, ledger.drained), (1, 1));
    assert_eq!(duplicate_verdict(&deduplicator, &refused), None);
    assert_eq!(
        duplicate_verdict(&deduplicator, &taken),
        Some((DuplicateKind::Redelivery, false))
    );
}

#[test]
fn a_failed_restore_delays_the_drain_for_five_minutes_at_most() {
    let (_, deduplicator) = open_deduplicator();
    assert!(can_start_sending(None, Duration::ZERO));
    assert!(can_start_sending(Some(&deduplicator), Duration::ZERO));
    deduplicator.expect_spool();
    assert!(!can_start_sending(
        Some(&deduplicator),
        Duration::from_secs(299)
    ));
    assert!(can_start_sending(
        Some(&deduplicator),
        Duration::from_secs(300)
    ));
}
