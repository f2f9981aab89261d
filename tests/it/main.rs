//! All integration tests in one binary: the server inside the test process, or the real binary,
//! against an embedded broker, and against a real Kafka if `BUTLR_BRIDGE_TEST_KAFKA=host:port` is set.
//!
//! `cargo test --test it -- FILTER` runs some of them. A test that cannot run here is ignored and
//! named on standard error; with `BUTLR_BRIDGE_TEST_REQUIRE_ALL=1` it fails instead.
//! `BUTLR_BRIDGE_TEST_LOG=debug` shows the log of the bridges.

mod harness;
mod load;
mod real_kafka;

mod admin;
mod auth;
mod bulkheads;
mod chaos;
mod command_line;
mod duplicates;
mod faults;
mod in_doubt;
mod ingest;
mod kafka_real;
mod limits;
mod outage;
mod quarantine;
mod records;
mod redis;
mod replay;
mod restart;
mod shutdown;
mod simulate;
mod snapshots;
mod spool;
mod spool_commands;
mod tls;
mod topics;
mod validation;

use libtest_mimic::{Arguments, Trial};

/// Limit for parallel tests. With more bridges at a time, a small machine runs into timeouts.
const MAX_THREADS: usize = 4;

fn main() {
    let mut arguments = Arguments::from_args();
    let threads = arguments.test_threads.unwrap_or(MAX_THREADS);
    arguments.test_threads = Some(threads.clamp(1, MAX_THREADS));
    harness::init_log();
    // The slowest modules come first, so that the others run beside them.
    let modules = [
        chaos::trials(),
        outage::trials(),
        simulate::trials(),
        ingest::trials(),
        validation::trials(),
        limits::trials(),
        auth::trials(),
        tls::trials(),
        bulkheads::trials(),
        faults::trials(),
        records::trials(),
        quarantine::trials(),
        replay::trials(),
        duplicates::trials(),
        redis::trials(),
        restart::trials(),
        spool::trials(),
        spool_commands::trials(),
        in_doubt::trials(),
        topics::trials(),
        kafka_real::trials(),
        shutdown::trials(),
        snapshots::trials(),
        admin::trials(),
        command_line::trials(),
    ];
    let trials: Vec<Trial> = modules.into_iter().flatten().collect();
    harness::print_skipped(&arguments, &trials);
    libtest_mimic::run(&arguments, trials).exit();
}
