//! Everything goes wrong that can, at random, and no promise is broken.
//!
//! A schedule of faults is drawn from a seed: Kafka killed, stopped, paused; its network slow, silent, cut off; a topic
//! deleted, or short of replicas; the producer made fatal; the bridge killed, ended, its disk full, its clock put forward or back. Real bridge
//! processes on a real Kafka go through it under the simulator's load, which notes each answer. Once all is healed and
//! the bridge at rest, every promise is held against what is in Kafka (`judge`).
//!
//! Twenty fresh seeds are run, and begun within 20 s each on average: a trial that has not come to all of them by then says
//! which ones it left out, and fails. More of them, or one again:
//!
//! ```text
//! eval "$(tests/kafka/broker.sh start)"
//! BUTLR_BRIDGE_TEST_SEEDS=200 cargo test --test it -- chaos    # two at a time; BUTLR_BRIDGE_TEST_LANES=3 for three
//! BUTLR_BRIDGE_TEST_SEED=123 cargo test --test it -- chaos::random_faults
//! ```
//!
//! A seed that fails prints its schedule, the promises broken, and where journal and logs are kept; with
//! `BUTLR_BRIDGE_TEST_KEEP=1` they are kept of all.
//! `BUTLR_BRIDGE_TEST_SPOOL=off` runs bridges without a spool: then events are refused while Kafka is away, and sent again.

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

/// The trials of this module.
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
