//! What the sender does to a message on its way, beside trying again.

use std::time::Duration;

use rand::{Rng, RngExt};
use rand_pcg::Pcg64Mcg;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::message::{CityMessage, Computation, DeliveryKind, EventFault, MessageData};
use butlr_event::ksuid::Ksuid;

/// How often the sender does what it should not. Shares are of the messages computed, 0 to 1, each drawn by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SenderBehaviour {
    /// Delivered once more, 1 to 20 s later.
    pub redelivered: f64,
    /// Delivered 1 to 10 min late.
    pub late: f64,
    /// Delivered up to 5 s late, and so after messages that were computed later.
    pub shuffled: f64,
    /// Accompanied by a copy that is to be refused, under an id of its own.
    pub invalid: f64,
    /// Delivered twice at the same moment, over two connections.
    pub overlapping: f64,
    /// Of occupancy: followed by another with the same value, under a later id.
    pub repeated: f64,
    /// Of occupancy: corrections that follow, with another value, under a later id. One in five goes back to the value
    /// before the correction before it.
    pub corrected: f64,
    /// Of occupancy: followed by one with another value, under an earlier id.
    pub stale: f64,
    /// Times in which a building's events pile up, to come in a burst then.
    pub outages: Option<OutageSettings>,
}

/// How often a building's events pile up, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutageSettings {
    /// The mean time from one to the next.
    pub every: Duration,
    /// How long one lasts on average: from half to one and a half of it.
    pub length: Duration,
}

impl Default for OutageSettings {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(3600),
            length: Duration::from_secs(40),
        }
    }
}

impl Default for SenderBehaviour {
    fn default() -> Self {
        Self {
            redelivered: 0.005,
            late: 0.005,
            shuffled: 0.02,
            invalid: 0.0,
            overlapping: 0.0,
            repeated: 0.0,
            corrected: 0.0,
            stale: 0.0,
            outages: Some(OutageSettings::default()),
        }
    }
}

impl SenderBehaviour {
    /// A sender that delivers each message once, and at once.
    pub fn plain() -> Self {
        Self {
            redelivered: 0.0,
            late: 0.0,
            shuffled: 0.0,
            invalid: 0.0,
            overlapping: 0.0,
            repeated: 0.0,
            corrected: 0.0,
            stale: 0.0,
            outages: None,
        }
    }

    /// What becomes of `message`: decided by its id and the seed alone, so that no quirk depends on another message.
    pub(super) fn draw_plan(&self, seed: u64, message: &CityMessage) -> DeliveryPlan {
        let mut random = Pcg64Mcg::new(xxh3_128_with_seed(message.id.as_bytes(), seed));
        let mut draw = |share: f64| random.random::<f64>() < share;
        let [late, shuffled, redelivered, invalid] = [
            draw(self.late),
            draw(self.shuffled),
            draw(self.redelivered),
            draw(self.invalid),
        ];
        let mut delay_ms = random.random_range(TRANSIT_MS);
        if late {
            delay_ms += random.random_range(LATE_MS);
        } else if shuffled {
            delay_ms += random.random_range(SHUFFLED_MS);
        }
        DeliveryPlan {
            late,
            delay_ms,
            redelivery_after_ms: redelivered.then(|| random.random_range(REDELIVERY_MS)),
            invalid: invalid.then(|| {
                let mut payload = [0; 16];
                random.fill_bytes(&mut payload);
                let fault = EventFault::ALL[random.random_range(0..EventFault::ALL.len())];
                (fault, Ksuid::new(message.computed_ms, payload))
            }),
        }
    }

    /// Whether `message` is delivered twice at the same moment.
    pub(super) fn is_overlapping(&self, seed: u64, message: &CityMessage) -> bool {
        self.overlapping > 0.0
            && quirk_rng(seed, OVERLAP_SALT, message).random::<f64>() < self.overlapping
    }

    /// What follows `message` about the same reading: in which order, and so long after it. Each is computed as long after
    /// it, but for stale ones, which were computed before it.
    pub(super) fn draw_companions(
        &self,
        seed: u64,
        message: &CityMessage,
    ) -> Vec<CompanionMessage> {
        let MessageData::Occupancy(people) = message.data else {
            return Vec::new();
        };
        if self.repeated + self.corrected + self.stale == 0.0 {
            return Vec::new();
        }
        let mut random = quirk_rng(seed, COMPANIONS_SALT, message);
        let mut draw = |share: f64| random.random::<f64>() < share;
        let repeated = draw(self.repeated);
        // Each comes with a quarter of one that goes back.
        let corrected = draw(self.corrected * PLAIN_CORRECTION_SHARE);
        let (back, fewer) = (draw(REVERSAL_SHARE), draw(0.5));
        let stale = draw(self.stale);
        let other = match people {
            1.. if fewer => people - 1,
            _ => people + 1,
        };
        // Neither what is there nor what it may have been corrected to.
        let before = people + 2;
        let all = [
            (repeated, DeliveryKind::Repeat, people, REPEAT_MS),
            (corrected, DeliveryKind::Revision, other, CORRECTION_MS),
            (
                corrected && back,
                DeliveryKind::Revision,
                people,
                REVERSAL_MS,
            ),
            (stale, DeliveryKind::Stale, before, STALE_MS),
        ];
        let happen = all.into_iter().filter(|(happens, ..)| *happens);
        let companion = |(_, kind, people, after_ms): (bool, DeliveryKind, u32, MsRange)| {
            let after_ms = random.random_range(after_ms);
            let (since_ms, computation) = match kind {
                DeliveryKind::Stale => {
                    (-random.random_range(STALE_SINCE_MS), Computation::Revision)
                }
                DeliveryKind::Repeat => (after_ms, Computation::Repeat),
                _ => (after_ms, Computation::Revision),
            };
            let mut payload = [0; 16];
            random.fill_bytes(&mut payload);
            let computed_ms = message.computed_ms + since_ms;
            CompanionMessage {
                after_ms,
                kind,
                message: CityMessage {
                    computed_ms,
                    id: Ksuid::new(computed_ms, payload),
                    data: MessageData::Occupancy(people),
                    computation,
                    ..message.clone()
                },
            }
        };
        happen.map(companion).collect()
    }
}

/// Draws of their own, so that they change nothing about the others.
fn quirk_rng(seed: u64, about: u64, message: &CityMessage) -> Pcg64Mcg {
    let seed = seed ^ about;
    Pcg64Mcg::new(xxh3_128_with_seed(message.id.as_bytes(), seed))
}

const OVERLAP_SALT: u64 = 0x6f76_6572_6c61_7073;
const COMPANIONS_SALT: u64 = 0x636f_6d70_616e_696f;

type MsRange = std::ops::RangeInclusive<i64>;

/// From a message to what follows it: one after the other, and always by another second of their ids.
const REPEAT_MS: MsRange = 1_000..=3_000;
const CORRECTION_MS: MsRange = 4_000..=8_000;
const REVERSAL_MS: MsRange = 9_000..=12_000;
const STALE_MS: MsRange = 13_000..=20_000;
/// From the computation of a stale one to that of the message that it follows.
const STALE_SINCE_MS: MsRange = 1_000..=20_000;

/// Of the corrections those that do not go back.
const PLAIN_CORRECTION_SHARE: f64 = 0.8;
/// Of those how many are followed by one that goes back.
const REVERSAL_SHARE: f64 = 0.25;

/// From the computation to the first try.
const TRANSIT_MS: std::ops::RangeInclusive<i64> = 100..=400;
/// What shuffled messages take longer.
const SHUFFLED_MS: std::ops::RangeInclusive<i64> = 1..=5_000;
/// What late messages take longer.
const LATE_MS: std::ops::RangeInclusive<i64> = 60_000..=600_000;
/// From a delivery to its copy.
const REDELIVERY_MS: std::ops::RangeInclusive<i64> = 1_000..=20_000;

/// A further message about the same reading.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CompanionMessage {
    /// From the delivery of what it follows to its own.
    pub(super) after_ms: i64,
    /// What it is to what it follows.
    pub(super) kind: DeliveryKind,
    /// What it is.
    pub(super) message: CityMessage,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DeliveryPlan {
    /// Whether it is minutes late.
    pub(super) late: bool,
    /// From its computation to its delivery.
    pub(super) delay_ms: i64,
    /// From its delivery to that of a copy, where there is one.
    pub(super) redelivery_after_ms: Option<i64>,
    /// What is wrong with the additional copy, where there is one, and that one's id.
    pub(super) invalid: Option<(EventFault, Ksuid)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{CityPlace, Computation, MessageData};
    use butlr_event::EventType;

    /// Runs are compared across releases, so what a seed means must not change, say, with a library's version.
    #[test]
    fn a_seed_means_the_same_for_ever() {
        let id = Ksuid::parse("0ujtsYcgvSTl8PAuAdqWYSMnLOv").unwrap();
        let message = CityMessage {
            event_type: EventType::RoomOccupancy,
            place: CityPlace::Room(0),
            timestamp_ms: 1_507_608_000_000,
            computed_ms: 1_507_608_047_500,
            id,
            data: MessageData::Occupancy(3),
            computation: Computation::First,
        };
        let always = SenderBehaviour {
            redelivered: 1.0,
            late: 1.0,
            shuffled: 1.0,
            invalid: 1.0,
            ..SenderBehaviour::plain()
        };
        let fate = always.draw_plan(1, &message);
        let (fault, copy) = fate.invalid.unwrap();
        assert_eq!(
            (fate.late, fate.delay_ms, fate.redelivery_after_ms, fault),
            (true, 579_271, Some(10_860), EventFault::UnknownType)
        );
        assert_eq!(copy.to_string(), "0ujtsVll0yB0YfamJhJiUnVKJny");
        let never = SenderBehaviour::plain().draw_plan(1, &message);
        assert_eq!(
            (never.late, never.redelivery_after_ms, never.invalid),
            (false, None, None)
        );
        assert!(TRANSIT_MS.contains(&never.delay_ms));
    }

    #[test]
    fn what_a_seed_means_for_companions_stays_the_same() {
        let message = CityMessage {
            event_type: EventType::RoomOccupancy,
            place: CityPlace::Room(0),
            timestamp_ms: 1_507_608_000_000,
            computed_ms: 1_507_608_047_500,
            id: Ksuid::parse("0ujtsYcgvSTl8PAuAdqWYSMnLOv").unwrap(),
            data: MessageData::Occupancy(3),
            computation: Computation::First,
        };
        let always = SenderBehaviour {
            repeated: 1.0,
            corrected: 1.0,
            stale: 1.0,
            ..SenderBehaviour::plain()
        };
        let companions = (1..).map(|seed| always.draw_companions(seed, &message));
        let all = companions.into_iter().find(|all| all.len() == 4).unwrap();
        let companion_values: Vec<_> = all
            .iter()
            .map(|c| (c.kind, c.message.data.clone()))
            .collect();
        let [other] = [&companion_values[1].1].map(|data| match data {
            MessageData::Occupancy(n @ (2 | 4)) => *n,
            other => panic!("{other:?}"),
        });
        let expected = [
            (DeliveryKind::Repeat, 3),
            (DeliveryKind::Revision, other),
            (DeliveryKind::Revision, 3),
            (DeliveryKind::Stale, 5),
        ];
        assert_eq!(
            companion_values,
            expected.map(|(kind, n)| (kind, MessageData::Occupancy(n)))
        );
        assert!(all.is_sorted_by_key(|c| c.after_ms));
        let seconds: Vec<_> = all.iter().map(|c| c.message.id.seconds()).collect();
        assert!(seconds[..3].is_sorted_by(|a, b| a < b), "{seconds:?}");
        assert!(message.id.seconds() < seconds[0]);
        assert!(seconds[3] < message.id.seconds(), "{seconds:?}");
        let empty = CityMessage {
            data: MessageData::Occupancy(0),
            ..message.clone()
        };
        for seed in 0..100 {
            let all = always.draw_companions(seed, &empty);
            if let Some(correction) = all.iter().find(|c| c.kind == DeliveryKind::Revision) {
                assert_eq!(correction.message.data, MessageData::Occupancy(1));
            }
        }
        let motion = CityMessage {
            data: MessageData::None,
            ..message
        };
        assert_eq!(always.draw_companions(1, &motion), []);
    }
}
