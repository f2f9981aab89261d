//! What the sender does to a message on its way, beside trying again.

use std::time::Duration;

use rand::{Rng, RngExt};
use rand_pcg::Pcg64Mcg;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::simulate::ksuid::Ksuid;
use crate::simulate::message::{Fault, Message};

/// How often the sender does what it should not. Shares are of the messages computed, 0 to 1, each drawn by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behaviour {
    /// Delivered once more, 1 to 20 s later.
    pub redelivered: f64,
    /// Delivered 1 to 10 min late.
    pub late: f64,
    /// Delivered up to 5 s late, and so after messages that were computed later.
    pub shuffled: f64,
    /// Accompanied by a copy that is to be refused, under an id of its own.
    pub invalid: f64,
    /// Times in which a building's events pile up, to come in a burst then.
    pub outages: Option<Outages>,
}

/// How often a building's events pile up, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outages {
    /// The mean time from one to the next.
    pub every: Duration,
    /// How long one lasts on average: from half to one and a half of it.
    pub length: Duration,
}

impl Default for Outages {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(3600),
            length: Duration::from_secs(40),
        }
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            redelivered: 0.005,
            late: 0.005,
            shuffled: 0.02,
            invalid: 0.0,
            outages: Some(Outages::default()),
        }
    }
}

impl Behaviour {
    /// A sender that delivers each message once, and at once.
    pub fn plain() -> Self {
        Self {
            redelivered: 0.0,
            late: 0.0,
            shuffled: 0.0,
            invalid: 0.0,
            outages: None,
        }
    }

    /// What becomes of `message`: decided by its id and the seed alone, so that no quirk depends on another message.
    pub(super) fn fate(&self, seed: u64, message: &Message) -> Fate {
        let mut random = Pcg64Mcg::new(xxh3_128_with_seed(message.id.as_bytes(), seed));
        let mut drawn = |share: f64| random.random::<f64>() < share;
        let [late, shuffled, redelivered, invalid] = [
            drawn(self.late),
            drawn(self.shuffled),
            drawn(self.redelivered),
            drawn(self.invalid),
        ];
        let mut delay_ms = random.random_range(TRANSIT_MS);
        if late {
            delay_ms += random.random_range(LATE_MS);
        } else if shuffled {
            delay_ms += random.random_range(SHUFFLED_MS);
        }
        Fate {
            late,
            delay_ms,
            again_after_ms: redelivered.then(|| random.random_range(REDELIVERY_MS)),
            invalid: invalid.then(|| {
                let mut payload = [0; 16];
                random.fill_bytes(&mut payload);
                let fault = Fault::ALL[random.random_range(0..Fault::ALL.len())];
                (fault, Ksuid::new(message.computed_ms, payload))
            }),
        }
    }
}

/// From the computation to the first try.
const TRANSIT_MS: std::ops::RangeInclusive<i64> = 100..=400;
/// What shuffled messages take longer.
const SHUFFLED_MS: std::ops::RangeInclusive<i64> = 1..=5_000;
/// What late messages take longer.
const LATE_MS: std::ops::RangeInclusive<i64> = 60_000..=600_000;
/// From a delivery to its copy.
const REDELIVERY_MS: std::ops::RangeInclusive<i64> = 1_000..=20_000;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fate {
    /// Whether it is minutes late.
    pub(super) late: bool,
    /// From its computation to its delivery.
    pub(super) delay_ms: i64,
    /// From its delivery to that of a copy, where there is one.
    pub(super) again_after_ms: Option<i64>,
    /// What is wrong with the additional copy, where there is one, and that one's id.
    pub(super) invalid: Option<(Fault, Ksuid)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventType;
    use crate::simulate::message::{Computation, Data, Place};

    /// Runs are compared across releases, so what a seed means must not change, say, with a library's version.
    #[test]
    fn a_seed_means_the_same_for_ever() {
        let id = Ksuid::parse("0ujtsYcgvSTl8PAuAdqWYSMnLOv").unwrap();
        let message = Message {
            event_type: EventType::RoomOccupancy,
            place: Place::Room(0),
            timestamp_ms: 1_507_608_000_000,
            computed_ms: 1_507_608_047_500,
            id,
            data: Data::Occupancy(3),
            computation: Computation::First,
        };
        let always = Behaviour {
            redelivered: 1.0,
            late: 1.0,
            shuffled: 1.0,
            invalid: 1.0,
            outages: None,
        };
        let fate = always.fate(1, &message);
        let (fault, copy) = fate.invalid.unwrap();
        assert_eq!(
            (fate.late, fate.delay_ms, fate.again_after_ms, fault),
            (true, 579_271, Some(10_860), Fault::UnknownType)
        );
        assert_eq!(copy.to_string(), "0ujtsVll0yB0YfamJhJiUnVKJny");
        let never = Behaviour::plain().fate(1, &message);
        assert_eq!(
            (never.late, never.again_after_ms, never.invalid),
            (false, None, None)
        );
        assert!(TRANSIT_MS.contains(&never.delay_ms));
    }
}
