//! Makes a schedule happen, and undoes it.

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

/// All that faults are done to.
pub struct ChaosEnvironment<'k> {
    pub kafka: &'k ChaosKafka,
    /// `{type}` stands for the type.
    pub template: String,
    pub bridge: Mutex<RestartableBridge>,
    pub disk: Option<SmallDisk>,
    pub clock: Option<BridgeClock>,
}

/// What happened when, since the load began.
#[derive(Clone, Debug)]
pub struct AppliedFault {
    pub kind: FaultKind,
    pub began: Duration,
    /// When all was well again, as far as this is concerned.
    pub ended: Duration,
}

impl ChaosEnvironment<'_> {
    /// Lets all of it happen. On return every fault is over.
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
                    // The other places end what they began first.
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

    /// `None`: there was nothing to do it to.
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

    fn inject(&self, what: FaultKind, lasts: Duration) -> bool {
        let wait = || std::thread::sleep(lasts);
        let bridge = || self.bridge.lock().expect("no panic holds it");
        let topic = |event_type: butlr_event::EventType| {
            self.template.replace("{type}", event_type.kebab_name())
        };
        match what {
            FaultKind::KafkaKilled => {
                self.kafka.kill();
                wait();
                self.kafka.restart();
            }
            FaultKind::KafkaStopped => {
                self.kafka.stop();
                wait();
                self.kafka.restart();
            }
            FaultKind::KafkaPaused => {
                self.kafka.pause();
                wait();
                self.kafka.resume();
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
            FaultKind::AnswersLost => {
                self.kafka
                    .proxy
                    .set_condition(NetworkCondition::AnswersLost);
                wait();
                // What was held back so far does not come after all.
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
                let disk = self.disk.as_ref().expect("possible here");
                disk.fill_up();
                wait();
                disk.free();
            }
            FaultKind::ClockStep(seconds) => {
                let clock = self.clock.as_ref().expect("possible here");
                clock.set_offset(seconds);
                wait();
                clock.set_offset(0);
            }
        }
        true
    }

    fn degrade_network(&self, weather: NetworkCondition, lasts: Duration) {
        self.kafka.proxy.set_condition(weather);
        std::thread::sleep(lasts);
        self.kafka.proxy.set_condition(NetworkCondition::Normal);
    }
}
