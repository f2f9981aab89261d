//! Arguments that describe the city and the behaviour of its sender.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::values::{self, OutageFrequency};
use butlr_event::EventType;
use butlr_simulate::city::{CityBehaviour, CitySize};
use butlr_simulate::hash;
use butlr_simulate::sender::SendPace;
use butlr_simulate::stream::{DeliveryStream, SenderBehaviour};

#[derive(clap::Args, Clone, Debug)]
pub struct CityArguments {
    /// Number of rooms; floors and zones are added to match
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = values::count_parser(1_000_000))]
    spaces: usize,
    /// Number of sensors that send DETECTIONS [default: one per room]
    #[arg(long, value_name = "N", value_parser = values::count_parser(1_000_000))]
    sensors: Option<usize>,
    /// Seed of the city: the same seed, start and options produce the same events [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Start of the simulated clock, at which it is 10:00 in the city [default: now, or early
    /// enough that an accelerated run ends now]
    #[arg(long, value_name = "RFC3339", value_parser = values::parse_past_time)]
    start: Option<SystemTime>,
    /// Send only these event types, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = values::parse_event_type)]
    types: Vec<EventType>,
    /// Deliver each event once, immediately and correctly: nothing late, shuffled, delivered twice,
    /// recomputed, revised or skewed, and no outages
    #[arg(long)]
    plain: bool,
    /// Share of events that are delivered a second time later [default: 0.5%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    redelivered: Option<f64>,
    /// Share of events that are delivered twice at the same time, over two connections [default:
    /// 0%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    overlapping: Option<f64>,
    /// Share of occupancy events that are followed by another event for the same space and time,
    /// with the same value, in addition to those of the recomputation [default: 0%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    repeated: Option<f64>,
    /// Share of occupancy events that are followed by another event for the same space and time,
    /// with another value; one in five is corrected back to the first value (4, 5, 4) [default: 0%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    corrected: Option<f64>,
    /// Share of occupancy events that are followed by another event for the same space and time,
    /// with a value that was computed earlier, under an older id [default: 0%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    stale: Option<f64>,
    /// Share of events that arrive minutes late [default: 0.5%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    late: Option<f64>,
    /// Share of events that arrive out of order [default: 2%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    shuffled: Option<f64>,
    /// Share of occupancy readings that are revised [default: 3%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    revised: Option<f64>,
    /// Share of sensors whose clock is wrong [default: 1%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    skewed: Option<f64>,
    /// Average interval and length of the outages of a building, during which its events pile up,
    /// for example 1h/20m; or never [default: 1h/40s]
    #[arg(long, value_name = "EVERY[/LENGTH]", value_parser = values::parse_outages)]
    outages: Option<OutageFrequency>,
    /// Share of events that are accompanied by an invalid event [default: 0%]
    #[arg(long, value_name = "SHARE", value_parser = values::parse_share)]
    invalid: Option<f64>,
}

/// Age of the start of a run that catches up with the present. The bridge stamps events of the last
/// 3 days with their own time.
const MAX_START_AGE: Duration = Duration::from_secs(60 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl CityArguments {
    /// Returns the start of the simulated clock, ms since 1970.
    pub fn start_ms(&self, pace: SendPace, duration: Option<Duration>) -> i64 {
        let now = SystemTime::now();
        let start = self.start.unwrap_or_else(|| {
            let before = match pace {
                SendPace::REAL_TIME => Duration::ZERO,
                SendPace::Speed(speed) => duration.map_or(DAY, |d| {
                    let simulated = Duration::try_from_secs_f64(d.as_secs_f64() * speed);
                    // The bridge would stamp older events with another time.
                    simulated.unwrap_or(MAX_START_AGE).min(MAX_START_AGE)
                }),
                SendPace::Rate(_) | SendPace::Max => MAX_START_AGE,
            };
            now.checked_sub(before).unwrap_or(UNIX_EPOCH)
        });
        let since = start.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Returns the seed; a random one if none is given.
    pub fn seed(&self) -> u64 {
        // Short enough to read aloud.
        self.seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            hash::hash_bytes(&now.unwrap_or_default().as_nanos().to_le_bytes()) % 1_000_000
        })
    }

    /// Returns the deliveries of the city's sender.
    pub fn stream(&self, seed: u64, start_ms: i64) -> DeliveryStream {
        let size = CitySize {
            rooms: self.spaces,
            sensors: self.sensors,
        };
        DeliveryStream::from_seed(
            seed,
            size,
            start_ms,
            self.city_behaviour(),
            self.sender_behaviour(),
        )
    }

    /// Returns `true` if events of this type are sent.
    pub fn has_type(&self, event_type: EventType) -> bool {
        self.types.is_empty() || self.types.contains(&event_type)
    }

    /// Returns the behaviour of the city. With `--plain`, shares that are not given are 0.
    fn city_behaviour(&self) -> CityBehaviour {
        let default = CityBehaviour::default();
        let share = |given: Option<f64>, default: f64| {
            given.unwrap_or(if self.plain { 0.0 } else { default })
        };
        CityBehaviour {
            revised: share(self.revised, default.revised),
            skewed: share(self.skewed, default.skewed),
            recompute: !self.plain || self.revised.is_some_and(|revised| revised > 0.0),
            types: EventType::ALL.map(|t| self.has_type(t)),
        }
    }

    fn sender_behaviour(&self) -> SenderBehaviour {
        let mut behaviour = if self.plain {
            SenderBehaviour::plain()
        } else {
            SenderBehaviour::default()
        };
        let set = |share: &mut f64, given: Option<f64>| *share = given.unwrap_or(*share);
        set(&mut behaviour.redelivered, self.redelivered);
        set(&mut behaviour.late, self.late);
        set(&mut behaviour.shuffled, self.shuffled);
        set(&mut behaviour.invalid, self.invalid);
        set(&mut behaviour.overlapping, self.overlapping);
        set(&mut behaviour.repeated, self.repeated);
        set(&mut behaviour.corrected, self.corrected);
        set(&mut behaviour.stale, self.stale);
        match self.outages {
            None => {}
            Some(OutageFrequency::Never) => behaviour.outages = None,
            Some(OutageFrequency::Every(outages)) => behaviour.outages = Some(outages),
        }
        behaviour
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CityCommandLine {
        #[command(flatten)]
        city: CityArguments,
    }

    fn parse(line: &str) -> CityArguments {
        CityCommandLine::parse_from(line.split_whitespace()).city
    }

    #[test]
    fn plain_sets_the_defaults_of_the_other_options() {
        let plain = parse("simulate --plain");
        assert_eq!(plain.sender_behaviour(), SenderBehaviour::plain());
        assert_eq!(plain.city_behaviour().revised, 0.0);
        assert!(!plain.city_behaviour().recompute);
        let late = parse("simulate --plain --late 1% --outages 2h");
        let behaviour = late.sender_behaviour();
        assert_eq!((behaviour.late, behaviour.shuffled), (0.01, 0.0));
        let outages = behaviour.outages.unwrap();
        assert_eq!(outages.every, Duration::from_secs(7200));
        assert_eq!(outages.length, Duration::from_secs(40));
        let unsteady = "--overlapping 1% --repeated 5% --corrected 3% --stale 2%";
        for (line, default) in [
            ("simulate --plain", SenderBehaviour::plain()),
            ("simulate", SenderBehaviour::default()),
        ] {
            let wanted = SenderBehaviour {
                overlapping: 0.01,
                repeated: 0.05,
                corrected: 0.03,
                stale: 0.02,
                ..default
            };
            let line = format!("{line} {unsteady}");
            assert_eq!(parse(&line).sender_behaviour(), wanted);
        }
        let never = parse("simulate --outages never");
        let wanted = SenderBehaviour {
            outages: None,
            ..SenderBehaviour::default()
        };
        assert_eq!(never.sender_behaviour(), wanted);
        assert!(never.city_behaviour().recompute);
    }

    #[test]
    fn an_accelerated_run_ends_now() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = now.as_millis() as i64;
        let ago = |line: &str, pace, duration| now - parse(line).start_ms(pace, duration);
        let minute = Some(Duration::from_secs(60));
        let near = |ago: i64, hours: i64| (ago - hours * 3_600_000).abs() < 60_000;
        assert!(near(ago("simulate", SendPace::REAL_TIME, minute), 0));
        assert!(near(ago("simulate", SendPace::Speed(60.0), minute), 1));
        assert!(near(ago("simulate", SendPace::Speed(60.0), None), 24));
        assert!(near(ago("simulate", SendPace::Max, minute), 60));
        let given = parse("simulate --start 2026-05-04T08:00:00Z");
        assert_eq!(given.start_ms(SendPace::Max, None), 1_777_881_600_000);
    }

    #[test]
    fn types_are_all_or_those_named() {
        assert!(parse("simulate").city_behaviour().types.iter().all(|t| *t));
        let two = parse("simulate --types traffic,PIR_MOTION");
        let sent = EventType::ALL.into_iter().filter(|t| two.has_type(*t));
        assert_eq!(
            sent.collect::<Vec<_>>(),
            [EventType::Traffic, EventType::PirMotion]
        );
    }
}
