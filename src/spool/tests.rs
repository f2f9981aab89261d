//! The spool as a whole, on a real store, with a fake Kafka whose behaviour the tests set.

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
use crate::sync::lock;
use butlr_event::clock::now_ms;
use butlr_event::destination::Destination;
use fake::KafkaBehaviour;
use harness::{HANGS, ROOM, SpoolHarness, TRAFFIC, new_entry, send, topic, value};

const AWAY: KafkaBehaviour = KafkaBehaviour::Fails(RDKafkaErrorCode::MessageTimedOut);

fn range(end: usize) -> Vec<usize> {
    (0..end).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn entries_are_drained_in_order_and_the_spool_shrinks() {
    let mut harness = SpoolHarness::new();
    for to in [ROOM, TRAFFIC, Destination::Quarantine] {
        harness.append_all(to, to.name(), 0..3_000).await;
    }
    assert_eq!(harness.spool.ledger().present, 9_000);
    assert!(matches!(harness.spool.route(ROOM), Route::Spool));
    let full = harness.spool.state().bytes;
    harness.drain();
    harness.wait_until_empty().await;
    for to in [ROOM, TRAFFIC, Destination::Quarantine] {
        assert_eq!(harness.stored(to.name()), range(3_000));
        assert!(matches!(harness.spool.route(to), Route::Direct));
    }
    assert_eq!(harness.spool.ledger().drained, 9_000);
    harness
        .wait_until("small", |h| h.spool.state().bytes < full / 2)
        .await;
    let most = harness.kafka.most_in_flight();
    assert!(most > 40, "the window opens: {most}");
    assert!(most <= 3_000, "no more than a window for each: {most}");
}

/// Runs senders that each send one event after the other, so that the order of each key is known,
/// while Kafka fails, hangs, and comes back. Returns the number of events and of keys out of order.
async fn hammer(drain: DrainOrder, senders: usize) -> (usize, usize) {
    let mut harness = SpoolHarness::with_settings(|s| s.drain = drain);
    harness.drain();
    let stop = Arc::new(AtomicBool::new(false));
    let directly = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..senders)
        .map(|sender| {
            let (spool, kafka) = (Arc::clone(&harness.spool), Arc::clone(&harness.kafka));
            let lane = Arc::clone(harness.lane(ROOM));
            let (stop, directly) = (Arc::clone(&stop), Arc::clone(&directly));
            tokio::spawn(async move {
                let key = format!("key{sender}");
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let sent = send(&spool, &kafka, &lane, &key, number).await;
                    let direct = sent.expect("there is room");
                    directly.fetch_add(usize::from(direct), Ordering::Relaxed);
                    number += 1;
                    // Slower than the drain, also in a debug build: faster events would wait on
                    // disk until fewer come in.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                number
            })
        })
        .collect();
    let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));
    let spooled = |h: &SpoolHarness| h.spool.ledger().spooled;
    let mut outages = 0;
    for behaviour in [AWAY, KafkaBehaviour::Hangs, AWAY] {
        pause(100).await;
        let before = spooled(&harness);
        harness.kafka.set_behaviour(&topic(ROOM), behaviour);
        harness
            .wait_until("spooling", |h| spooled(h) > before + 20)
            .await;
        pause(100).await;
        harness
            .kafka
            .set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
        // The backlog ends although the senders continue.
        let direct = directly.load(Ordering::Relaxed);
        harness
            .wait_until("direct again", |_| {
                directly.load(Ordering::Relaxed) > direct + 50
            })
            .await;
        outages += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    let mut out_of_order = 0;
    let mut sent = Vec::new();
    for task in tasks {
        sent.push(task.await.unwrap());
    }
    harness.wait_until_empty().await;
    for (sender, sent) in sent.into_iter().enumerate() {
        let mut stored = harness.stored(&format!("key{sender}"));
        out_of_order += usize::from(!stored.is_sorted());
        stored.sort_unstable();
        assert_eq!(stored, range(sent), "each is stored once");
        total += sent;
    }
    assert_eq!(outages, 3);
    (total, out_of_order)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_event_overtakes_the_backlog() {
    let (total, out_of_order) = hammer(DrainOrder::Ordered, 64).await;
    assert!(total > 1_000, "{total}");
    assert_eq!(out_of_order, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_concurrent_order_each_event_is_stored_once() {
    hammer(DrainOrder::Concurrent, 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_an_open_circuit_events_are_spooled_only_behind_a_backlog() {
    for drain in [DrainOrder::Ordered, DrainOrder::Concurrent] {
        let harness = SpoolHarness::with_settings(|s| s.drain = drain);
        harness.lane(ROOM).open_circuit();
        assert!(matches!(harness.spool.route(ROOM), Route::Direct));
        harness.append_all(ROOM, "a", 0..1).await;
        assert!(matches!(harness.spool.route(ROOM), Route::Spool));
        assert!(matches!(harness.spool.route(TRAFFIC), Route::Direct));
    }
}

/// Spools an event that Kafka did not confirm in time, while librdkafka still has its record.
async fn append_in_doubt(harness: &SpoolHarness, number: usize) {
    let value = value(ROOM, "a", number);
    let delivery = harness.kafka.send(harness.lane(ROOM), "a", &value);
    let DeliveryEnd::InDoubt(record, claim) = delivery.end() else {
        panic!("there is a report");
    };
    let entry = new_entry(ROOM, &value, true);
    let appended = harness.spool.append(entry, claim, Some(record)).await;
    assert_eq!(appended, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_entry_in_doubt_waits_for_the_final_report() {
    type EndCase = (&'static str, fn(&SpoolHarness), [u64; 2]);
    let ends: [EndCase; 3] = [
        (
            "stored",
            |h| h.kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up),
            [1, 1],
        ),
        (
            "failed",
            |h| h.kafka.set_behaviour(&topic(ROOM), AWAY),
            [0, 2],
        ),
        ("no report", |h| h.kafka.forget(), [0, 2]),
    ];
    for (end, finish, [late, drained]) in ends {
        let mut harness = SpoolHarness::new();
        harness
            .kafka
            .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
        harness.drain();
        append_in_doubt(&harness, 0).await;
        harness.append_all(ROOM, "a", 1..2).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(
            harness.kafka.queued(),
            1,
            "{end}: nothing is sent before the report"
        );
        assert_eq!(harness.spool.ledger().present, 2);
        finish(&harness);
        tokio::time::sleep(Duration::from_millis(50)).await;
        harness
            .kafka
            .set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
        harness.wait_until_empty().await;
        let ledger = harness.spool.ledger();
        assert_eq!(
            [ledger.confirmed_late, ledger.drained],
            [late, drained],
            "{end}"
        );
        assert_eq!(harness.stored("a"), [0, 1], "{end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_entry_in_doubt_without_a_report_is_sent_in_the_end() {
    let mut harness = SpoolHarness::new();
    harness
        .kafka
        .set_behaviour(&topic(TRAFFIC), KafkaBehaviour::Hangs);
    harness.drain();
    let value = value(ROOM, "a", 0);
    // A record without a report.
    let lost = harness.kafka.send(harness.lane(TRAFFIC), "b", &value);
    let DeliveryEnd::InDoubt(record, claim) = lost.end() else {
        panic!("there is a report");
    };
    let entry = new_entry(ROOM, &value, true);
    assert_eq!(
        harness.spool.append(entry, claim, Some(record)).await,
        Ok(())
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(harness.spool.ledger().present, 1);
    let minutes = Duration::from_secs(301);
    let long_ago = Instant::now().checked_sub(minutes);
    let long_ago = long_ago.expect("this machine has been running for so long");
    let in_doubt = || harness.spool.shared.in_doubt();
    in_doubt().values_mut().for_each(|since| *since = long_ago);
    harness.wait_until_empty().await;
    assert_eq!(harness.spool.ledger().drained, 1);
    assert_eq!(harness.stored("a"), [0]);
    // A report that comes after all changes nothing.
    harness
        .kafka
        .set_behaviour(&topic(TRAFFIC), KafkaBehaviour::Up);
    harness
        .wait_until("stored", |h| h.kafka.log().len() == 2)
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(harness.spool.ledger().is_balanced());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_report_before_the_commit_is_not_lost() {
    let mut harness = SpoolHarness::new();
    harness.drain();
    let value = value(ROOM, "a", 0);
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    let delivery = harness.kafka.send(harness.lane(ROOM), "a", &value);
    let DeliveryEnd::InDoubt(record, claim) = delivery.end() else {
        panic!("there is a report");
    };
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    harness.wait_until("stored", |h| h.stored("a") == [0]).await;
    let entry = new_entry(ROOM, &value, true);
    assert_eq!(
        harness.spool.append(entry, claim, Some(record)).await,
        Ok(())
    );
    harness.wait_until_empty().await;
    assert_eq!(harness.spool.ledger().confirmed_late, 1);
    assert_eq!(harness.stored("a"), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn entries_that_kafka_refuses_become_dead_letters_and_block_nothing() {
    for drain in [DrainOrder::Ordered, DrainOrder::Concurrent] {
        let mut harness = SpoolHarness::with_settings(|s| s.drain = drain);
        harness.append_all(ROOM, "a", 0..40).await;
        let mut broken = new_entry(ROOM, b"{", false);
        let appended = harness.spool.append(broken, None, None).await;
        assert_eq!(appended, Ok(()));
        broken = new_entry(ROOM, b"", false);
        broken.bytes = vec![9, 9, 9];
        assert_eq!(harness.spool.append(broken, None, None).await, Ok(()));
        harness.append_all(ROOM, "a", 40..200).await;
        for number in [0, 20, 21, 199] {
            harness.kafka.refuse(&value(ROOM, "a", number));
        }
        harness.drain();
        harness.wait_until_empty().await;
        let left = range(200)
            .into_iter()
            .filter(|n| ![0, 20, 21, 199].contains(n));
        let mut stored = harness.stored("a");
        stored.sort_unstable();
        assert_eq!(stored, left.collect::<Vec<_>>());
        let dead_letters = harness.spool.store().dead_letters().unwrap();
        assert_eq!(dead_letters.len(), 6);
        assert_eq!(harness.spool.ledger().dead_letters, 6);
        assert_eq!(harness.spool.state().dead_letters, 6);
        let of_kafka = dead_letters
            .iter()
            .filter(|a| a.reason.contains("InvalidRecord"));
        assert_eq!(of_kafka.count(), 4);
        assert!(matches!(harness.spool.route(ROOM), Route::Direct));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_hangs_does_not_keep_events_from_kafka() {
    let mut harness = SpoolHarness::new();
    harness.kafka.set_behaviour(&topic(ROOM), AWAY);
    harness.drain();
    harness.append_all(ROOM, "a", 0..500).await;
    assert!(matches!(harness.spool.route(ROOM), Route::Spool));
    harness.free.store(HANGS, Ordering::Relaxed);
    harness
        .wait_until("the hang is noticed", |h| !h.spool.is_writable())
        .await;
    assert!(harness.spool.state().poison_reason.is_some());
    assert!(matches!(harness.spool.route(ROOM), Route::Direct));
    let refused = harness.append(ROOM, "a", 500).await;
    assert!(
        matches!(refused, Err(AppendError::Unwritable { .. })),
        "{refused:?}"
    );
    // Entries that are on disk already are not lost.
    harness.free.store(1 << 40, Ordering::Relaxed);
    harness
        .wait_until("the disk responds", |h| h.spool.is_writable())
        .await;
    harness.append_all(ROOM, "a", 500..510).await;
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    harness.wait_until_empty().await;
    assert_eq!(harness.stored("a"), range(510));
}

/// A clock that was ahead at receipt does not cost an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_record_refused_for_its_timestamp_is_stored_with_the_time_of_publishing() {
    let mut harness = SpoolHarness::new();
    let invalid = Destination::Quarantine;
    harness.append_all(invalid, "a", 0..3).await;
    // Within the bridge's limit and beyond Kafka's.
    let ahead = Duration::from_secs(50);
    harness.append_ahead(invalid, "b", 7, ahead).await;
    harness.append_all(invalid, "a", 3..6).await;
    harness.kafka.refuse_after(now_ms() + 20_000);
    harness.drain();
    harness.wait_until_empty().await;
    assert_eq!(harness.stored("a"), range(6));
    assert_eq!(harness.stored("b"), [7]);
    assert_eq!(harness.spool.ledger().dead_letters, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failing_destination_blocks_no_other_and_loses_nothing() {
    let mut harness = SpoolHarness::new();
    harness.append_all(ROOM, "a", 0..500).await;
    harness.append_all(TRAFFIC, "b", 0..500).await;
    harness
        .append_all(Destination::Quarantine, "c", 0..500)
        .await;
    let denied = KafkaBehaviour::Fails(RDKafkaErrorCode::TopicAuthorizationFailed);
    harness.kafka.set_behaviour(&topic(ROOM), denied);
    harness
        .lane(Destination::Quarantine)
        .set_state(TopicState::Missing);
    harness.drain();
    harness
        .wait_until("the healthy destination is drained", |h| {
            h.spool.store().present(TRAFFIC) == 0
        })
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(harness.lane(ROOM).state(), TopicState::Forbidden);
    assert_eq!(harness.spool.ledger().dead_letters, 0);
    assert_eq!(harness.spool.ledger().present, 1_000);
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    harness.lane(ROOM).set_state(TopicState::Available);
    harness
        .lane(Destination::Quarantine)
        .set_state(TopicState::Available);
    harness.wait_until_empty().await;
    for key in ["a", "b", "c"] {
        assert_eq!(harness.stored(key), range(500));
    }
}

fn is_full(appended: Result<(), AppendError>) -> bool {
    matches!(appended, Err(AppendError::Full { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_spool_accepts_nothing_until_it_has_room() {
    let mut harness = SpoolHarness::with_settings(|s| s.max_bytes = 4 << 20);
    let mut number = 0;
    while harness.append(ROOM, "a", number).await.is_ok() {
        let appends: Vec<_> = (1..100)
            .map(|n| harness.append(ROOM, "a", number + n))
            .collect();
        let mut appended = true;
        for append in appends {
            appended &= append.await.is_ok();
        }
        number += 100;
        assert!(number < 1_000_000, "there is no limit");
        if !appended {
            break;
        }
    }
    assert!(is_full(harness.append(ROOM, "a", number).await));
    assert!(!harness.spool.is_writable());
    assert!(harness.spool.state().bytes <= 5 << 20);
    assert!(harness.spool.state().full_reason.is_some());
    harness.drain();
    harness.wait_until("room", |h| h.spool.is_writable()).await;
    harness.wait_until_empty().await;
    harness.append_all(ROOM, "b", 0..10).await;
    harness.wait_until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_nearly_full_disk_accepts_nothing() {
    let harness = SpoolHarness::new();
    harness.append_all(ROOM, "a", 0..1).await;
    harness.free.store(1_000, Ordering::Relaxed);
    harness.wait_until("full", |h| !h.spool.is_writable()).await;
    assert!(is_full(harness.append(ROOM, "a", 1).await));
    harness.free.store(1 << 40, Ordering::Relaxed);
    harness.wait_until("room", |h| h.spool.is_writable()).await;
    harness.append_all(ROOM, "a", 1..2).await;
    assert_eq!(harness.spool.ledger().spooled, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failed_disk_accepts_nothing_until_a_test_commit_succeeds() {
    let mut harness = SpoolHarness::with_settings(|s| s.segment_bytes = 1);
    harness.append_all(ROOM, "a", 0..3).await;
    // The next segments cannot be created.
    let segments = harness.spool.store().segments();
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
        .map(|name| harness.dir.path().join(name));
    let obstacles: Vec<_> = obstacles.collect();
    for obstacle in &obstacles {
        std::fs::create_dir_all(obstacle.join("x")).unwrap();
    }
    let appended = harness.append(ROOM, "a", 3).await;
    assert!(
        matches!(appended, Err(AppendError::Unwritable { .. })),
        "{appended:?}"
    );
    assert!(!harness.spool.is_writable());
    assert!(harness.spool.state().poison_reason.is_some());
    // Further entries are refused at once.
    let at = Instant::now();
    assert!(harness.append(ROOM, "a", 4).await.is_err());
    assert!(at.elapsed() < Duration::from_millis(500));
    for obstacle in &obstacles {
        std::fs::remove_dir_all(obstacle).unwrap();
    }
    harness
        .wait_until("writable", |h| h.spool.is_writable())
        .await;
    harness.append_all(ROOM, "a", 3..5).await;
    harness.drain();
    harness.wait_until_empty().await;
    assert_eq!(harness.stored("a"), range(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn entries_in_flight_at_the_end_are_searched_for_after_a_restart() {
    let mut harness = SpoolHarness::new();
    harness.append_all(ROOM, "a", 0..2_000).await;
    harness.drain();
    harness
        .wait_until("half of it", |h| h.spool.ledger().drained > 500)
        .await;
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    append_in_doubt(&harness, 2_000).await;
    harness
        .wait_until("some hang", |h| {
            h.kafka.queued() > 1 || h.spool.ledger().drained == 2_000
        })
        .await;
    let stored_before = harness.stored("a");
    let mut harness = harness.restart();
    let recovered = harness.spool.ledger().recovered;
    assert!(
        recovered as usize >= 2_001 - stored_before.len(),
        "{recovered}"
    );
    assert!(harness.spool.state().destinations[ROOM.index()].is_searching);
    // A new event waits behind them.
    assert!(matches!(harness.spool.route(ROOM), Route::Spool));
    harness.append_all(ROOM, "a", 2_001..2_010).await;
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    harness.drain();
    harness.wait_until_empty().await;
    let searched = lock(&harness.searched).len();
    assert!(searched > 0);
    assert_eq!(harness.stored("a"), range(2_010), "each once, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn recovered_entries_that_are_stored_are_not_drained_again() {
    let mut harness = SpoolHarness::new();
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    harness.drain();
    append_in_doubt(&harness, 0).await;
    harness.append_all(ROOM, "a", 1..3).await;
    let restarted = {
        // It was stored, and the report did not come.
        let kafka = Arc::clone(&harness.kafka);
        let restarted = harness.restart();
        drop(kafka.send(restarted.lane(ROOM), "a", &value(ROOM, "a", 0)));
        kafka.set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
        restarted
            .wait_until("stored", |h| h.stored("a") == [0])
            .await;
        restarted
    };
    harness = restarted;
    harness.drain();
    harness.wait_until_empty().await;
    let ledger = harness.spool.ledger();
    assert_eq!(
        [ledger.recovered, ledger.already_stored, ledger.drained],
        [3, 1, 2]
    );
    assert_eq!(harness.stored("a"), range(3));
    assert_eq!(lock(&harness.searched).len(), 1, "only the entry in doubt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_shutdown_nothing_is_appended_or_sent() {
    let mut harness = SpoolHarness::new();
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    harness.drain();
    let appends: Vec<_> = (0..100).map(|n| harness.append(ROOM, "a", n)).collect();
    harness.spool.shut_down();
    for append in appends {
        assert_eq!(append.await, Ok(()), "entries in the queue are appended");
    }
    assert_eq!(
        harness.append(ROOM, "a", 100).await,
        Err(AppendError::Ending)
    );
    assert!(!harness.spool.is_writable());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let queued = harness.kafka.queued();
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Up);
    // Reports are still handled.
    harness
        .wait_until("the rest", |h| h.spool.ledger().drained as usize == queued)
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(harness.spool.ledger().present as usize, 100 - queued);
    let mut harness = harness.restart();
    harness.drain();
    harness.wait_until_empty().await;
    assert_eq!(harness.stored("a"), range(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_that_wait_for_the_backlog_are_woken_when_the_drain_stops() {
    let mut harness = SpoolHarness::new();
    harness.drain();
    harness
        .kafka
        .set_behaviour(&topic(ROOM), KafkaBehaviour::Hangs);
    let backlog = &harness.spool.shared.backlogs[ROOM.index()];
    // As if the last entry were being sent.
    backlog.add(1);
    backlog.set_wait_threshold(10);
    let Route::Wait(cleared) = harness.spool.route(ROOM) else {
        panic!("the backlog is nearly empty");
    };
    let waiting = tokio::spawn(cleared);
    let Route::Wait(unpolled) = harness.spool.route(ROOM) else {
        panic!("the backlog is nearly empty");
    };
    backlog.set_wait_threshold(0);
    let soon = Duration::from_secs(1);
    tokio::time::timeout(soon, waiting)
        .await
        .expect("woken")
        .unwrap();
    tokio::time::timeout(soon, unpolled).await.expect("woken");
    backlog.remove(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_is_resolved_before_the_entry_is_acknowledged() {
    let harness = SpoolHarness::new();
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
    harness.free.store(0, Ordering::Relaxed);
    harness.wait_until("full", |h| !h.spool.is_writable()).await;
    let append = |claim| {
        let entry = new_entry(ROOM, &value(ROOM, "a", 0), false);
        harness.spool.append(entry, Some(claim), None)
    };
    assert!(is_full(append(first).await));
    let Ok(Decision::Publish(second)) = claim() else {
        panic!("it was not appended, so it is still new");
    };
    harness.free.store(1 << 40, Ordering::Relaxed);
    harness.wait_until("room", |h| h.spool.is_writable()).await;
    assert_eq!(append(second).await, Ok(()));
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
