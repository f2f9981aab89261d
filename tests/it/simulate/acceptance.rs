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
use crate::harness::{RedisServer, clock_ms, redis_needs, trial};
use crate::real::heavy;
use bridges::Bridges;
use outcome::run;

/// The trials of this module.
pub fn trials() -> Vec<Trial> {
    const KAFKA: &[&str] = &["BUTLR_BRIDGE_TEST_KAFKA"];
    // One of the two at a time, for what is missing is told as a whole.
    let redis = match redis_needs() {
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
    let _alone = heavy();
    let outcome = run(Bridges::start(1, None, &[]), "TERM");
    outcome.all_was_checked();
    outcome.nothing_was_lost(DuplicatePolicy::Expected);
    outcome.each_reading_is_there_once();
    outcome.counters_are_the_ledgers();
}

fn two_replicas_are_as_good_as_one() {
    let _alone = heavy();
    let redis = RedisServer::start(&[]);
    let outcome = run(Bridges::start(2, Some(&redis), &[]), "TERM");
    outcome.redis_was_there();
    outcome.nothing_was_lost(DuplicatePolicy::Expected);
    outcome.each_reading_is_there_once();
    outcome.counters_are_the_ledgers();
}

fn after_a_crash_nothing_is_lost_and_copies_are_explained() {
    let _alone = heavy();
    let outcome = run(Bridges::start(1, None, &[]), "KILL");
    outcome.nothing_was_lost(DuplicatePolicy::Allowed);
    outcome.copies_are_explained();
    outcome.what_was_not_recognised_was_counted();
    outcome.each_process_recognises_its_own();
}

fn after_the_crash_of_a_replica_nothing_is_lost_and_copies_are_explained() {
    let _alone = heavy();
    let redis = RedisServer::start(&[]);
    let outcome = run(Bridges::start(2, Some(&redis), &[]), "KILL");
    outcome.redis_was_there();
    outcome.nothing_was_lost(DuplicatePolicy::Allowed);
    outcome.copies_are_explained();
    outcome.what_was_not_recognised_was_counted();
}

/// What the others must not need: copies that are really there, so that their explanation is put to the test.
fn after_a_crash_without_a_memory_copies_are_there_and_explained() {
    let _alone = heavy();
    let forgetful = ["dedup.rebuild_within=0s"];
    let outcome = run(Bridges::start(1, None, &forgetful), "KILL");
    let report = outcome.nothing_was_lost(DuplicatePolicy::Allowed);
    assert!(report.copies.all > 0, "nothing to explain: {report}");
    // Of a short stream all of them may be tries that the crash cut off.
    let unrecognised = report.all_verdicts().unrecognised;
    assert!(unrecognised > 0 || !is_long(), "{report}");
    outcome.copies_are_explained();
    outcome.each_process_recognises_its_own();
}

/// How many events are sent before what is left over.
fn events() -> u64 {
    let asked = std::env::var("BUTLR_BRIDGE_TEST_EVENTS").ok();
    asked.map_or(6_000, |n| n.parse().expect("how many events"))
}

/// Whether everything that can happen is to be expected in it.
fn is_long() -> bool {
    events() >= 50_000
}

const SEED: u64 = 11;

/// A city in which much of what is sent is occupancy, computed once; and the sender's quirks in the issue's shares. It is
/// as large as it must be to send all in about a quarter of an hour of its own time, however many those are.
fn stream() -> DeliveryStream {
    let rooms = usize::try_from(events() / 250).expect("a city").max(20);
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
    let sample = events() as usize * 86 / 100;
    let occupancy = grow(SenderBehaviour::plain())
        .take(sample)
        .filter(is_occupancy)
        .count();
    let share = |of_all: f64| of_all * events() as f64 / occupancy as f64;
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
