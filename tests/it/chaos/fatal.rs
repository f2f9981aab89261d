//! Fatal producer error under load.

use std::time::Duration;

use super::broker::ChaosKafka;
use super::judge::judge;
use super::schedule::{FaultKind, FaultSchedule, ScheduledFault};
use super::trial_run::run_schedule;
use crate::real_kafka::lock_heavy;

pub fn a_producer_made_fatal_under_load_is_replaced_and_loses_nothing() {
    let _alone = lock_heavy();
    let kafka = ChaosKafka::start();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let fatal = |at| ScheduledFault {
        at: Duration::from_secs(at),
        lasts: Duration::from_secs(1),
        kind: FaultKind::ProducerFatal,
    };
    let schedule = FaultSchedule {
        rate: 300.0,
        faults: vec![fatal(1), fatal(3)],
        ..FaultSchedule::draw(1)
    };
    run_schedule(&schedule, &kafka, dir.path(), |evidence| {
        let judgement = judge(evidence);
        assert!(
            judgement.broken_promises.is_empty(),
            "{:?}",
            judgement.broken_promises
        );
        let log = std::fs::read_to_string(dir.path().join("bridge-1.log")).expect("its log");
        let count = |what| log.matches(what).count();
        let fatal = count("fatal error of the Kafka producer");
        assert!((1..=2).contains(&fatal), "{fatal} times: {log}");
        assert_eq!(count("a new Kafka producer takes over"), fatal, "{log}");
        assert!(
            evidence.applied_faults.len() >= fatal,
            "{:?}",
            evidence.applied_faults
        );
    });
}
