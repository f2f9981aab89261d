//! What a seed means: the load, the settings, and which faults come when.

mod fault_kind;

use std::fmt;
use std::time::Duration;

use butlr_event::EventType;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

pub use fault_kind::{FaultKind, FaultSite};

/// All that happens by a seed, but for what the machine adds.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultSchedule {
    pub seed: u64,
    /// Events a second.
    pub rate: f64,
    /// Of the bridge, beside those that are always the same.
    pub settings: Vec<String>,
    /// Settings that only a bridge with a spool has.
    pub spool_settings: Vec<String>,
    /// Sorted by when they begin. Those in one [`Place`] do not overlap.
    pub faults: Vec<ScheduledFault>,
    /// Whether the spool may hold so little that it can be full.
    pub small_spool: bool,
}

/// Something goes wrong for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledFault {
    /// Since the load began.
    pub at: Duration,
    pub lasts: Duration,
    pub kind: FaultKind,
}

/// When the last fault begins at the latest, ms; but for those that wait for another in the same place.
const LAST_MS: u64 = 4_500;
const FIRST_MS: u64 = 500;
/// Between two faults in one place.
const FAULT_GAP: Duration = Duration::from_millis(300);

impl FaultSchedule {
    /// Whether events pass those that wait on disk.
    pub fn drains_concurrently(&self) -> bool {
        let mut settings = self.spool_settings.iter();
        settings.any(|setting| setting == "spool.drain=concurrent")
    }

    /// What this seed means. The same for every machine: what cannot be done there is taken out afterwards.
    pub fn draw(seed: u64) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut faults: Vec<ScheduledFault> = Vec::new();
        for _ in 0..[1, 2, 2, 3, 3, 4][random.random_range(0..6)] {
            faults.push(draw_fault(&mut random));
        }
        // Without a Kafka that is away nothing is written to the disk.
        let full = faults
            .iter()
            .find(|f| f.kind == FaultKind::DiskFull)
            .cloned();
        if let Some(full) = full
            && !faults.iter().any(|f| f.kind.is_kafka_outage())
        {
            let early = Duration::from_millis(random.random_range(0..500));
            faults.push(ScheduledFault {
                at: full.at.saturating_sub(early),
                lasts: full.lasts,
                kind: FaultKind::NetworkRefuses,
            });
        }
        let settings = vec![format!(
            "dedup.repeat={}",
            ["drop", "tag"][random.random_range(0..2)]
        )];
        let small_spool = random.random_bool(0.25);
        let mut spool_settings = vec![
            format!(
                "kafka.confirm_within={}ms",
                random.random_range(200..=1_000)
            ),
            format!(
                "spool.drain={}",
                ["ordered", "ordered", "concurrent"][random.random_range(0..3)]
            ),
            "spool.segment_bytes=1MiB".to_owned(),
            // With a full disk either the floor is met or the last byte.
            format!(
                "spool.min_free_bytes={}",
                [0, 4 << 20][random.random_range(0..2)]
            ),
        ];
        if small_spool {
            spool_settings.push("spool.max_bytes=4MiB".to_owned());
        }
        Self {
            seed,
            rate: f64::from(random.random_range(300..=900)),
            settings,
            spool_settings,
            faults: separate_overlaps(faults),
            small_spool,
        }
    }

    /// Takes out the faults of these kinds, and says how many.
    pub fn remove_kind(&mut self, kind: &str) -> usize {
        let before = self.faults.len();
        self.faults.retain(|f| f.kind.name() != kind);
        before - self.faults.len()
    }

    pub fn has_fault(&self, is: impl Fn(FaultKind) -> bool) -> bool {
        self.faults.iter().any(|f| is(f.kind))
    }

    /// The types whose topic is deleted.
    pub fn deleted_topics(&self) -> Vec<EventType> {
        let types = self.faults.iter().filter_map(|f| match f.kind {
            FaultKind::TopicDeleted(event_type) => Some(event_type),
            _ => None,
        });
        types.collect()
    }
}

fn draw_fault(random: &mut impl Rng) -> ScheduledFault {
    let all: u32 = FaultKind::ALL.iter().map(|what| what.weight()).sum();
    let mut left = random.random_range(0..all);
    let mut kinds = FaultKind::ALL.into_iter();
    let kind = kinds
        .find(|what| {
            let found = left < what.weight();
            left = left.saturating_sub(what.weight());
            found
        })
        .expect("less than all of them");
    let event_type = EventType::ALL[random.random_range(0..EventType::ALL.len())];
    let what = match kind {
        FaultKind::TopicDeleted(_) => FaultKind::TopicDeleted(event_type),
        FaultKind::TooFewReplicas(_) => FaultKind::TooFewReplicas(event_type),
        FaultKind::NetworkSlow(_) => {
            FaultKind::NetworkSlow(Duration::from_millis(random.random_range(20..400)))
        }
        FaultKind::NetworkCut(_) => {
            FaultKind::NetworkCut(Duration::from_millis(random.random_range(50..700)))
        }
        FaultKind::ClockStep(_) => {
            let seconds = random.random_range(2..3_600);
            FaultKind::ClockStep(if random.random() { seconds } else { -seconds })
        }
        what => what,
    };
    ScheduledFault {
        at: Duration::from_millis(random.random_range(FIRST_MS..LAST_MS)),
        lasts: Duration::from_millis(random.random_range(what.duration_range_ms())),
        kind: what,
    }
}

/// Puts off what would overlap in its place.
fn separate_overlaps(mut faults: Vec<ScheduledFault>) -> Vec<ScheduledFault> {
    faults.sort_by_key(|f| f.at);
    for place in FaultSite::ALL {
        let mut free = Duration::ZERO;
        for fault in faults.iter_mut().filter(|f| f.kind.site() == place) {
            fault.at = fault.at.max(free);
            free = fault.at + fault.lasts + FAULT_GAP;
        }
    }
    faults.sort_by_key(|f| f.at);
    faults
}

impl fmt::Display for FaultSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.settings.iter().chain(&self.spool_settings);
        let set: Vec<_> = set.map(String::as_str).collect();
        writeln!(f, "  {} events/s; {}", self.rate, set.join(", "))?;
        for ScheduledFault {
            at,
            lasts,
            kind: what,
        } in &self.faults
        {
            let (at, lasts) = (at.as_secs_f64(), lasts.as_secs_f64());
            writeln!(f, "  at {at:4.1} s for {lasts:3.1} s: {what}")?;
        }
        Ok(())
    }
}

/// The seeds that are looked at here.
fn draw_schedules() -> impl Iterator<Item = FaultSchedule> {
    (0..500).map(FaultSchedule::draw)
}

pub fn a_seed_means_the_same_each_time() {
    for schedule in draw_schedules() {
        assert_eq!(schedule, FaultSchedule::draw(schedule.seed));
        assert!((1..=5).contains(&schedule.faults.len()), "{schedule}");
    }
    let (first, second) = (FaultSchedule::draw(1), FaultSchedule::draw(2));
    assert_ne!(first.faults, second.faults);
}

pub fn every_kind_of_fault_is_drawn() {
    for what in FaultKind::ALL {
        let with = draw_schedules().filter(|s| s.has_fault(|w| w.name() == what.name()));
        let with = with.count();
        // One in ten or so: twenty seeds have nearly all of them.
        assert!(with > 20, "{}: in {with} of 500", what.name());
    }
    let small = draw_schedules().filter(|s| s.small_spool).count();
    assert!((50..250).contains(&small), "{small} small spools");
    let full = draw_schedules().filter(|s| s.has_fault(|w| w == FaultKind::DiskFull));
    for schedule in full {
        assert!(schedule.has_fault(FaultKind::is_kafka_outage), "{schedule}");
    }
}

pub fn faults_in_one_place_do_not_overlap() {
    for schedule in draw_schedules() {
        for place in FaultSite::ALL {
            let faults = schedule.faults.iter().filter(|f| f.kind.site() == place);
            let faults: Vec<_> = faults.collect();
            for pair in faults.windows(2) {
                assert!(pair[0].at + pair[0].lasts < pair[1].at, "{schedule}");
            }
        }
    }
}
