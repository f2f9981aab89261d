//! Makes a schedule happen, and undoes it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::bridge::Bridge;
use super::clock::Clock;
use super::disk::Disk;
use super::kafka::Kafka;
use super::schedule::{Fault, Place, Schedule, What};
use crate::harness::Weather;
use crate::real::{create_topics, delete_topics};

/// Partitions of each topic.
pub const PARTITIONS: i32 = 3;

/// All that faults are done to.
pub struct World<'k> {
    pub kafka: &'k Kafka,
    /// `{type}` stands for the type.
    pub template: String,
    pub bridge: Mutex<Bridge>,
    pub disk: Option<Disk>,
    pub clock: Option<Clock>,
}

/// What happened when, since the load began.
#[derive(Clone, Debug)]
pub struct Done {
    pub what: What,
    pub began: Duration,
    /// When all was well again, as far as this is concerned.
    pub ended: Duration,
}

impl World<'_> {
    /// Lets all of it happen. On return every fault is over.
    pub fn act(&self, schedule: &Schedule, began: Instant) -> Vec<Done> {
        let in_place = |place: Place| {
            let faults = schedule.faults.iter();
            let faults = faults.filter(move |f| f.what.place() == place);
            let happened = faults.filter_map(|fault| self.happen(fault, began));
            happened.collect()
        };
        let mut done: Vec<Done> = std::thread::scope(|scope| {
            let all = Place::ALL.map(|place| scope.spawn(move || in_place(place)));
            let all = all.map(|thread| {
                thread.join().unwrap_or_else(|panic| {
                    // The other places end what they began first.
                    std::panic::resume_unwind(panic)
                })
            });
            all.into_iter().flat_map(|done: Vec<Done>| done).collect()
        });
        done.sort_by_key(|d| d.began);
        done
    }

    /// `None`: there was nothing to do it to.
    fn happen(&self, fault: &Fault, began: Instant) -> Option<Done> {
        std::thread::sleep(fault.at.saturating_sub(began.elapsed()));
        let at = began.elapsed();
        let happened = self.one(fault.what, fault.lasts);
        happened.then(|| Done {
            what: fault.what,
            began: at,
            ended: began.elapsed(),
        })
    }

    fn one(&self, what: What, lasts: Duration) -> bool {
        let wait = || std::thread::sleep(lasts);
        let bridge = || self.bridge.lock().expect("no panic holds it");
        let topic = |event_type: butlr_event::EventType| {
            self.template.replace("{type}", event_type.kebab())
        };
        match what {
            What::KafkaKilled => {
                self.kafka.kill();
                wait();
                self.kafka.start_again();
            }
            What::KafkaStopped => {
                self.kafka.stop();
                wait();
                self.kafka.start_again();
            }
            What::KafkaPaused => {
                self.kafka.pause();
                wait();
                self.kafka.resume();
            }
            What::TopicDeleted(event_type) => {
                let topics = [topic(event_type)];
                delete_topics(&self.kafka.address(), &topics);
                wait();
                create_topics(&self.kafka.address(), &topics, PARTITIONS, &[]);
            }
            What::TooFewReplicas(event_type) => {
                self.kafka.set_min_insync_replicas(&topic(event_type), "2");
                wait();
                self.kafka.set_min_insync_replicas(&topic(event_type), "1");
            }
            What::NetworkSlow(by) => self.weather(Weather::Slow(by), lasts),
            What::NetworkSilent => self.weather(Weather::Silent, lasts),
            What::NetworkRefuses => self.weather(Weather::Refusing, lasts),
            What::AnswersLost => {
                self.kafka.proxy.set(Weather::AnswersLost);
                wait();
                // What was held back so far does not come after all.
                self.kafka.proxy.cut();
                self.kafka.proxy.set(Weather::Fair);
            }
            What::NetworkCut(every) => {
                let began = Instant::now();
                while began.elapsed() < lasts {
                    self.kafka.proxy.cut();
                    std::thread::sleep(every);
                }
            }
            What::ProducerFatal => {
                self.kafka.proxy.contradict();
                wait();
                return self.kafka.proxy.calm();
            }
            What::BridgeKilled => {
                bridge().kill();
                wait();
                bridge().start_again();
            }
            What::BridgeEnded => {
                bridge().end();
                wait();
                bridge().start_again();
            }
            What::DiskFull => {
                let disk = self.disk.as_ref().expect("possible here");
                disk.fill();
                wait();
                disk.free();
            }
            What::ClockStep(seconds) => {
                let clock = self.clock.as_ref().expect("possible here");
                clock.set(seconds);
                wait();
                clock.set(0);
            }
        }
        true
    }

    fn weather(&self, weather: Weather, lasts: Duration) {
        self.kafka.proxy.set(weather);
        std::thread::sleep(lasts);
        self.kafka.proxy.set(Weather::Fair);
    }
}
