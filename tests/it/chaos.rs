//! Chaos suite: random faults, and no promise of the bridge may be broken.
//!
//! Each seed defines a schedule of faults: Kafka killed, stopped or paused; its network slow, silent
//! or cut off; a topic deleted or short of replicas; a fatal producer error; the bridge killed or
//! stopped, its disk full, its clock stepped. Real bridge processes on a real Kafka run through the
//! schedule under load from the simulator, which records each response. After all faults have ended
//! and the bridge is idle, every promise is checked against the records in Kafka (see `judge`).
//!
//! Twenty new seeds are run. They must be started within 20 s each on average: if time runs out
//! first, the test names the missing seeds and fails. To run more seeds, or one again:
//!
//! ```text
//! eval "$(tests/kafka/broker.sh start)"
//! BUTLR_BRIDGE_TEST_SEEDS=200 cargo test --test it -- chaos    # two at a time; BUTLR_BRIDGE_TEST_LANES=3 for three
//! BUTLR_BRIDGE_TEST_SEED=123 cargo test --test it -- chaos::random_faults
//! ```
//!
//! A seed that fails prints its schedule, the broken promises, and the directory with its journal
//! and logs. `BUTLR_BRIDGE_TEST_KEEP=1` keeps these files for every seed.
//! `BUTLR_BRIDGE_TEST_SPOOL=off` runs bridges without a spool: events are then refused during an
//! outage of Kafka, and the sender retries them.

mod bridge;
mod broker;
mod clock;
mod disk;
mod evidence;
mod fatal;
mod injection;
mod judge;
mod ledgers;
mod refusals;
mod schedule;
mod seeds;
mod tampering;
mod trial_run;

use libtest_mimic::Trial;

use crate::harness::trial;

/// Returns the tests of this module.
pub fn trials() -> Vec<Trial> {
    const NOTHING: &[&str] = &[];
    const KAFKA: &[&str] = &["BUTLR_BRIDGE_TEST_JAVA_CP"];
    macro_rules! all {
        ($($needs:expr => [$($module:ident::$name:ident),* $(,)?]),* $(,)?) => {
            vec![$($({
                let path = concat!(module_path!(), "::", stringify!($name));
                trial("chaos", path, $needs, $module::$name)
            }),*),*]
        };
    }
    all![
        KAFKA => [
            seeds::random_faults_break_no_promise,
            fatal::a_producer_made_fatal_under_load_is_replaced_and_loses_nothing,
            tampering::what_is_tampered_with_is_found,
        ],
        NOTHING => [
            schedule::a_seed_means_the_same_each_time,
            schedule::every_kind_of_fault_is_drawn,
            schedule::faults_in_one_place_do_not_overlap,
        ],
        clock::missing_requirements() => [clock::a_process_goes_by_a_clock_of_its_own],
    ]
}
