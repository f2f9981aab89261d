//! Injects the faults of a schedule and undoes them.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::bridge::RestartableBridge;
use super::broker::ChaosKafka;
use super::clock::BridgeClock;
use super::disk::SmallDisk;
use super::schedule::{FaultKind, FaultSchedule, FaultSite, ScheduledFault};
use crate::harness::NetworkCondition;
use crate::real_kafka::{create_topics, delete_topics};

/// Partitions of each topic.
pub const PARTITIONS: i32 = 3;

/// Everything that faults are injected into.
pub struct ChaosEnvironment<'k> {
    pub kafka: &'k ChaosKafka,
    /// Topic template; `{type}` stands for the event type.
    pub template: String,
    pub bridge: Mutex<RestartableBridge>,
    pub disk: Option<SmallDisk>,
    pub clock: Option<BridgeClock>,
}

/// Fault that was injected, with times since the start of the load.
#[derive(Clone, Debug)]
pub struct AppliedFault {
    pub kind: FaultKind,
    pub began: Duration,
    /// End of the fault, as far as the fault itself is concerned.
    pub ended: Duration,
}

impl ChaosEnvironment<'_> {
    /// Injects all faults. On return every fault has ended.
    pub fn run_schedule(&self, schedule: &FaultSchedule, began: Instant) -> Vec<AppliedFault> {
        let in_place = |place: FaultSite| {
            let faults = schedule.faults.iter();
            let faults = faults.filter(move |f| f.kind.site() == place);
            let happened = faults.filter_map(|fault| self.apply(fault, began));
            happened.collect()
        };
        let mut done: Vec<AppliedFault> = std::thread::scope(|scope| {
            let all = FaultSite::ALL.map(|place| scope.spawn(move || in_place(place)));
            let all = all.map(|thread| {
                thread.join().unwrap_or_else(|panic| {
                    // The other sites end their faults first.
                    std::panic::resume_unwind(panic)
                })
            });
            all.into_iter()
                .flat_map(|done: Vec<AppliedFault>| done)
                .collect()
        });
        done.sort_by_key(|d| d.began);
        done
    }

    /// Returns `None` if the fault had no effect.
    fn apply(&self, fault: &ScheduledFault, began: Instant) -> Option<AppliedFault> {
        std::thread::sleep(fault.at.saturating_sub(began.elapsed()));
        let at = began.elapsed();
        let happened = self.inject(fault.kind, fault.lasts);
        happened.then(|| AppliedFault {
            kind: fault.kind,
            began: at,
            ended: began.elapsed(),
        })
    }

    fn inject(&self, kind: FaultKind, lasts: Duration) -> bool {
        let wait = || std::thread::sleep(lasts);
        let bridge = || self.bridge.lock().expect("lock not poisoned");
        let topic = |event_type: butlr_event::EventType| {
            self.template.replace("{type}", event_type.kebab_name())
        };
        match kind {
            FaultKind::KafkaKilled => {
                self.kafka.broker.kill();
                wait();
                self.kafka.broker.restart();
            }
            FaultKind::KafkaStopped => {
                self.kafka.broker.stop();
                wait();
                self.kafka.broker.restart();
            }
            FaultKind::KafkaPaused => {
                self.kafka.broker.pause();
                wait();
                self.kafka.broker.resume();
            }
            FaultKind::TopicDeleted(event_type) => {
                let topics = [topic(event_type)];
                delete_topics(&self.kafka.address(), &topics);
                wait();
                create_topics(&self.kafka.address(), &topics, PARTITIONS, &[]);
            }
            FaultKind::TooFewReplicas(event_type) => {
                self.kafka.set_min_insync_replicas(&topic(event_type), "2");
                wait();
                self.kafka.set_min_insync_replicas(&topic(event_type), "1");
            }
            FaultKind::NetworkSlow(by) => self.degrade_network(NetworkCondition::Slow(by), lasts),
            FaultKind::NetworkSilent => self.degrade_network(NetworkCondition::Silent, lasts),
            FaultKind::NetworkRefuses => self.degrade_network(NetworkCondition::Refusing, lasts),
            FaultKind::ResponsesLost => {
                self.kafka
                    .proxy
                    .set_condition(NetworkCondition::ResponsesLost);
                wait();
                // Drops the responses that were held back, so that they never arrive.
                self.kafka.proxy.cut_connections();
                self.kafka.proxy.set_condition(NetworkCondition::Normal);
            }
            FaultKind::NetworkCut(every) => {
                let began = Instant::now();
                while began.elapsed() < lasts {
                    self.kafka.proxy.cut_connections();
                    std::thread::sleep(every);
                }
            }
            FaultKind::ProducerFatal => {
                self.kafka.proxy.arm_contradiction();
                wait();
                return self.kafka.proxy.disarm_contradiction();
            }
            FaultKind::BridgeKilled => {
                bridge().kill();
                wait();
                bridge().restart();
            }
            FaultKind::BridgeEnded => {
                bridge().terminate();
                wait();
                bridge().restart();
            }
            FaultKind::DiskFull => {
                let disk = self.disk.as_ref().expect("available on this machine");
                disk.fill_up();
                wait();
                disk.free();
            }
            FaultKind::ClockStep(seconds) => {
                let clock = self.clock.as_ref().expect("available on this machine");
                clock.set_offset(seconds);
                wait();
                clock.set_offset(0);
            }
        }
        true
    }

    fn degrade_network(&self, condition: NetworkCondition, lasts: Duration) {
        self.kafka.proxy.set_condition(condition);
        std::thread::sleep(lasts);
        self.kafka.proxy.set_condition(NetworkCondition::Normal);
    }
}
