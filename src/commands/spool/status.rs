//! `spool status`: prints the number and age of entries per destination.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::description::format_timestamp;
use super::inspection::SpoolInspection;
use super::{CommandExit, SpoolArguments, SpoolCommandError};
use crate::spool::entry::SpoolEntry;
use crate::spool::store::{ReadLimit, SegmentInfo};
use butlr_event::clock::now_ms;
use butlr_event::destination::Destination;

#[derive(clap::Args, Debug)]
pub struct SpoolStatusArguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct SpoolStatusReport {
    dir: String,
    /// A visible process uses the spool.
    in_use: bool,
    entries: u64,
    oldest_received_at: Option<String>,
    /// Size on disk.
    bytes: u64,
    files: usize,
    set_aside: usize,
    destinations: Vec<StatusRow>,
    /// Damage found by this command.
    damage: Vec<String>,
    /// Damaged files that earlier starts moved away.
    damaged_files: Vec<String>,
    #[serde(skip)]
    oldest_ms: Option<i64>,
}

#[derive(Serialize)]
struct StatusRow {
    destination: &'static str,
    entries: u64,
    oldest_received_at: Option<String>,
    /// Share of the files' size, by the number of entries.
    bytes_about: u64,
    files: usize,
    set_aside: usize,
    /// Entries up to this number were handed to Kafka before; the drain first searches for them
    /// there.
    handed_up_to: Option<u64>,
    #[serde(skip)]
    oldest_ms: Option<i64>,
}

pub fn run(arguments: &SpoolStatusArguments) -> Result<CommandExit, SpoolCommandError> {
    let inspection = SpoolInspection::open(&arguments.spool)?;
    let status = SpoolStatusReport::from_inspection(&inspection);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::json!(status))?;
    } else {
        out.write_all(status.to_text(now_ms()).as_bytes())?;
    }
    out.flush()?;
    if !status.damage.is_empty() && !arguments.json {
        eprintln!("{}", inspection.advice());
    }
    Ok(CommandExit::success_if(status.damage.is_empty()))
}

impl SpoolStatusReport {
    fn from_inspection(inspection: &SpoolInspection) -> Self {
        let segments = inspection.store.segments();
        // If they cannot be read, the damage says so.
        let dead_letters = inspection.store.dead_letters().unwrap_or_default();
        let destinations = Destination::all().map(|to| {
            let oldest_ms = oldest_ms(inspection, to);
            StatusRow {
                destination: to.name(),
                entries: inspection.store.present(to),
                oldest_received_at: oldest_ms.map(format_timestamp),
                bytes_about: estimate_bytes(&segments, to),
                files: segments
                    .iter()
                    .filter(|s| s.entries[to.index()] > 0)
                    .count(),
                set_aside: dead_letters.iter().filter(|l| l.destination == to).count(),
                handed_up_to: inspection.store.handover_mark(to).map(|mark| mark.upto),
                oldest_ms,
            }
        });
        let oldest_ms = destinations.iter().filter_map(|row| row.oldest_ms).min();
        Self {
            dir: inspection.dir.display().to_string(),
            in_use: inspection.is_in_use,
            entries: destinations.iter().map(|row| row.entries).sum(),
            oldest_received_at: oldest_ms.map(format_timestamp),
            bytes: inspection.store.bytes(),
            files: segments.len(),
            set_aside: dead_letters.len(),
            destinations: destinations.into(),
            damage: inspection.describe_damage(&[]),
            damaged_files: list_damaged_files(inspection),
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
            text += &format!(
                "; the oldest has waited for {}",
                format_age(now_ms, oldest_ms)
            );
        }
        text += "\n";
        let rows = self.destinations.iter();
        let mut rows = rows
            .filter(|row| row.entries > 0 || row.set_aside > 0)
            .peekable();
        if rows.peek().is_some() {
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
        for row in rows {
            let handed = match (row.entries, row.handed_up_to) {
                (0, _) | (_, None) => "-".to_owned(),
                (_, Some(u64::MAX)) => "unknown".to_owned(),
                (_, Some(last)) => last.to_string(),
            };
            text += &format_row([
                row.destination,
                &row.entries.to_string(),
                row.oldest_received_at.as_deref().unwrap_or("-"),
                &format_size(row.bytes_about),
                &row.files.to_string(),
                &row.set_aside.to_string(),
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

fn format_row([name, entries, oldest, bytes, files, set_aside, handed]: [&str; 7]) -> String {
    format!(
        "{name:<20}  {entries:>9}  {oldest:<24}  {bytes:>9}  {files:>5}  {set_aside:>9}  {handed:>12}\n"
    )
}

/// Returns the receipt of the first entry, which is the oldest of its destination.
fn oldest_ms(inspection: &SpoolInspection, to: Destination) -> Option<i64> {
    let first = inspection.store.read(to, 0, ReadLimit::ONE).ok()?.pop()?;
    SpoolEntry::decode(&first.1)
        .ok()
        .map(|entry| entry.received_ms)
}

/// Estimates the bytes of one destination by its share of the entries. A file is deleted as a
/// whole, so the space of removed entries is shared by the remaining ones.
fn estimate_bytes(segments: &[SegmentInfo], to: Destination) -> u64 {
    let share = |segment: &SegmentInfo| {
        let total: u64 = segment.entries.iter().sum();
        let weighted = u128::from(segment.bytes) * u128::from(segment.entries[to.index()]);
        u64::try_from(weighted / u128::from(total.max(1))).unwrap_or(u64::MAX)
    };
    segments.iter().map(share).sum()
}

fn list_damaged_files(inspection: &SpoolInspection) -> Vec<String> {
    let files = std::fs::read_dir(inspection.dir.join("damaged"));
    let files = files.into_iter().flatten().flatten();
    let mut names: Vec<_> = files
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Formats bytes in a unit that keeps the number short.
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
    fn bytes_are_estimated_by_the_share_of_entries() {
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
