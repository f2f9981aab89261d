//! `spool status`: how much waits for which topic.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::description::format_timestamp;
use super::inspection::SpoolInspection;
use super::{SpoolArguments, SpoolCommandError, SpoolCommandOutcome};
use crate::spool::entry::SpoolEntry;
use crate::spool::store::{ReadLimit, SegmentInfo};
use butlr_event::clock::now_ms;
use butlr_event::destination::Destination;

#[derive(clap::Args, Debug)]
pub struct SpoolStatusArguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// For machines: one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct SpoolStatusReport {
    dir: String,
    /// As far as can be seen from here.
    in_use: bool,
    entries: u64,
    oldest_received_at: Option<String>,
    /// On disk.
    bytes: u64,
    files: usize,
    set_aside: usize,
    destinations: Vec<StatusRow>,
    /// What is wrong now.
    damage: Vec<String>,
    /// What was wrong before, kept as it was.
    damaged_files: Vec<String>,
    #[serde(skip)]
    oldest_ms: Option<i64>,
}

#[derive(Serialize)]
struct StatusRow {
    destination: &'static str,
    entries: u64,
    oldest_received_at: Option<String>,
    /// Its share of the files by the number of entries.
    bytes_about: u64,
    files: usize,
    set_aside: usize,
    /// Entries up to this number were handed to Kafka before; they are looked for there before they are drained.
    handed_up_to: Option<u64>,
    #[serde(skip)]
    oldest_ms: Option<i64>,
}

pub fn run(arguments: &SpoolStatusArguments) -> Result<SpoolCommandOutcome, SpoolCommandError> {
    let look = SpoolInspection::open(&arguments.spool)?;
    let status = SpoolStatusReport::from_inspection(&look);
    let mut out = std::io::stdout().lock();
    match arguments.json {
        true => writeln!(out, "{}", serde_json::json!(status))?,
        false => out.write_all(status.to_text(now_ms()).as_bytes())?,
    }
    out.flush()?;
    if !status.damage.is_empty() && !arguments.json {
        eprintln!("{}", look.advice());
    }
    Ok(SpoolCommandOutcome::success_if(status.damage.is_empty()))
}

impl SpoolStatusReport {
    fn from_inspection(look: &SpoolInspection) -> Self {
        let segments = look.store.segments();
        // Where it can't be read, that is among the damage.
        let aside = look.store.dead_letters().unwrap_or_default();
        let destinations = Destination::all().map(|to| {
            let oldest_ms = oldest_ms(look, to);
            StatusRow {
                destination: to.name(),
                entries: look.store.present(to),
                oldest_received_at: oldest_ms.map(format_timestamp),
                bytes_about: estimate_bytes(&segments, to),
                files: segments
                    .iter()
                    .filter(|s| s.entries[to.index()] > 0)
                    .count(),
                set_aside: aside.iter().filter(|entry| entry.destination == to).count(),
                handed_up_to: look.store.handover_mark(to).map(|handed| handed.upto),
                oldest_ms,
            }
        });
        let oldest_ms = destinations.iter().filter_map(|line| line.oldest_ms).min();
        Self {
            dir: look.dir.display().to_string(),
            in_use: look.is_in_use,
            entries: destinations.iter().map(|line| line.entries).sum(),
            oldest_received_at: oldest_ms.map(format_timestamp),
            bytes: look.store.bytes(),
            files: segments.len(),
            set_aside: aside.len(),
            destinations: destinations.into(),
            damage: look.describe_damage(&[]),
            damaged_files: list_damaged_files(look),
            oldest_ms,
        }
    }

    fn to_text(&self, now_ms: i64) -> String {
        let Self {
            dir,
            entries,
            files,
            set_aside,
            ..
        } = self;
        let bytes = format_size(self.bytes);
        let mut text =
            format!("{dir}: {entries} entries, {bytes} in {files} files, {set_aside} set aside");
        if self.in_use {
            text += "; a bridge uses it";
        }
        if let Some(oldest_ms) = self.oldest_ms {
            text += &format!("; the oldest waits for {}", format_age(now_ms, oldest_ms));
        }
        text += "\n";
        let lines = self.destinations.iter();
        let mut lines = lines
            .filter(|line| line.entries > 0 || line.set_aside > 0)
            .peekable();
        if lines.peek().is_some() {
            text += &format_row([
                "",
                "entries",
                "oldest",
                "about",
                "files",
                "set aside",
                "handed up to",
            ]);
        }
        for line in lines {
            let handed = match (line.entries, line.handed_up_to) {
                (0, _) | (_, None) => "-".to_owned(),
                (_, Some(u64::MAX)) => "unknown".to_owned(),
                (_, Some(upto)) => upto.to_string(),
            };
            text += &format_row([
                line.destination,
                &line.entries.to_string(),
                line.oldest_received_at.as_deref().unwrap_or("-"),
                &format_size(line.bytes_about),
                &line.files.to_string(),
                &line.set_aside.to_string(),
                &handed,
            ]);
        }
        for damage in &self.damage {
            text += &format!("damage: {damage}\n");
        }
        if !self.damaged_files.is_empty() {
            let names = self.damaged_files.join(", ");
            text += &format!("kept in damaged/ from earlier starts: {names}\n");
        }
        text
    }
}

fn format_row([name, entries, oldest, bytes, files, aside, handed]: [&str; 7]) -> String {
    format!(
        "{name:<20}  {entries:>9}  {oldest:<24}  {bytes:>9}  {files:>5}  {aside:>9}  {handed:>12}\n"
    )
}

/// Entries of one destination are in the order of receipt.
fn oldest_ms(look: &SpoolInspection, to: Destination) -> Option<i64> {
    let first = look.store.read(to, 0, ReadLimit::ONE).ok()?.pop()?;
    SpoolEntry::decode(&first.1)
        .ok()
        .map(|entry| entry.received_ms)
}

/// What of the files' bytes is about a destination's. A file goes as a whole, so entries that were removed count with the rest.
fn estimate_bytes(segments: &[SegmentInfo], to: Destination) -> u64 {
    let share = |segment: &SegmentInfo| {
        let all: u64 = segment.entries.iter().sum();
        let of_this = u128::from(segment.bytes) * u128::from(segment.entries[to.index()]);
        u64::try_from(of_this / u128::from(all.max(1))).unwrap_or(u64::MAX)
    };
    segments.iter().map(share).sum()
}

fn list_damaged_files(look: &SpoolInspection) -> Vec<String> {
    let files = std::fs::read_dir(look.dir.join("damaged"));
    let files = files.into_iter().flatten().flatten();
    let mut names: Vec<_> = files
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Bytes in a unit in which the number is short.
fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn format_age(now_ms: i64, then_ms: i64) -> String {
    let seconds = now_ms.saturating_sub(then_ms).max(0).unsigned_abs() / 1000;
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(bytes: u64, entries: &[(Destination, u64)]) -> SegmentInfo {
        let mut counts = [0; Destination::COUNT];
        for (to, count) in entries {
            counts[to.index()] = *count;
        }
        SegmentInfo {
            file: String::new(),
            bytes,
            entries: counts,
            is_writing: false,
        }
    }

    #[test]
    fn files_are_shared_by_the_number_of_entries() {
        let [one, other] = [Destination::Quarantine, Destination::all()[0]];
        let segments = [
            segment(1_000, &[(one, 3), (other, 1)]),
            segment(u64::MAX / 4, &[(other, 9)]),
            segment(700, &[]),
        ];
        assert_eq!(estimate_bytes(&segments, one), 750);
        assert_eq!(estimate_bytes(&segments, other), 250 + u64::MAX / 4);
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(format_size(1023), "1023 B");
        assert_eq!(format_size(1536), "1.5 KiB");
        assert_eq!(format_size(10 << 30), "10.0 GiB");
        assert!(format_size(u64::MAX).ends_with(" TiB"));
        assert_eq!(format_age(65_999, 0), "1m 5s");
        assert_eq!(format_age(0, 5), "0s", "clocks differ");
    }
}
