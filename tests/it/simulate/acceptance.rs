//! What the bridge recognises, held against the oracle: a long stream with everything that a sender repeats, revises and
//! confuses, over 64 connections that are never idle, with a bridge ended and started again half-way.
//!
//! The stream has some thousand events here. All of it with 200,000, against a broker of `tests/kafka/broker.sh start`:
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

/// The trials of this module.
pub fn trials() -> Vec<Trial> {
    const KAFKA: &[&str] = &["BUTLR_BRIDGE_TEST_KAFKA"];
    // One of the two at a time, for what is missing is told as a whole.
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

/// What the others must not need: copies that are really there, so that their explanation is put to the test.
fn after_a_crash_without_a_memory_copies_are_there_and_explained() {
    let _alone = lock_heavy();
    let forgetful = ["dedup.rebuild_within=0s"];
    let outcome = run(BridgeReplicas::start(1, None, &forgetful), "KILL");
    let report = outcome.assert_nothing_lost(DuplicatePolicy::Allowed);
    assert!(report.copies.all > 0, "nothing to explain: {report}");
    // Of a short stream all of them may be tries that the crash cut off.
    let unrecognised = report.all_verdicts().unrecognised;
    assert!(unrecognised > 0 || !is_long_run(), "{report}");
    outcome.assert_copies_explained();
    outcome.assert_unique_per_process();
}

/// How many events are sent before what is left over.
fn event_count() -> u64 {
    let asked = std::env::var("BUTLR_BRIDGE_TEST_EVENTS").ok();
    asked.map_or(6_000, |n| n.parse().expect("how many events"))
}

/// Whether everything that can happen is to be expected in it.
fn is_long_run() -> bool {
    event_count() >= 50_000
}

const SEED: u64 = 11;

/// A city in which much of what is sent is occupancy, computed once; and the sender's quirks in the issue's shares. It is
/// as large as it must be to send all in about a quarter of an hour of its own time, however many those are.
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
    // Of 100 events, 86 are no redeliveries, and follow no other.
    let sample = event_count() as usize * 86 / 100;
    let occupancy = grow(SenderBehaviour::plain())
        .take(sample)
        .filter(is_occupancy)
        .count();
    let share = |of_all: f64| of_all * event_count() as f64 / occupancy as f64;
    grow(SenderBehaviour {
        redelivered: 0.042,
        overlapping: 0.01,
        // All, but those that are late altogether.
        shuffled: 1.0,
        late: 0.04,
        repeated: share(0.05),
        corrected: share(0.03),
        stale: share(0.01),
        ..SenderBehaviour::plain()
    })
}
