//! What duplicate detection knows of what is in the spool.

use super::*;
use crate::config::{self, ConfigSources};
use crate::dedup::claim::CurrentReading;
use crate::dedup::deduplicator::{Decision, Deduplicator};
use crate::metrics::Metrics;
use crate::spool::drain::can_hand_over;
use crate::spool::restore::restore_dedup_window;
use butlr_event::event_id::EventId;
use butlr_event::{ParseLimits, ParsedBody, parse};

fn open_deduplicator() -> (config::DedupConfig, Arc<Deduplicator>) {
    let address = ("kafka.bootstrap_servers".to_owned(), "127.0.0.1:1".into());
    let sources = ConfigSources {
        flags: vec![address],
        ..ConfigSources::default()
    };
    let config = config::load(&sources, &|_, _| Ok(())).expect("a configuration");
    let desk =
        Deduplicator::open(&config, &Metrics::new(&config.topics.names())).expect("no Redis");
    (config.dedup, Arc::new(desk.expect("it is on")))
}

/// Of always the same room and time.
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

/// As what, and whether of something on disk, an event is dropped; `None`: it is to be published.
fn duplicate_verdict(desk: &Deduplicator, event: &str) -> Option<(DuplicateKind, bool)> {
    let claimed = with_facts(event, |facts| desk.try_claim(facts, Instant::now()));
    match claimed.expect("nothing is undecided") {
        Decision::Publish(_) => None,
        Decision::Duplicate { kind, storage } => Some((kind, storage.is_spooled())),
    }
}

async fn append(bench: &SpoolHarness, event: &str) {
    let entry = new_entry(ROOM, event.as_bytes(), false);
    assert_eq!(bench.spool.append(entry, None, None).await, Ok(()));
}

/// The same with its claim, as the pipeline does.
async fn claim_and_append(bench: &SpoolHarness, desk: &Deduplicator, event: &str) {
    let claimed = with_facts(event, |facts| desk.try_claim(facts, Instant::now()));
    let Ok(Decision::Publish(claim)) = claimed else {
        panic!("{claimed:?}");
    };
    let entry = new_entry(ROOM, event.as_bytes(), false);
    assert_eq!(bench.spool.append(entry, Some(claim), None).await, Ok(()));
}

async fn restore_and_wait(
    bench: &SpoolHarness,
    desk: &Arc<Deduplicator>,
    settings: &config::DedupConfig,
) {
    restore_dedup_window(&bench.spool, desk, settings);
    bench
        .wait_until("restored", |_| desk.is_spool_restored())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_read_back_leaves_no_value_that_others_repeat() {
    for is_readable in [true, false] {
        // A segment for each.
        let bench = SpoolHarness::with_settings(|s| s.segment_bytes = 1);
        append(&bench, &occupancy("a", 4)).await;
        // The first read ends among these.
        bench.append_all(ROOM, "others", 0..1_000).await;
        append(&bench, &occupancy("b", 5)).await;
        append(&bench, &occupancy("c", 6)).await;
        if !is_readable {
            let segments = bench.spool.store().segments();
            let [.., of_b, _] = &segments[..] else {
                panic!("{segments:?}");
            };
            std::fs::remove_file(bench.dir.path().join(&of_b.file)).unwrap();
        }
        let (settings, desk) = open_deduplicator();
        restore_and_wait(&bench, &desk, &settings).await;
        let redelivery = Some((DuplicateKind::Redelivery, true));
        assert_eq!(duplicate_verdict(&desk, &occupancy("a", 4)), redelivery);
        assert_eq!(desk.incomplete_reason().is_none(), is_readable);
        // The 6 came after it, whether or not that can be read.
        assert_eq!(duplicate_verdict(&desk, &occupancy("d", 4)), None);
        let repeat = is_readable.then_some((DuplicateKind::Repeat, true));
        assert_eq!(duplicate_verdict(&desk, &occupancy("e", 6)), repeat);
    }
}

/// What is left out may be newer than what the topics tell, and come after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn beside_very_many_entries_the_topics_tell_no_value_that_others_repeat() {
    for most in [2, 1] {
        let bench = SpoolHarness::new();
        append(&bench, &occupancy("b", 5)).await;
        append(&bench, &in_room("another", "c", 6)).await;
        let (mut settings, desk) = open_deduplicator();
        settings.max_ids = most;
        restore_and_wait(&bench, &desk, &settings).await;
        assert_eq!(desk.incomplete_reason().is_none(), most == 2);
        let repeat = Some((DuplicateKind::Repeat, true));
        assert_eq!(
            duplicate_verdict(&desk, &in_room("another", "d", 6)),
            repeat
        );
        // Of before the 5.
        with_facts(&occupancy("a", 4), |facts| {
            let current = CurrentReading {
                reading: facts.reading,
                id: EventId::new("a"),
                revision: 0,
            };
            let (cell, now) = (facts.occupancy_key.unwrap(), Instant::now());
            let memory = desk.memory();
            memory.restore_current(cell, current, Duration::ZERO, now);
        });
        assert_eq!(duplicate_verdict(&desk, &occupancy("e", 4)), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_lost_to_damage_is_taken_when_it_is_sent_again() {
    let (_, desk) = open_deduplicator();
    // A segment for each.
    let mut bench =
        SpoolHarness::with_deduplicator(Some(Arc::clone(&desk)), |s| s.segment_bytes = 1);
    let (lost, kept) = (occupancy("lost", 4), in_room("another", "kept", 5));
    for event in [&lost, &kept] {
        claim_and_append(&bench, &desk, event).await;
        let redelivery = Some((DuplicateKind::Redelivery, true));
        assert_eq!(duplicate_verdict(&desk, event), redelivery);
    }
    let file = bench.spool.store().segments()[0].file.clone();
    let path = bench.dir.path().join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = memchr::memmem::rfind(&bytes, lost.as_bytes()).expect("it is there");
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    bench.drain();
    bench.wait_until_empty().await;
    assert_eq!(
        (bench.spool.ledger().lost, bench.spool.ledger().drained),
        (1, 1)
    );
    bench
        .wait_until("told", |_| duplicate_verdict(&desk, &lost).is_none())
        .await;
    claim_and_append(&bench, &desk, &lost).await;
    bench.wait_until_empty().await;
    assert_eq!(
        duplicate_verdict(&desk, &lost),
        Some((DuplicateKind::Redelivery, false))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn beside_entries_that_are_gone_without_a_word_nothing_is_trusted() {
    let (_, desk) = open_deduplicator();
    let mut bench = SpoolHarness::with_deduplicator(Some(Arc::clone(&desk)), |_| {});
    bench
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    bench.drain();
    let event = occupancy("a", 4);
    claim_and_append(&bench, &desk, &event).await;
    bench.wait_until("sent", |b| b.kafka.queued() == 1).await;
    let redelivery = Some((DuplicateKind::Redelivery, true));
    assert_eq!(duplicate_verdict(&desk, &event), redelivery);
    let line = &bench.spool.shared.backlogs[TRAFFIC.index()];
    line.add(1);
    line.add_committed(1);
    bench
        .wait_until("told", |_| duplicate_verdict(&desk, &event).is_none())
        .await;
    bench.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    bench.wait_until_empty().await;
}

/// Told of it afterwards, it would take it for stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_handed_over_before_it_is_known_what_is_there() {
    let bench = SpoolHarness::new();
    let [refused, taken] = [occupancy("refused", 4), in_room("another", "taken", 5)];
    append(&bench, &refused).await;
    append(&bench, &taken).await;
    bench.kafka.refuse(refused.as_bytes());
    let (settings, desk) = open_deduplicator();
    let mut bench = bench.restart_with_deduplicator(Some(Arc::clone(&desk)));
    desk.expect_spool();
    bench.drain();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(bench.spool.ledger().present, 2);
    assert!(matches!(bench.spool.route(ROOM), Route::Spool));
    restore_and_wait(&bench, &desk, &settings).await;
    bench.wait_until_empty().await;
    let life = bench.spool.ledger();
    assert_eq!((life.dead_letters, life.drained), (1, 1));
    assert_eq!(duplicate_verdict(&desk, &refused), None);
    assert_eq!(
        duplicate_verdict(&desk, &taken),
        Some((DuplicateKind::Redelivery, false))
    );
}

#[test]
fn a_spool_that_does_not_get_known_is_drained_all_the_same() {
    let (_, desk) = open_deduplicator();
    assert!(can_hand_over(None, Duration::ZERO));
    assert!(can_hand_over(Some(&desk), Duration::ZERO));
    desk.expect_spool();
    assert!(!can_hand_over(Some(&desk), Duration::from_secs(299)));
    assert!(can_hand_over(Some(&desk), Duration::from_secs(300)));
}
