//! Many threads that claim at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time::timeout;

use super::*;
use crate::dedup::keys::SourceKey;
use butlr_event::EventType;

const THREADS: u8 = 8;
const KEYS: u64 = 4_000;

/// Each thread claims each event, and some deliveries fail: each event is stored once, and no
/// thread waits forever.
#[test]
fn each_event_is_stored_once() {
    let memory = MemoryStore::new(&drop_settings(), Instant::now());
    let stored: Vec<AtomicU32> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    let [waited, failed] = [AtomicU32::new(0), AtomicU32::new(0)];
    let together = Barrier::new(usize::from(THREADS));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (memory, stored, together) = (&memory, &stored, &together);
            let (waited, failed) = (&waited, &failed);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build();
                together.wait();
                runtime.unwrap().block_on(async {
                    for n in 0..KEYS {
                        let mut tries = 0;
                        loop {
                            tries += 1;
                            match memory.claim(&facts(n, thread), Instant::now()) {
                                Ok(Decision::Duplicate { .. }) => break,
                                Err(waiter) => {
                                    waited.fetch_add(1, Ordering::Relaxed);
                                    let wait = timeout(Duration::from_secs(30), waiter).await;
                                    wait.expect("the waiter is woken");
                                }
                                Ok(Decision::Publish(claim)) => {
                                    std::thread::yield_now();
                                    if (n + u64::from(thread) + tries).is_multiple_of(3) {
                                        failed.fetch_add(1, Ordering::Relaxed);
                                        drop(claim);
                                    } else {
                                        stored[n as usize].fetch_add(1, Ordering::Relaxed);
                                        claim.commit(&Receipt::for_test(), Instant::now());
                                    }
                                }
                            }
                        }
                    }
                });
            });
        }
    });
    assert!(
        stored
            .iter()
            .all(|times| times.load(Ordering::Relaxed) == 1)
    );
    let [waited, failed] = [waited, failed].map(AtomicU32::into_inner);
    assert!(
        waited > 0 && failed > 0,
        "{waited} waits, {failed} failures"
    );
    let entries = memory.entry_counts();
    assert_eq!(
        (entries.undecided, entries.readings),
        (0, KEYS as usize / 2)
    );
}

/// Even numbers are the same event on each thread; odd ones have an id for each thread, and the
/// same value.
fn facts(n: u64, thread: u8) -> EventFacts<'static> {
    let hash = |seed| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed);
    let is_occupancy = n % 2 == 1;
    EventFacts {
        id: "",
        event_type: Some(EventType::RoomOccupancy),
        id_hash: IdHash(hash(if is_occupancy {
            10 + u64::from(thread)
        } else {
            1
        })),
        reading: ReadingHash(hash(2)),
        occupancy_key: is_occupancy.then(|| OccupancyKey(hash(3))),
        source_key: SourceKey(n % 7),
        timestamp_ms: n as i64,
        has_plausible_time: true,
    }
}
