//! The spool whole, on a real store, with a Kafka that does as it is told.

mod dedup_restore;
mod fake;
mod harness;
mod kafka;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

use super::{AppendError, Route};
use crate::config::DrainOrder;
use crate::dedup::claim::Decision;
use crate::dedup::memory::MemoryStore;
use crate::dedup::{EventFacts, IdHash, ReadingHash, SourceKey};
use crate::delivery::DeliveryEnd;
use crate::kafka::lane::TopicState;
use crate::marks::DuplicateKind;
use butlr_event::clock::now_ms;
use butlr_event::destination::Destination;
use fake::KafkaBehaviour;
use harness::{HANGS, ROOM, SpoolHarness, TRAFFIC, new_entry, send, topic, value};

const AWAY: KafkaBehaviour = KafkaBehaviour::Fails(RDKafkaErrorCode::MessageTimedOut);

fn range(end: usize) -> Vec<usize> {
    (0..end).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_kept_is_drained_in_order_and_the_spool_gets_small() {
    let mut bench = SpoolHarness::new();
    for to in [ROOM, TRAFFIC, Destination::Quarantine] {
        bench.append_all(to, to.name(), 0..3_000).await;
    }
    assert_eq!(bench.spool.ledger().present, 9_000);
    assert!(matches!(bench.spool.route(ROOM), Route::Spool));
    let full = bench.spool.state().bytes;
    bench.drain();
    bench.wait_until_empty().await;
    for to in [ROOM, TRAFFIC, Destination::Quarantine] {
        assert_eq!(bench.stored(to.name()), range(3_000));
        assert!(matches!(bench.spool.route(to), Route::Direct));
    }
    assert_eq!(bench.spool.ledger().drained, 9_000);
    bench
        .wait_until("small", |b| b.spool.state().bytes < full / 2)
        .await;
    let most = bench.kafka.most_in_flight();
    assert!(most > 40, "the window opens: {most}");
    assert!(most <= 3_000, "no more than a window for each: {most}");
}

/// Each sender sends one event after the other, so each key's order is known. Kafka fails, hangs, and comes back, while they go on.
async fn hammer(drain: DrainOrder, senders: usize) -> (usize, usize) {
    let mut bench = SpoolHarness::with_settings(|s| s.drain = drain);
    bench.drain();
    let stop = Arc::new(AtomicBool::new(false));
    let directly = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..senders)
        .map(|sender| {
            let (spool, kafka) = (Arc::clone(&bench.spool), Arc::clone(&bench.kafka));
            let lane = Arc::clone(bench.lane(ROOM));
            let (stop, directly) = (Arc::clone(&stop), Arc::clone(&directly));
            tokio::spawn(async move {
                let key = format!("key{sender}");
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let sent = send(&spool, &kafka, &lane, &key, number).await;
                    let direct = sent.expect("there is room");
                    directly.fetch_add(usize::from(direct), Ordering::Relaxed);
                    number += 1;
                    // Together fewer than the drain hands over, also where nothing is optimised: what comes faster than
                    // that waits on disk until less comes.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                number
            })
        })
        .collect();
    let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));
    let spooled = |b: &SpoolHarness| b.spool.ledger().spooled;
    let mut turns = 0;
    for mood in [AWAY, KafkaBehaviour::Hangs, AWAY] {
        pause(100).await;
        let before = spooled(&bench);
        bench.kafka.set_behaviour(&topic(ROOM), mood);
        bench
            .wait_until("spooling", |b| spooled(b) > before + 20)
            .await;
        pause(100).await;
        bench.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
        // While they go on, the topic gets out of the spool.
        let direct = directly.load(Ordering::Relaxed);
        bench
            .wait_until("direct again", |_| {
                directly.load(Ordering::Relaxed) > direct + 50
            })
            .await;
        turns += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    let mut out_of_order = 0;
    let mut sent = Vec::new();
    for task in tasks {
        sent.push(task.await.unwrap());
    }
    bench.wait_until_empty().await;
    for (sender, sent) in sent.into_iter().enumerate() {
        let mut stored = bench.stored(&format!("key{sender}"));
        out_of_order += usize::from(!stored.is_sorted());
        stored.sort_unstable();
        assert_eq!(stored, range(sent), "each is stored once");
        total += sent;
    }
    assert_eq!(turns, 3);
    (total, out_of_order)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_overtakes_what_waits() {
    let (total, out_of_order) = hammer(DrainOrder::Ordered, 64).await;
    assert!(total > 1_000, "{total}");
    assert_eq!(out_of_order, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrently_all_are_stored_once_too() {
    hammer(DrainOrder::Concurrent, 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_an_open_circuit_events_are_spooled_only_while_somebody_tries() {
    for drain in [DrainOrder::Ordered, DrainOrder::Concurrent] {
        let bench = SpoolHarness::with_settings(|s| s.drain = drain);
        bench.lane(ROOM).open_circuit();
        assert!(matches!(bench.spool.route(ROOM), Route::Direct));
        bench.append_all(ROOM, "a", 0..1).await;
        assert!(matches!(bench.spool.route(ROOM), Route::Spool));
        assert!(matches!(bench.spool.route(TRAFFIC), Route::Direct));
    }
}

/// An event that Kafka did not confirm in time, spooled; its record is still there.
async fn append_in_doubt(bench: &SpoolHarness, number: usize) {
    let value = value(ROOM, "a", number);
    let delivery = bench.kafka.send(bench.lane(ROOM), "a", &value);
    let DeliveryEnd::InDoubt(slot, claim) = delivery.end() else {
        panic!("there is a report");
    };
    let entry = new_entry(ROOM, &value, true);
    let kept = bench.spool.append(entry, claim, Some(slot)).await;
    assert_eq!(kept, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_entry_in_doubt_waits_for_the_final_word() {
    type EndCase = (&'static str, fn(&SpoolHarness), [u64; 2]);
    let ends: [EndCase; 3] = [
        (
            "stored",
            |b| b.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up),
            [1, 1],
        ),
        (
            "failed",
            |b| b.kafka.set_behaviour(&topic(ROOM), AWAY),
            [0, 2],
        ),
        ("never told", |b| b.kafka.forget(), [0, 2]),
    ];
    for (end, tell, [late, drained]) in ends {
        let mut bench = SpoolHarness::new();
        bench
            .kafka
            .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
        bench.drain();
        append_in_doubt(&bench, 0).await;
        bench.append_all(ROOM, "a", 1..2).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(
            bench.kafka.queued(),
            1,
            "{end}: nothing goes before it is known"
        );
        assert_eq!(bench.spool.ledger().present, 2);
        tell(&bench);
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
        bench.wait_until_empty().await;
        let life = bench.spool.ledger();
        assert_eq!(
            [life.confirmed_late, life.drained],
            [late, drained],
            "{end}"
        );
        assert_eq!(bench.stored("a"), [0, 1], "{end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_entry_whose_final_word_never_comes_is_handed_over_in_the_end() {
    let mut bench = SpoolHarness::new();
    bench
        .kafka
        .set_behaviour(&topic(TRAFFIC), KafkaBehaviour::Hangs);
    bench.drain();
    let value = value(ROOM, "a", 0);
    // A record that is never heard of again.
    let lost = bench.kafka.send(bench.lane(TRAFFIC), "b", &value);
    let DeliveryEnd::InDoubt(slot, claim) = lost.end() else {
        panic!("there is a report");
    };
    let entry = new_entry(ROOM, &value, true);
    assert_eq!(bench.spool.append(entry, claim, Some(slot)).await, Ok(()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.spool.ledger().present, 1);
    let minutes = Duration::from_secs(301);
    let long_ago = Instant::now().checked_sub(minutes);
    let long_ago = long_ago.expect("this machine has been running for so long");
    let doubts = || bench.spool.shared.in_doubt();
    doubts().values_mut().for_each(|since| *since = long_ago);
    bench.wait_until_empty().await;
    assert_eq!(bench.spool.ledger().drained, 1);
    assert_eq!(bench.stored("a"), [0]);
    // The word that comes after all changes nothing.
    bench
        .kafka
        .set_behaviour(&topic(TRAFFIC), KafkaBehaviour::Up);
    bench
        .wait_until("stored", |b| b.kafka.log().len() == 2)
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(bench.spool.ledger().is_balanced());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_reported_before_it_is_on_disk_is_known_all_the_same() {
    let mut bench = SpoolHarness::new();
    bench.drain();
    let value = value(ROOM, "a", 0);
    bench
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    let delivery = bench.kafka.send(bench.lane(ROOM), "a", &value);
    let DeliveryEnd::InDoubt(slot, claim) = delivery.end() else {
        panic!("there is a report");
    };
    bench.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    bench.wait_until("stored", |b| b.stored("a") == [0]).await;
    let entry = new_entry(ROOM, &value, true);
    assert_eq!(bench.spool.append(entry, claim, Some(slot)).await, Ok(()));
    bench.wait_until_empty().await;
    assert_eq!(bench.spool.ledger().confirmed_late, 1);
    assert_eq!(bench.stored("a"), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_kafka_refuses_for_good_is_set_aside_and_blocks_nothing() {
    for drain in [DrainOrder::Ordered, DrainOrder::Concurrent] {
        let mut bench = SpoolHarness::with_settings(|s| s.drain = drain);
        bench.append_all(ROOM, "a", 0..40).await;
        let mut broken = new_entry(ROOM, b"{", false);
        let kept = bench.spool.append(broken, None, None).await;
        assert_eq!(kept, Ok(()));
        broken = new_entry(ROOM, b"", false);
        broken.bytes = vec![9, 9, 9];
        assert_eq!(bench.spool.append(broken, None, None).await, Ok(()));
        bench.append_all(ROOM, "a", 40..200).await;
        for number in [0, 20, 21, 199] {
            bench.kafka.refuse(&value(ROOM, "a", number));
        }
        bench.drain();
        bench.wait_until_empty().await;
        let left = range(200)
            .into_iter()
            .filter(|n| ![0, 20, 21, 199].contains(n));
        let mut stored = bench.stored("a");
        stored.sort_unstable();
        assert_eq!(stored, left.collect::<Vec<_>>());
        let aside = bench.spool.store().dead_letters().unwrap();
        assert_eq!(aside.len(), 6);
        assert_eq!(bench.spool.ledger().dead_letters, 6);
        assert_eq!(bench.spool.state().dead_letters, 6);
        let of_kafka = aside.iter().filter(|a| a.reason.contains("InvalidRecord"));
        assert_eq!(of_kafka.count(), 4);
        assert!(matches!(bench.spool.route(ROOM), Route::Direct));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_hangs_does_not_keep_events_from_kafka() {
    let mut bench = SpoolHarness::new();
    bench.kafka.set_behaviour(&topic(ROOM), AWAY);
    bench.drain();
    bench.append_all(ROOM, "a", 0..500).await;
    assert!(matches!(bench.spool.route(ROOM), Route::Spool));
    bench.free.store(HANGS, Ordering::Relaxed);
    bench
        .wait_until("it is noticed", |b| !b.spool.is_writable())
        .await;
    assert!(bench.spool.state().poison_reason.is_some());
    assert!(matches!(bench.spool.route(ROOM), Route::Direct));
    let refused = bench.append(ROOM, "a", 500).await;
    assert!(
        matches!(refused, Err(AppendError::Unwritable { .. })),
        "{refused:?}"
    );
    // What is on disk already is not forgotten.
    bench.free.store(1 << 40, Ordering::Relaxed);
    bench
        .wait_until("it answers", |b| b.spool.is_writable())
        .await;
    bench.append_all(ROOM, "a", 500..510).await;
    bench.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    bench.wait_until_empty().await;
    assert_eq!(bench.stored("a"), range(510));
}

/// What was received while the clock was hours ahead is no loss for Kafka's sense of time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_refused_for_its_timestamp_is_stored_with_that_of_publishing() {
    let mut bench = SpoolHarness::new();
    let invalid = Destination::Quarantine;
    bench.append_all(invalid, "a", 0..3).await;
    // The bridge lets it pass, and Kafka does not.
    let ahead = Duration::from_secs(50);
    bench.append_ahead(invalid, "b", 7, ahead).await;
    bench.append_all(invalid, "a", 3..6).await;
    bench.kafka.refuse_after(now_ms() + 20_000);
    bench.drain();
    bench.wait_until_empty().await;
    assert_eq!(bench.stored("a"), range(6));
    assert_eq!(bench.stored("b"), [7]);
    assert_eq!(bench.spool.ledger().dead_letters, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_destination_in_trouble_blocks_no_other_and_nothing_is_given_up() {
    let mut bench = SpoolHarness::new();
    bench.append_all(ROOM, "a", 0..500).await;
    bench.append_all(TRAFFIC, "b", 0..500).await;
    bench.append_all(Destination::Quarantine, "c", 0..500).await;
    let denied = KafkaBehaviour::Fails(RDKafkaErrorCode::TopicAuthorizationFailed);
    bench.kafka.set_behaviour(&topic(ROOM), denied);
    bench
        .lane(Destination::Quarantine)
        .set_state(TopicState::Missing);
    bench.drain();
    bench
        .wait_until("the healthy one", |b| b.spool.store().present(TRAFFIC) == 0)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.lane(ROOM).state(), TopicState::Forbidden);
    assert_eq!(bench.spool.ledger().dead_letters, 0);
    assert_eq!(bench.spool.ledger().present, 1_000);
    bench.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    bench.lane(ROOM).set_state(TopicState::Available);
    bench
        .lane(Destination::Quarantine)
        .set_state(TopicState::Available);
    bench.wait_until_empty().await;
    for key in ["a", "b", "c"] {
        assert_eq!(bench.stored(key), range(500));
    }
}

fn is_full(kept: Result<(), AppendError>) -> bool {
    matches!(kept, Err(AppendError::Full { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_room_nothing_is_kept_until_there_is_room() {
    let mut bench = SpoolHarness::with_settings(|s| s.max_bytes = 4 << 20);
    let mut number = 0;
    while bench.append(ROOM, "a", number).await.is_ok() {
        let keeping: Vec<_> = (1..100)
            .map(|n| bench.append(ROOM, "a", number + n))
            .collect();
        let mut kept = true;
        for keeping in keeping {
            kept &= keeping.await.is_ok();
        }
        number += 100;
        assert!(number < 1_000_000, "there is no limit");
        if !kept {
            break;
        }
    }
    assert!(is_full(bench.append(ROOM, "a", number).await));
    assert!(!bench.spool.is_writable());
    assert!(bench.spool.state().bytes <= 5 << 20);
    assert!(bench.spool.state().full_reason.is_some());
    bench.drain();
    bench.wait_until("room", |b| b.spool.is_writable()).await;
    bench.wait_until_empty().await;
    bench.append_all(ROOM, "b", 0..10).await;
    bench.wait_until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_with_too_little_left_takes_nothing() {
    let bench = SpoolHarness::new();
    bench.append_all(ROOM, "a", 0..1).await;
    bench.free.store(1_000, Ordering::Relaxed);
    bench.wait_until("full", |b| !b.spool.is_writable()).await;
    assert!(is_full(bench.append(ROOM, "a", 1).await));
    bench.free.store(1 << 40, Ordering::Relaxed);
    bench.wait_until("room", |b| b.spool.is_writable()).await;
    bench.append_all(ROOM, "a", 1..2).await;
    assert_eq!(bench.spool.ledger().spooled, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_failed_takes_nothing_until_it_has_proved_itself() {
    let mut bench = SpoolHarness::with_settings(|s| s.segment_bytes = 1);
    bench.append_all(ROOM, "a", 0..3).await;
    // The next segments cannot be made.
    let segments = bench.spool.store().segments();
    let last = segments.last().unwrap().file.trim_end_matches(".redb");
    let last: u32 = last.parse().unwrap();
    let obstacles = (last + 1..last + 4)
        .flat_map(|n| {
            [
                format!("{n:08}.redb"),
                format!("{n:08}.redb.new"),
                format!("{n:08}.new"),
            ]
        })
        .map(|name| bench.dir.path().join(name));
    let obstacles: Vec<_> = obstacles.collect();
    for obstacle in &obstacles {
        std::fs::create_dir_all(obstacle.join("x")).unwrap();
    }
    let kept = bench.append(ROOM, "a", 3).await;
    assert!(
        matches!(kept, Err(AppendError::Unwritable { .. })),
        "{kept:?}"
    );
    assert!(!bench.spool.is_writable());
    assert!(bench.spool.state().poison_reason.is_some());
    // Others are refused at once.
    let at = Instant::now();
    assert!(bench.append(ROOM, "a", 4).await.is_err());
    assert!(at.elapsed() < Duration::from_millis(500));
    for obstacle in &obstacles {
        std::fs::remove_dir_all(obstacle).unwrap();
    }
    bench
        .wait_until("writable", |b| b.spool.is_writable())
        .await;
    bench.append_all(ROOM, "a", 3..5).await;
    bench.drain();
    bench.wait_until_empty().await;
    assert_eq!(bench.stored("a"), range(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_in_flight_at_the_end_is_looked_for_at_the_next_start() {
    let mut bench = SpoolHarness::new();
    bench.append_all(ROOM, "a", 0..2_000).await;
    bench.drain();
    bench
        .wait_until("half of it", |b| b.spool.ledger().drained > 500)
        .await;
    bench
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    append_in_doubt(&bench, 2_000).await;
    bench
        .wait_until("some hang", |b| {
            b.kafka.queued() > 1 || b.spool.ledger().drained == 2_000
        })
        .await;
    let stored_before = bench.stored("a");
    let mut bench = bench.restart();
    let recovered = bench.spool.ledger().recovered;
    assert!(
        recovered as usize >= 2_001 - stored_before.len(),
        "{recovered}"
    );
    assert!(bench.spool.state().destinations[ROOM.index()].is_searching);
    // A newcomer waits behind.
    assert!(matches!(bench.spool.route(ROOM), Route::Spool));
    bench.append_all(ROOM, "a", 2_001..2_010).await;
    bench.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    bench.drain();
    bench.wait_until_empty().await;
    let looked_for = super::lock(&bench.searched).len();
    assert!(looked_for > 0);
    assert_eq!(bench.stored("a"), range(2_010), "each once, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn entries_of_before_that_are_stored_are_not_drained_again() {
    let mut bench = SpoolHarness::new();
    bench
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    bench.drain();
    append_in_doubt(&bench, 0).await;
    bench.append_all(ROOM, "a", 1..3).await;
    let bench2 = {
        // It was stored, and nobody heard of it.
        let kafka = Arc::clone(&bench.kafka);
        let bench2 = bench.restart();
        drop(kafka.send(bench2.lane(ROOM), "a", &value(ROOM, "a", 0)));
        kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
        bench2.wait_until("stored", |b| b.stored("a") == [0]).await;
        bench2
    };
    bench = bench2;
    bench.drain();
    bench.wait_until_empty().await;
    let life = bench.spool.ledger();
    assert_eq!(
        [life.recovered, life.already_stored, life.drained],
        [3, 1, 2]
    );
    assert_eq!(bench.stored("a"), range(3));
    assert_eq!(
        super::lock(&bench.searched).len(),
        1,
        "only what was in doubt"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn at_the_end_nothing_more_is_kept_or_handed_over() {
    let mut bench = SpoolHarness::new();
    bench
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    bench.drain();
    let keeping: Vec<_> = (0..100).map(|n| bench.append(ROOM, "a", n)).collect();
    bench.spool.shut_down();
    for keeping in keeping {
        assert_eq!(keeping.await, Ok(()), "what had come is kept");
    }
    assert_eq!(bench.append(ROOM, "a", 100).await, Err(AppendError::Ending));
    assert!(!bench.spool.is_writable());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let queued = bench.kafka.queued();
    bench.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    // Reports are still heard.
    bench
        .wait_until("the rest", |b| b.spool.ledger().drained as usize == queued)
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bench.spool.ledger().present as usize, 100 - queued);
    let mut bench = bench.restart();
    bench.drain();
    bench.wait_until_empty().await;
    assert_eq!(bench.stored("a"), range(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_for_the_backlog_is_woken_when_it_comes_to_a_halt() {
    let mut bench = SpoolHarness::new();
    bench.drain();
    bench
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    let line = &bench.spool.shared.backlogs[ROOM.index()];
    // As if the last one were being handed over.
    line.add(1);
    line.set_wait_threshold(10);
    let Route::Wait(passage) = bench.spool.route(ROOM) else {
        panic!("it is nearly empty");
    };
    let waiting = tokio::spawn(passage);
    let Route::Wait(unpolled) = bench.spool.route(ROOM) else {
        panic!("it is nearly empty");
    };
    line.set_wait_threshold(0);
    let soon = Duration::from_secs(1);
    tokio::time::timeout(soon, waiting)
        .await
        .expect("woken")
        .unwrap();
    tokio::time::timeout(soon, unpolled).await.expect("woken");
    line.remove(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_is_decided_before_anybody_is_answered() {
    let bench = SpoolHarness::new();
    let now = Instant::now();
    let memory = MemoryStore::new(&dedup_config(), now);
    let facts = EventFacts {
        id: "a",
        event_type: Some(butlr_event::EventType::RoomOccupancy),
        id_hash: IdHash(1),
        reading: ReadingHash(2),
        occupancy_key: None,
        source_key: SourceKey(3),
        timestamp_ms: 4,
        has_plausible_time: true,
    };
    let claim = || memory.claim(&facts, Instant::now());
    let Ok(Decision::Publish(first)) = claim() else {
        panic!("it is new");
    };
    bench.free.store(0, Ordering::Relaxed);
    bench.wait_until("full", |b| !b.spool.is_writable()).await;
    let keep = |claim| {
        let entry = new_entry(ROOM, &value(ROOM, "a", 0), false);
        bench.spool.append(entry, Some(claim), None)
    };
    assert!(is_full(keep(first).await));
    let Ok(Decision::Publish(second)) = claim() else {
        panic!("it was not kept, so it is still new");
    };
    bench.free.store(1 << 40, Ordering::Relaxed);
    bench.wait_until("room", |b| b.spool.is_writable()).await;
    assert_eq!(keep(second).await, Ok(()));
    let kind = match claim() {
        Ok(Decision::Duplicate { kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind, DuplicateKind::Redelivery);
}

fn dedup_config() -> crate::config::DedupConfig {
    crate::config::DedupConfig {
        store: crate::config::DedupStore::Memory,
        redelivery: crate::config::DuplicateHandling::Drop,
        repeat: crate::config::DuplicateHandling::Drop,
        id_window: Duration::from_secs(900),
        reading_window: Duration::from_secs(900),
        max_ids: 100,
        max_readings: 100,
        rebuild_within: Duration::ZERO,
    }
}
