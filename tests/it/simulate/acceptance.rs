//! Acceptance test of duplicate detection against the oracle: a long stream in which the sender
//! repeats, revises and reorders events, over 64 connections that are never idle, with a restart of
//! one bridge halfway.
//!
//! The stream has a few thousand events by default. To send 200,000 to a broker started with
//! `tests/kafka/broker.sh start`:
//!
//! ```text
//! eval "$(tests/kafka/broker.sh env)"
//! BUTLR_BRIDGE_TEST_REQUIRE_ALL=1 BUTLR_BRIDGE_TEST_EVENTS=200000 \
//!     cargo test --release --test it -- simulate::acceptance --nocapture
//! ```

mod bridges;
mod outcome;

use libtest_mimic::Trial;

use butlr_simulate::city::{CityBehaviour, CitySize};
use butlr_simulate::message::{MessageData, PlannedDelivery};
use butlr_simulate::stream::{DeliveryStream, SenderBehaviour};
use butlr_simulate::verify::DuplicatePolicy;

use super::HOUR_MS;
use crate::harness::{RedisServer, clock_ms, missing_redis_requirements, trial};
use crate::real_kafka::lock_heavy;
use bridges::BridgeReplicas;
use outcome::run;

/// Returns the tests of this module.
pub fn trials() -> Vec<Trial> {
    const KAFKA: &[&str] = &["BUTLR_BRIDGE_TEST_KAFKA"];
    // Names one kind of missing requirement at a time.
    let redis = match missing_redis_requirements() {
        [] => KAFKA,
        redis => redis,
    };
    macro_rules! all {
        ($($needs:expr => [$($name:ident),* $(,)?]),* $(,)?) => {
            vec![$($({
                let path = concat!(module_path!(), "::", stringify!($name));
                trial("simulate", path, $needs, $name)
            }),*),*]
        };
    }
    all![
        KAFKA => [
            a_bridge_that_is_started_again_goes_on_where_it_was,
            after_a_crash_nothing_is_lost_and_copies_are_explained,
            after_a_crash_without_a_memory_copies_are_there_and_explained,
        ],
        redis => [
            two_replicas_are_as_good_as_one,
            after_the_crash_of_a_replica_nothing_is_lost_and_copies_are_explained,
        ],
    ]
}

fn a_bridge_that_is_started_again_goes_on_where_it_was() {
    let _alone = lock_heavy();
    let outcome = run(BridgeReplicas::start(1, None, &[]), "TERM");
    outcome.assert_all_checked();
    outcome.assert_nothing_lost(DuplicatePolicy::Expected);
    outcome.assert_readings_unique();
    outcome.assert_counters_match();
}

fn two_replicas_are_as_good_as_one() {
    let _alone = lock_heavy();
    let redis = RedisServer::start(&[]);
    let outcome = run(BridgeReplicas::start(2, Some(&redis), &[]), "TERM");
    outcome.assert_redis_available();
    outcome.assert_nothing_lost(DuplicatePolicy::Expected);
    outcome.assert_readings_unique();
    outcome.assert_counters_match();
}

fn after_a_crash_nothing_is_lost_and_copies_are_explained() {
    let _alone = lock_heavy();
    let outcome = run(BridgeReplicas::start(1, None, &[]), "KILL");
    outcome.assert_nothing_lost(DuplicatePolicy::Allowed);
    outcome.assert_copies_explained();
    outcome.assert_unrecognised_counted();
    outcome.assert_unique_per_process();
}

fn after_the_crash_of_a_replica_nothing_is_lost_and_copies_are_explained() {
    let _alone = lock_heavy();
    let redis = RedisServer::start(&[]);
    let outcome = run(BridgeReplicas::start(2, Some(&redis), &[]), "KILL");
    outcome.assert_redis_available();
    outcome.assert_nothing_lost(DuplicatePolicy::Allowed);
    outcome.assert_copies_explained();
    outcome.assert_unrecognised_counted();
}

/// Control for the other tests: here copies do exist, so their explanation is put to the test.
fn after_a_crash_without_a_memory_copies_are_there_and_explained() {
    let _alone = lock_heavy();
    let forgetful = ["dedup.rebuild_within=0s"];
    let outcome = run(BridgeReplicas::start(1, None, &forgetful), "KILL");
    let report = outcome.assert_nothing_lost(DuplicatePolicy::Allowed);
    assert!(report.copies.all > 0, "nothing to explain: {report}");
    // In a short stream, all of them may be attempts that the crash interrupted.
    let unrecognised = report.all_verdicts().unrecognised;
    assert!(unrecognised > 0 || !is_long_run(), "{report}");
    outcome.assert_copies_explained();
    outcome.assert_unique_per_process();
}

/// Returns the number of events to send.
fn event_count() -> u64 {
    let asked = std::env::var("BUTLR_BRIDGE_TEST_EVENTS").ok();
    asked.map_or(6_000, |n| n.parse().expect("a number of events"))
}

/// Returns `true` if the stream is long enough to contain every case.
fn is_long_run() -> bool {
    event_count() >= 50_000
}

const SEED: u64 = 11;

/// Creates the stream: a city that mostly sends occupancy values computed once, with the sender's
/// habits in realistic proportions. Its size is chosen so that all events cover about a quarter of
/// an hour of simulated time.
fn stream() -> DeliveryStream {
    let rooms = usize::try_from(event_count() / 250)
        .expect("a city")
        .max(20);
    let size = CitySize {
        rooms,
        sensors: Some(rooms / 10),
    };
    let habits = CityBehaviour {
        revised: 0.0,
        recompute: false,
        ..CityBehaviour::default()
    };
    let start_ms = clock_ms() - 12 * HOUR_MS;
    let grow =
        |behaviour| DeliveryStream::from_seed(SEED, size, start_ms, habits.clone(), behaviour);
    let is_occupancy = |d: &PlannedDelivery| matches!(d.message.data, MessageData::Occupancy(_));
    // 86 of 100 events are neither redeliveries nor follow-ups.
    let sample = event_count() as usize * 86 / 100;
    let occupancy = grow(SenderBehaviour::plain())
        .take(sample)
        .filter(is_occupancy)
        .count();
    let share = |of_all: f64| of_all * event_count() as f64 / occupancy as f64;
    grow(SenderBehaviour {
        redelivered: 0.042,
        overlapping: 0.01,
        // All events except those that are late altogether.
        shuffled: 1.0,
        late: 0.04,
        repeated: share(0.05),
        corrected: share(0.03),
        stale: share(0.01),
        ..SenderBehaviour::plain()
    })
}
