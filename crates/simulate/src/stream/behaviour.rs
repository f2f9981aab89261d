//! Quirks of the sender other than its retries.

use std::time::Duration;

use rand::{Rng, RngExt};
use rand_pcg::Pcg64Mcg;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::message::{CityMessage, Computation, DeliveryKind, EventFault, MessageData};
use butlr_event::ksuid::Ksuid;

/// Frequency of each quirk. Shares refer to the computed messages, 0 to 1, and are drawn
/// independently.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SenderBehaviour {
    /// Share that is delivered again, 1 to 20 s later.
    pub redelivered: f64,
    /// Share that is delivered 1 to 10 min late.
    pub late: f64,
    /// Share that is delivered up to 5 s late, and so after messages that were computed later.
    pub shuffled: f64,
    /// Share that is accompanied by an invalid copy under another id.
    pub invalid: f64,
    /// Share that is delivered twice at the same moment over two connections.
    pub overlapping: f64,
    /// Share of occupancy that is followed by another event with the same value and a later id.
    pub repeated: f64,
    /// Corrections per occupancy message: events with another value and a later id that follow it.
    /// One in five reverts the correction before it.
    pub corrected: f64,
    /// Share of occupancy that is followed by an event with another value and an earlier id.
    pub stale: f64,
    /// Outages, during which a building's events are held back; they follow in a burst.
    pub outages: Option<OutageSettings>,
}

/// Frequency and length of a building's outages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutageSettings {
    /// Mean time from one outage to the next.
    pub every: Duration,
    /// Mean length; an outage lasts between half and one and a half of it.
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
    /// A sender without quirks, which delivers each message once and immediately.
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

    /// Draws the deliveries of a message from its id and the seed alone, so that no quirk depends
    /// on another message.
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

    /// Returns `true` if a message is delivered twice at the same moment.
    pub(super) fn is_overlapping(&self, seed: u64, message: &CityMessage) -> bool {
        self.overlapping > 0.0
            && quirk_rng(seed, OVERLAP_SALT, message).random::<f64>() < self.overlapping
    }

    /// Draws the companions of a message, in order. Each is computed as long after the message as
    /// it is delivered after it; only stale ones were computed before it.
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
        // A quarter of them is followed by a reversal, which makes one in five of all corrections.
        let corrected = draw(self.corrected * PLAIN_CORRECTION_SHARE);
        let (reverted, fewer) = (draw(REVERSAL_SHARE), draw(0.5));
        let stale = draw(self.stale);
        let other = match people {
            1.. if fewer => people - 1,
            _ => people + 1,
        };
        // Differs from the value and from any correction of it.
        let before = people + 2;
        let all = [
            (repeated, DeliveryKind::Repeat, people, REPEAT_MS),
            (corrected, DeliveryKind::Revision, other, CORRECTION_MS),
            (
                corrected && reverted,
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

/// A separate generator per quirk, so that one quirk does not change the draws of another.
fn quirk_rng(seed: u64, salt: u64, message: &CityMessage) -> Pcg64Mcg {
    let seed = seed ^ salt;
    Pcg64Mcg::new(xxh3_128_with_seed(message.id.as_bytes(), seed))
}

const OVERLAP_SALT: u64 = 0x6f76_6572_6c61_7073;
const COMPANIONS_SALT: u64 = 0x636f_6d70_616e_696f;

type MsRange = std::ops::RangeInclusive<i64>;

/// Delays of the companions. The ranges do not overlap, so their order is fixed and the seconds of
/// their ids differ.
const REPEAT_MS: MsRange = 1_000..=3_000;
const CORRECTION_MS: MsRange = 4_000..=8_000;
const REVERSAL_MS: MsRange = 9_000..=12_000;
const STALE_MS: MsRange = 13_000..=20_000;
/// Time from the computation of a stale companion to that of the message that it follows.
const STALE_SINCE_MS: MsRange = 1_000..=20_000;

/// Share of the corrections that are not reversals.
const PLAIN_CORRECTION_SHARE: f64 = 0.8;
/// Share of those that are followed by a reversal.
const REVERSAL_SHARE: f64 = 0.25;

/// Delay from the computation to the first try.
const TRANSIT_MS: MsRange = 100..=400;
/// Additional delay of shuffled messages.
const SHUFFLED_MS: MsRange = 1..=5_000;
/// Additional delay of late messages.
const LATE_MS: MsRange = 60_000..=600_000;
/// Delay from a delivery to its redelivery.
const REDELIVERY_MS: MsRange = 1_000..=20_000;

/// A further message about the same reading as another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CompanionMessage {
    /// Time from the delivery of the message that it follows.
    pub(super) after_ms: i64,
    pub(super) kind: DeliveryKind,
    pub(super) message: CityMessage,
}

/// Deliveries drawn for a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DeliveryPlan {
    /// Set if the message is minutes late.
    pub(super) late: bool,
    /// Time from the computation to the delivery.
    pub(super) delay_ms: i64,
    /// Time from the delivery to the redelivery, if any.
    pub(super) redelivery_after_ms: Option<i64>,
    /// Fault and id of the invalid copy, if any.
    pub(super) invalid: Option<(EventFault, Ksuid)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{CityPlace, Computation, MessageData};
    use butlr_event::EventType;

    /// Runs are compared across releases, so the meaning of a seed must not change, for instance
    /// with a library's version.
    #[test]
    fn the_meaning_of_a_seed_is_stable() {
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
        let plan = always.draw_plan(1, &message);
        let (fault, copy) = plan.invalid.unwrap();
        assert_eq!(
            (plan.late, plan.delay_ms, plan.redelivery_after_ms, fault),
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
    fn the_meaning_of_a_seed_is_stable_for_companions() {
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
