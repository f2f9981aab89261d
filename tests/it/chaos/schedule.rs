//! Schedule drawn from a seed: the load, the settings, and the times of the faults.

mod fault_kind;

use std::fmt;
use std::time::Duration;

use butlr_event::EventType;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

pub use fault_kind::{FaultKind, FaultSite};

/// Everything that a seed determines; timing also depends on the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultSchedule {
    pub seed: u64,
    /// Events per second.
    pub rate: f64,
    /// Settings of the bridge in addition to the fixed ones.
    pub settings: Vec<String>,
    /// Settings that only apply to a bridge with a spool.
    pub spool_settings: Vec<String>,
    /// Sorted by start. Faults at the same [`FaultSite`] do not overlap.
    pub faults: Vec<ScheduledFault>,
    /// `true` if the spool is so small that it can fill up.
    pub small_spool: bool,
}

/// Fault with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledFault {
    /// Time since the start of the load.
    pub at: Duration,
    pub lasts: Duration,
    pub kind: FaultKind,
}

/// Latest start of the last fault in ms, unless it has to wait for another at the same site.
const LAST_MS: u64 = 4_500;
const FIRST_MS: u64 = 500;
/// Shortest time between two faults at the same site.
const FAULT_GAP: Duration = Duration::from_millis(300);

impl FaultSchedule {
    /// Returns `true` if new events overtake those in the spool.
    pub fn drains_concurrently(&self) -> bool {
        let mut settings = self.spool_settings.iter();
        settings.any(|setting| setting == "spool.drain=concurrent")
    }

    /// Draws the schedule of a seed, the same on every machine. Faults that are impossible on a
    /// machine are removed afterwards.
    pub fn draw(seed: u64) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut faults: Vec<ScheduledFault> = Vec::new();
        for _ in 0..[1, 2, 2, 3, 3, 4][random.random_range(0..6)] {
            faults.push(draw_fault(&mut random));
        }
        // Nothing is written to the disk unless Kafka is unavailable.
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
            // On a full disk, either the free-space floor or the last byte is reached.
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

    /// Removes the faults of a kind and returns their number.
    pub fn remove_kind(&mut self, kind: &str) -> usize {
        let before = self.faults.len();
        self.faults.retain(|f| f.kind.name() != kind);
        before - self.faults.len()
    }

    pub fn has_fault(&self, is: impl Fn(FaultKind) -> bool) -> bool {
        self.faults.iter().any(|f| is(f.kind))
    }

    /// Returns the types whose topic is deleted.
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
    let mut remaining = random.random_range(0..all);
    let mut kinds = FaultKind::ALL.into_iter();
    let kind = kinds
        .find(|what| {
            let found = remaining < what.weight();
            remaining = remaining.saturating_sub(what.weight());
            found
        })
        .expect("fewer than all faults");
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

/// Delays faults that would overlap at the same site.
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

/// Draws the schedules for these tests.
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
        // A kind is in about one schedule of ten, so twenty seeds cover nearly all kinds.
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
