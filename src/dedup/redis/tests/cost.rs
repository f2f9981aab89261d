//! Measures the cost of claims. Run it alone on the machine:
//! `cargo test --release --lib redis::tests::cost -- --ignored --nocapture`.

use super::*;

/// The memory that Redis uses.
fn used_memory(url: &str) -> i64 {
    let client = Client::open(url).unwrap();
    let mut connection = client.get_connection().unwrap();
    let info: String = ::redis::cmd("INFO")
        .arg("memory")
        .query(&mut connection)
        .unwrap();
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    used.unwrap().trim().parse().unwrap()
}

/// Claims and commits `events` events, `at_a_time` at once; if they are occupancies, each has a key
/// of its own.
async fn claim_all(
    replica: &Replica,
    from: u32,
    events: u32,
    at_a_time: u32,
    with_occupancy: bool,
) {
    let next = AtomicU32::new(from);
    let workers = (0..at_a_time).map(|_| async {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= from + events {
                return;
            }
            let id = ksuid(number, 1);
            let occupancy = with_occupancy.then_some(u64::from(number));
            let mut facts = facts(&id, occupancy, 1, i64::from(number));
            facts.has_plausible_time = true;
            let (_, claim) = replica.verdict(&facts).await;
            commit(claim.unwrap());
        }
    });
    futures_util::future::join_all(workers).await;
}

#[test]
#[ignore = "measures, asserts nothing"]
fn claims_per_second_and_bytes_per_event() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let replica = Replica::new(
        &drop_settings(),
        &server.url(),
        &fresh_topics(),
        GENEROUS_TIMEOUT,
    );
    runtime().block_on(async {
        claim_all(&replica, 0, 20_000, 64, false).await;
        let mut from = 1_000_000;
        for at_a_time in [1, 8, 64, 512] {
            let events = if at_a_time == 1 { 10_000 } else { 100_000 };
            let since = Instant::now();
            claim_all(&replica, from, events, at_a_time, true).await;
            let a_second = f64::from(events) / since.elapsed().as_secs_f64();
            println!("{at_a_time} at a time: {a_second:.0} claimed and committed per second");
            from += events;
        }
        for with_occupancy in [false, true] {
            replica.redis.flush(GENEROUS_TIMEOUT).await;
            let before = used_memory(&server.url());
            claim_all(&replica, from, 100_000, 64, with_occupancy).await;
            replica.redis.flush(GENEROUS_TIMEOUT).await;
            let bytes = (used_memory(&server.url()) - before) / 100_000;
            println!("{bytes} bytes per event, occupancy: {with_occupancy}");
            from += 100_000;
        }
        println!("errors: {}", replica.errors.get());
    });
}
