//! Parses the ten sample events again and again, to count the instructions that one event costs:
//!
//! ```sh
//! cargo build --release -p butlr-event --example parse_samples
//! valgrind --tool=callgrind target/release/examples/parse_samples 10000
//! ```

use std::hint::black_box;
use std::time::Instant;

use butlr_event::{ParseLimits, ParsedBody, parse};

const SAMPLES: [&str; 10] = [
    include_str!("../../../tests/events/detections.json"),
    include_str!("../../../tests/events/traffic.json"),
    include_str!("../../../tests/events/floor_occupancy.json"),
    include_str!("../../../tests/events/floor_occupancy_1min.json"),
    include_str!("../../../tests/events/room_occupancy.json"),
    include_str!("../../../tests/events/room_occupancy_1min.json"),
    include_str!("../../../tests/events/zone_occupancy.json"),
    include_str!("../../../tests/events/zone_occupancy_1min.json"),
    include_str!("../../../tests/events/pir_motion.json"),
    include_str!("../../../tests/events/pir_no_motion.json"),
];

fn main() {
    let rounds: u32 = std::env::args()
        .nth(1)
        .map_or(100_000, |text| text.parse().expect("the number of rounds"));
    let begun = Instant::now();
    for _ in 0..rounds {
        for sample in SAMPLES {
            let parsed = parse(black_box(sample).as_bytes(), None, ParseLimits::UNLIMITED);
            assert!(matches!(black_box(parsed), Ok(ParsedBody::Single(Ok(_)))));
        }
    }
    let per_event = begun.elapsed() / (rounds * SAMPLES.len() as u32);
    println!("{rounds} rounds, {per_event:?} per event");
}
