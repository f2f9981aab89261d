//! The spool whole, on a real store, with a Kafka that does as it is told.

mod bench;
mod fake;
mod kafka;
mod known;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

use super::{NotKept, Route};
use crate::config::DrainOrder;
use crate::dedup::Facts;
use crate::dedup::claim::Next;
use crate::dedup::memory::Memory;
use crate::kafka::lane::TopicState;
use crate::kafka::report::Ended;
use crate::marks::Duplicate;
use bench::{Bench, HANGS, ROOM, TRAFFIC, new_entry, send, topic, value};
use butlr_event::clock::now_ms;
use butlr_event::destination::Destination;
use fake::Mood;

const AWAY: Mood = Mood::Fails(RDKafkaErrorCode::MessageTimedOut);

fn range(end: usize) -> Vec<usize> {
    (0..end).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_kept_is_drained_in_order_and_the_spool_gets_small() {
    let mut bench = Bench::new();
    for to in [ROOM, TRAFFIC, Destination::Quarantine] {
        bench.keep_all(to, to.name(), 0..3_000).await;
    }
    assert_eq!(bench.spool.life().present, 9_000);
    assert!(matches!(bench.spool.route(ROOM), Route::Spool));
    let full = bench.spool.state().bytes;
    bench.drain();
    bench.until_empty().await;
    for to in [ROOM, TRAFFIC, Destination::Quarantine] {
        assert_eq!(bench.stored(to.name()), range(3_000));
        assert!(matches!(bench.spool.route(to), Route::Direct));
    }
    assert_eq!(bench.spool.life().drained, 9_000);
    bench
        .until("small", |b| b.spool.state().bytes < full / 2)
        .await;
    let most = bench.kafka.most_in_flight();
    assert!(most > 40, "the window opens: {most}");
    assert!(most <= 3_000, "no more than a window for each: {most}");
}

/// Each sender sends one event after the other, so each key's order is known. Kafka fails, hangs, and comes back, while they go on.
async fn hammer(drain: DrainOrder, senders: usize) -> (usize, usize) {
    let mut bench = Bench::with(|s| s.drain = drain);
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
    let spooled = |b: &Bench| b.spool.life().spooled;
    let mut turns = 0;
    for mood in [AWAY, Mood::Hangs, AWAY] {
        pause(100).await;
        let before = spooled(&bench);
        bench.kafka.set(&topic(ROOM), mood);
        bench.until("spooling", |b| spooled(b) > before + 20).await;
        pause(100).await;
        bench.kafka.set(&topic(ROOM), Mood::Up);
        // While they go on, the topic gets out of the spool.
        let direct = directly.load(Ordering::Relaxed);
        bench
            .until("direct again", |_| {
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
    bench.until_empty().await;
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
        let bench = Bench::with(|s| s.drain = drain);
        bench.lane(ROOM).open_circuit();
        assert!(matches!(bench.spool.route(ROOM), Route::Direct));
        bench.keep_all(ROOM, "a", 0..1).await;
        assert!(matches!(bench.spool.route(ROOM), Route::Spool));
        assert!(matches!(bench.spool.route(TRAFFIC), Route::Direct));
    }
}

/// An event that Kafka did not confirm in time, spooled; its record is still there.
async fn doubtful(bench: &Bench, number: usize) {
    let value = value(ROOM, "a", number);
    let delivery = bench.kafka.send(bench.lane(ROOM), "a", &value);
    let Ended::InDoubt(slot, claim) = delivery.end() else {
        panic!("there is a report");
    };
    let entry = new_entry(ROOM, &value, true);
    let kept = bench.spool.keep(entry, claim, Some(slot)).await;
    assert_eq!(kept, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_entry_in_doubt_waits_for_the_final_word() {
    type End = (&'static str, fn(&Bench), [u64; 2]);
    let ends: [End; 3] = [
        ("stored", |b| b.kafka.set(&topic(ROOM), Mood::Up), [1, 1]),
        ("failed", |b| b.kafka.set(&topic(ROOM), AWAY), [0, 2]),
        ("never told", |b| b.kafka.forget(), [0, 2]),
    ];
    for (end, tell, [late, drained]) in ends {
        let mut bench = Bench::new();
        bench.kafka.set(&topic(ROOM), Mood::Hangs);
        bench.drain();
        doubtful(&bench, 0).await;
        bench.keep_all(ROOM, "a", 1..2).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(
            bench.kafka.queued(),
            1,
            "{end}: nothing goes before it is known"
        );
        assert_eq!(bench.spool.life().present, 2);
        tell(&bench);
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.kafka.set(&topic(ROOM), Mood::Up);
        bench.until_empty().await;
        let life = bench.spool.life();
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
    let mut bench = Bench::new();
    bench.kafka.set(&topic(TRAFFIC), Mood::Hangs);
    bench.drain();
    let value = value(ROOM, "a", 0);
    // A record that is never heard of again.
    let lost = bench.kafka.send(bench.lane(TRAFFIC), "b", &value);
    let Ended::InDoubt(slot, claim) = lost.end() else {
        panic!("there is a report");
    };
    let entry = new_entry(ROOM, &value, true);
    assert_eq!(bench.spool.keep(entry, claim, Some(slot)).await, Ok(()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.spool.life().present, 1);
    let minutes = Duration::from_secs(301);
    let long_ago = Instant::now().checked_sub(minutes);
    let long_ago = long_ago.expect("this machine has been running for so long");
    let doubts = || bench.spool.shared.doubts();
    doubts().values_mut().for_each(|since| *since = long_ago);
    bench.until_empty().await;
    assert_eq!(bench.spool.life().drained, 1);
    assert_eq!(bench.stored("a"), [0]);
    // The word that comes after all changes nothing.
    bench.kafka.set(&topic(TRAFFIC), Mood::Up);
    bench.until("stored", |b| b.kafka.log().len() == 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(bench.spool.life().balanced());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_reported_before_it_is_on_disk_is_known_all_the_same() {
    let mut bench = Bench::new();
    bench.drain();
    let value = value(ROOM, "a", 0);
    bench.kafka.set(&topic(ROOM), Mood::Hangs);
    let delivery = bench.kafka.send(bench.lane(ROOM), "a", &value);
    let Ended::InDoubt(slot, claim) = delivery.end() else {
        panic!("there is a report");
    };
    bench.kafka.set(&topic(ROOM), Mood::Up);
    bench.until("stored", |b| b.stored("a") == [0]).await;
    let entry = new_entry(ROOM, &value, true);
    assert_eq!(bench.spool.keep(entry, claim, Some(slot)).await, Ok(()));
    bench.until_empty().await;
    assert_eq!(bench.spool.life().confirmed_late, 1);
    assert_eq!(bench.stored("a"), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_kafka_refuses_for_good_is_set_aside_and_blocks_nothing() {
    for drain in [DrainOrder::Ordered, DrainOrder::Concurrent] {
        let mut bench = Bench::with(|s| s.drain = drain);
        bench.keep_all(ROOM, "a", 0..40).await;
        let mut broken = new_entry(ROOM, b"{", false);
        let kept = bench.spool.keep(broken, None, None).await;
        assert_eq!(kept, Ok(()));
        broken = new_entry(ROOM, b"", false);
        broken.bytes = vec![9, 9, 9];
        assert_eq!(bench.spool.keep(broken, None, None).await, Ok(()));
        bench.keep_all(ROOM, "a", 40..200).await;
        for number in [0, 20, 21, 199] {
            bench.kafka.refuse(&value(ROOM, "a", number));
        }
        bench.drain();
        bench.until_empty().await;
        let left = range(200)
            .into_iter()
            .filter(|n| ![0, 20, 21, 199].contains(n));
        let mut stored = bench.stored("a");
        stored.sort_unstable();
        assert_eq!(stored, left.collect::<Vec<_>>());
        let aside = bench.spool.store().set_aside_entries().unwrap();
        assert_eq!(aside.len(), 6);
        assert_eq!(bench.spool.life().set_aside, 6);
        assert_eq!(bench.spool.state().set_aside, 6);
        let of_kafka = aside.iter().filter(|a| a.reason.contains("InvalidRecord"));
        assert_eq!(of_kafka.count(), 4);
        assert!(matches!(bench.spool.route(ROOM), Route::Direct));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_hangs_does_not_keep_events_from_kafka() {
    let mut bench = Bench::new();
    bench.kafka.set(&topic(ROOM), AWAY);
    bench.drain();
    bench.keep_all(ROOM, "a", 0..500).await;
    assert!(matches!(bench.spool.route(ROOM), Route::Spool));
    bench.free.store(HANGS, Ordering::Relaxed);
    bench
        .until("it is noticed", |b| !b.spool.is_writable())
        .await;
    assert!(bench.spool.state().poisoned.is_some());
    assert!(matches!(bench.spool.route(ROOM), Route::Direct));
    let refused = bench.keep(ROOM, "a", 500).await;
    assert!(
        matches!(refused, Err(NotKept::Unwritable { .. })),
        "{refused:?}"
    );
    // What is on disk already is not forgotten.
    bench.free.store(1 << 40, Ordering::Relaxed);
    bench.until("it answers", |b| b.spool.is_writable()).await;
    bench.keep_all(ROOM, "a", 500..510).await;
    bench.kafka.set(&topic(ROOM), Mood::Up);
    bench.until_empty().await;
    assert_eq!(bench.stored("a"), range(510));
}

/// What was received while the clock was hours ahead is no loss for Kafka's sense of time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_refused_for_its_timestamp_is_stored_with_that_of_publishing() {
    let mut bench = Bench::new();
    let invalid = Destination::Quarantine;
    bench.keep_all(invalid, "a", 0..3).await;
    // The bridge lets it pass, and Kafka does not.
    let ahead = Duration::from_secs(50);
    bench.keep_ahead(invalid, "b", 7, ahead).await;
    bench.keep_all(invalid, "a", 3..6).await;
    bench.kafka.refuse_after(now_ms() + 20_000);
    bench.drain();
    bench.until_empty().await;
    assert_eq!(bench.stored("a"), range(6));
    assert_eq!(bench.stored("b"), [7]);
    assert_eq!(bench.spool.life().set_aside, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_destination_in_trouble_blocks_no_other_and_nothing_is_given_up() {
    let mut bench = Bench::new();
    bench.keep_all(ROOM, "a", 0..500).await;
    bench.keep_all(TRAFFIC, "b", 0..500).await;
    bench.keep_all(Destination::Quarantine, "c", 0..500).await;
    let denied = Mood::Fails(RDKafkaErrorCode::TopicAuthorizationFailed);
    bench.kafka.set(&topic(ROOM), denied);
    bench
        .lane(Destination::Quarantine)
        .set_state(TopicState::Missing);
    bench.drain();
    bench
        .until("the healthy one", |b| b.spool.store().present(TRAFFIC) == 0)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.lane(ROOM).state(), TopicState::Forbidden);
    assert_eq!(bench.spool.life().set_aside, 0);
    assert_eq!(bench.spool.life().present, 1_000);
    bench.kafka.set(&topic(ROOM), Mood::Up);
    bench.lane(ROOM).set_state(TopicState::Available);
    bench
        .lane(Destination::Quarantine)
        .set_state(TopicState::Available);
    bench.until_empty().await;
    for key in ["a", "b", "c"] {
        assert_eq!(bench.stored(key), range(500));
    }
}

fn is_full(kept: Result<(), NotKept>) -> bool {
    matches!(kept, Err(NotKept::Full { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_room_nothing_is_kept_until_there_is_room() {
    let mut bench = Bench::with(|s| s.max_bytes = 4 << 20);
    let mut number = 0;
    while bench.keep(ROOM, "a", number).await.is_ok() {
        let keeping: Vec<_> = (1..100)
            .map(|n| bench.keep(ROOM, "a", number + n))
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
    assert!(is_full(bench.keep(ROOM, "a", number).await));
    assert!(!bench.spool.is_writable());
    assert!(bench.spool.state().bytes <= 5 << 20);
    assert!(bench.spool.state().full.is_some());
    bench.drain();
    bench.until("room", |b| b.spool.is_writable()).await;
    bench.until_empty().await;
    bench.keep_all(ROOM, "b", 0..10).await;
    bench.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_with_too_little_left_takes_nothing() {
    let bench = Bench::new();
    bench.keep_all(ROOM, "a", 0..1).await;
    bench.free.store(1_000, Ordering::Relaxed);
    bench.until("full", |b| !b.spool.is_writable()).await;
    assert!(is_full(bench.keep(ROOM, "a", 1).await));
    bench.free.store(1 << 40, Ordering::Relaxed);
    bench.until("room", |b| b.spool.is_writable()).await;
    bench.keep_all(ROOM, "a", 1..2).await;
    assert_eq!(bench.spool.life().spooled, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_failed_takes_nothing_until_it_has_proved_itself() {
    let mut bench = Bench::with(|s| s.segment_bytes = 1);
    bench.keep_all(ROOM, "a", 0..3).await;
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
    let kept = bench.keep(ROOM, "a", 3).await;
    assert!(matches!(kept, Err(NotKept::Unwritable { .. })), "{kept:?}");
    assert!(!bench.spool.is_writable());
    assert!(bench.spool.state().poisoned.is_some());
    // Others are refused at once.
    let at = Instant::now();
    assert!(bench.keep(ROOM, "a", 4).await.is_err());
    assert!(at.elapsed() < Duration::from_millis(500));
    for obstacle in &obstacles {
        std::fs::remove_dir_all(obstacle).unwrap();
    }
    bench.until("writable", |b| b.spool.is_writable()).await;
    bench.keep_all(ROOM, "a", 3..5).await;
    bench.drain();
    bench.until_empty().await;
    assert_eq!(bench.stored("a"), range(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_in_flight_at_the_end_is_looked_for_at_the_next_start() {
    let mut bench = Bench::new();
    bench.keep_all(ROOM, "a", 0..2_000).await;
    bench.drain();
    bench
        .until("half of it", |b| b.spool.life().drained > 500)
        .await;
    bench.kafka.set(&topic(ROOM), Mood::Hangs);
    doubtful(&bench, 2_000).await;
    bench
        .until("some hang", |b| {
            b.kafka.queued() > 1 || b.spool.life().drained == 2_000
        })
        .await;
    let stored_before = bench.stored("a");
    let mut bench = bench.restart();
    let recovered = bench.spool.life().recovered;
    assert!(
        recovered as usize >= 2_001 - stored_before.len(),
        "{recovered}"
    );
    assert!(bench.spool.state().destinations[ROOM.index()].looking);
    // A newcomer waits behind.
    assert!(matches!(bench.spool.route(ROOM), Route::Spool));
    bench.keep_all(ROOM, "a", 2_001..2_010).await;
    bench.kafka.set(&topic(ROOM), Mood::Up);
    bench.drain();
    bench.until_empty().await;
    let looked_for = super::lock(&bench.looked_for).len();
    assert!(looked_for > 0);
    assert_eq!(bench.stored("a"), range(2_010), "each once, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn entries_of_before_that_are_stored_are_not_drained_again() {
    let mut bench = Bench::new();
    bench.kafka.set(&topic(ROOM), Mood::Hangs);
    bench.drain();
    doubtful(&bench, 0).await;
    bench.keep_all(ROOM, "a", 1..3).await;
    let bench2 = {
        // It was stored, and nobody heard of it.
        let kafka = Arc::clone(&bench.kafka);
        let bench2 = bench.restart();
        drop(kafka.send(bench2.lane(ROOM), "a", &value(ROOM, "a", 0)));
        kafka.set(&topic(ROOM), Mood::Up);
        bench2.until("stored", |b| b.stored("a") == [0]).await;
        bench2
    };
    bench = bench2;
    bench.drain();
    bench.until_empty().await;
    let life = bench.spool.life();
    assert_eq!(
        [life.recovered, life.already_stored, life.drained],
        [3, 1, 2]
    );
    assert_eq!(bench.stored("a"), range(3));
    assert_eq!(
        super::lock(&bench.looked_for).len(),
        1,
        "only what was in doubt"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn at_the_end_nothing_more_is_kept_or_handed_over() {
    let mut bench = Bench::new();
    bench.kafka.set(&topic(ROOM), Mood::Hangs);
    bench.drain();
    let keeping: Vec<_> = (0..100).map(|n| bench.keep(ROOM, "a", n)).collect();
    bench.spool.end();
    for keeping in keeping {
        assert_eq!(keeping.await, Ok(()), "what had come is kept");
    }
    assert_eq!(bench.keep(ROOM, "a", 100).await, Err(NotKept::Ending));
    assert!(!bench.spool.is_writable());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let queued = bench.kafka.queued();
    bench.kafka.set(&topic(ROOM), Mood::Up);
    // Reports are still heard.
    bench
        .until("the rest", |b| b.spool.life().drained as usize == queued)
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bench.spool.life().present as usize, 100 - queued);
    let mut bench = bench.restart();
    bench.drain();
    bench.until_empty().await;
    assert_eq!(bench.stored("a"), range(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_for_the_backlog_is_woken_when_it_comes_to_a_halt() {
    let mut bench = Bench::new();
    bench.drain();
    bench.kafka.set(&topic(ROOM), Mood::Hangs);
    let line = &bench.spool.shared.lines[ROOM.index()];
    // As if the last one were being handed over.
    line.add(1);
    line.flow(10);
    let Route::Wait(passage) = bench.spool.route(ROOM) else {
        panic!("it is nearly empty");
    };
    let waiting = tokio::spawn(passage);
    let Route::Wait(unpolled) = bench.spool.route(ROOM) else {
        panic!("it is nearly empty");
    };
    line.flow(0);
    let soon = Duration::from_secs(1);
    tokio::time::timeout(soon, waiting)
        .await
        .expect("woken")
        .unwrap();
    tokio::time::timeout(soon, unpolled).await.expect("woken");
    line.take(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_is_decided_before_anybody_is_answered() {
    let bench = Bench::new();
    let now = Instant::now();
    let memory = Memory::new(&claims(), now);
    let facts = Facts {
        id: "a",
        id_key: 1,
        reading: 2,
        cell: None,
        source: 3,
        timestamp_ms: 4,
        plausible_time: true,
    };
    let claim = || memory.claim(&facts, Instant::now());
    let Next::Publish(first) = claim() else {
        panic!("it is new");
    };
    bench.free.store(0, Ordering::Relaxed);
    bench.until("full", |b| !b.spool.is_writable()).await;
    let keep = |claim| {
        let entry = new_entry(ROOM, &value(ROOM, "a", 0), false);
        bench.spool.keep(entry, Some(claim), None)
    };
    assert!(is_full(keep(first).await));
    let Next::Publish(second) = claim() else {
        panic!("it was not kept, so it is still new");
    };
    bench.free.store(1 << 40, Ordering::Relaxed);
    bench.until("room", |b| b.spool.is_writable()).await;
    assert_eq!(keep(second).await, Ok(()));
    let kind = match claim() {
        Next::Duplicate { kind, .. } => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind, Duplicate::Redelivery);
}

fn claims() -> crate::config::DedupConfig {
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
