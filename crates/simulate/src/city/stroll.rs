//! Where exactly in a zone a person is: a pure function of who, where and when, so nothing has to be kept or updated.
//!
//! Only additions, multiplications and hashes: the same on every machine to the last bit.

use super::chance::{self, ChanceTopic};
use super::plan::{Rect, RoomUse};

/// Nobody stands nearer to the edge of a zone than this share of it.
const MARGIN: f32 = 0.04;
/// How far one moves while sitting, metres either way.
const REACH: f32 = 0.4;

/// Where a person is in a zone at a moment, metres on the floor's plan. They go from spot to spot: all over the zone
/// where people stand around, around a seat where they sit.
pub fn position(
    seed: u64,
    person: u32,
    zone: u32,
    area: &Rect,
    use_: RoomUse,
    at_ms: i64,
) -> [f32; 2] {
    let sits = matches!(use_, RoomUse::Office | RoomUse::Meeting | RoomUse::Booth);
    let leg_ms = if sits { 6_000 } else { 9_000 };
    // Not all of them set out at the same moment.
    let walked_ms = at_ms + i64::from(person) * 7_919;
    let leg = walked_ms.div_euclid(leg_ms);
    let spot = |leg: i64| {
        let somewhere = unit_pair(chance::hash(
            seed,
            ChanceTopic::Stroll,
            [u64::from(person), u64::from(zone), leg as u64],
        ));
        if !sits {
            return point_within(area, somewhere);
        }
        let seat = point_within(
            area,
            unit_pair(chance::hash(
                seed,
                ChanceTopic::Seat,
                [u64::from(person), u64::from(zone), 0],
            )),
        );
        [0, 1].map(|axis| {
            let margin = area.size()[axis] * MARGIN;
            (seat[axis] + (somewhere[axis] - 0.5) * 2.0 * REACH)
                .clamp(area.min[axis] + margin, area.max[axis] - margin)
        })
    };
    let (from, to) = (spot(leg), spot(leg + 1));
    let way = smooth(walked_ms.rem_euclid(leg_ms) as f32 / leg_ms as f32);
    [0, 1].map(|axis| from[axis] + (to[axis] - from[axis]) * way)
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

/// From 0 to 1 with no start or stop to be felt.
fn smooth(share: f32) -> f32 {
    share * share * (3.0 - 2.0 * share)
}

#[cfg(test)]
mod tests {
    use super::position;
    use crate::city::plan::{Rect, RoomUse};

    #[test]
    fn people_walk_and_do_not_jump() {
        let area = Rect {
            min: [3.0, 9.4],
            max: [9.0, 16.4],
        };
        for (use_, fastest) in [(RoomUse::Kitchen, 0.16), (RoomUse::Office, 0.03)] {
            for person in 0..50 {
                let mut before = position(1, person, 7, &area, use_, 0);
                for at_ms in (100..60_000).step_by(100) {
                    let now = position(1, person, 7, &area, use_, at_ms);
                    assert!(area.contains(now), "{now:?}");
                    let [x, y] = [0, 1].map(|axis| now[axis] - before[axis]);
                    assert!(
                        x.hypot(y) <= fastest,
                        "{use_:?}: {} m in 100 ms",
                        x.hypot(y)
                    );
                    before = now;
                }
                assert_ne!(before, position(1, person, 7, &area, use_, 0));
            }
        }
    }

    #[test]
    fn everyone_has_a_place_of_their_own() {
        let area = Rect {
            min: [0.0, 0.0],
            max: [6.0, 7.0],
        };
        let at = |seed, person, zone| position(seed, person, zone, &area, RoomUse::Office, 1_000);
        assert_ne!(at(1, 1, 1), at(1, 2, 1));
        assert_ne!(at(1, 1, 1), at(1, 1, 2));
        assert_ne!(at(1, 1, 1), at(2, 1, 1));
    }
}
