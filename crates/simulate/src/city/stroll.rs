//! Exact position of a person within a zone: a pure function of person, zone and time, so there is
//! no state to update.
//!
//! It uses additions, multiplications and hashes only, so the result is the same on every machine
//! to the last bit.

use super::chance::{self, ChanceTopic};
use super::plan::{Rect, RoomUse};

/// Margin at the edge of a zone that people keep clear of, as a share of its size.
const MARGIN: f32 = 0.04;
/// Movement of a seated person, metres either way.
const REACH: f32 = 0.4;

/// A person in a zone.
#[derive(Clone, Copy)]
pub struct Walker {
    pub seed: u64,
    pub person: u32,
    pub zone: u32,
}

impl Walker {
    /// Position at a moment, in metres on the floor plan. People go from spot to spot: all over the
    /// zone where people stand, around a seat where they sit.
    pub fn position(self, area: &Rect, room_use: RoomUse, at_ms: i64) -> [f32; 2] {
        let sits = matches!(
            room_use,
            RoomUse::Office | RoomUse::Meeting | RoomUse::Booth
        );
        let leg_ms = if sits { 6_000 } else { 9_000 };
        // Offset per person, so that they do not all set out at the same moment.
        let walked_ms = at_ms + i64::from(self.person) * 7_919;
        let leg = walked_ms.div_euclid(leg_ms);
        let (from, to) = (self.spot(area, sits, leg), self.spot(area, sits, leg + 1));
        let progress = smooth(walked_ms.rem_euclid(leg_ms) as f32 / leg_ms as f32);
        [0, 1].map(|axis| from[axis] + (to[axis] - from[axis]) * progress)
    }

    /// The spot at which a leg starts.
    fn spot(self, area: &Rect, sits: bool, leg: i64) -> [f32; 2] {
        let somewhere = self.draw(ChanceTopic::Stroll, leg as u64);
        if !sits {
            return point_within(area, somewhere);
        }
        let seat = point_within(area, self.draw(ChanceTopic::Seat, 0));
        [0, 1].map(|axis| {
            let margin = area.size()[axis] * MARGIN;
            (seat[axis] + (somewhere[axis] - 0.5) * 2.0 * REACH)
                .clamp(area.min[axis] + margin, area.max[axis] - margin)
        })
    }

    fn draw(self, topic: ChanceTopic, nth: u64) -> [f32; 2] {
        let subject = [u64::from(self.person), u64::from(self.zone), nth];
        unit_pair(chance::hash(self.seed, topic, subject))
    }
}

fn point_within(area: &Rect, share: [f32; 2]) -> [f32; 2] {
    [0, 1].map(|axis| {
        area.min[axis] + area.size()[axis] * (MARGIN + (1.0 - 2.0 * MARGIN) * share[axis])
    })
}

/// Two numbers from 0 to 1.
fn unit_pair(hash: u64) -> [f32; 2] {
    [(hash >> 40) as f32, (hash & 0xff_ffff) as f32].map(|bits| bits / (1 << 24) as f32)
}

/// Smoothstep from 0 to 1: no abrupt start or stop.
fn smooth(share: f32) -> f32 {
    share * share * (3.0 - 2.0 * share)
}

#[cfg(test)]
mod tests {
    use super::Walker;
    use crate::city::plan::{Rect, RoomUse};

    #[test]
    fn people_walk_and_do_not_jump() {
        let area = Rect {
            min: [3.0, 9.4],
            max: [9.0, 16.4],
        };
        let walk = |person, area: &Rect, room_use, at_ms| {
            let walker = Walker {
                seed: 1,
                person,
                zone: 7,
            };
            walker.position(area, room_use, at_ms)
        };
        for (room_use, fastest) in [(RoomUse::Kitchen, 0.16), (RoomUse::Office, 0.03)] {
            for person in 0..50 {
                let mut before = walk(person, &area, room_use, 0);
                for at_ms in (100..60_000).step_by(100) {
                    let now = walk(person, &area, room_use, at_ms);
                    assert!(area.contains(now), "{now:?}");
                    let [x, y] = [0, 1].map(|axis| now[axis] - before[axis]);
                    assert!(
                        x.hypot(y) <= fastest,
                        "{room_use:?}: {} m in 100 ms",
                        x.hypot(y)
                    );
                    before = now;
                }
                assert_ne!(before, walk(person, &area, room_use, 0));
            }
        }
    }

    #[test]
    fn seat_depends_on_person_zone_and_seed() {
        let area = Rect {
            min: [0.0, 0.0],
            max: [6.0, 7.0],
        };
        let at = |seed, person, zone| {
            let walker = Walker { seed, person, zone };
            walker.position(&area, RoomUse::Office, 1_000)
        };
        assert_ne!(at(1, 1, 1), at(1, 2, 1));
        assert_ne!(at(1, 1, 1), at(1, 1, 2));
        assert_ne!(at(1, 1, 1), at(2, 1, 1));
    }
}
