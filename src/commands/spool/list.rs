//! `spool list`: prints one line per entry.

use std::io::{BufWriter, Write};

use super::description::EntryDescription;
use super::inspection::SpoolInspection;
use super::{
    CommandExit, SpoolArguments, SpoolCommandError, parse_destination, select_destinations,
};
use butlr_event::destination::Destination;

#[derive(clap::Args, Debug)]
pub struct SpoolListArguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Only entries of this event type, or quarantine; can be repeated
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_destination)]
    types: Vec<Destination>,
    /// At most this many entries
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Instead the entries that were set aside because Kafka rejects them permanently, with the
    /// reason
    #[arg(long)]
    set_aside: bool,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &SpoolListArguments) -> Result<CommandExit, SpoolCommandError> {
    let inspection = SpoolInspection::open(&arguments.spool)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if !arguments.json {
        writeln!(out, "{}", EntryDescription::header_line())?;
    }
    let mut remaining = arguments.limit.unwrap_or(u64::MAX);
    if remaining > 0 {
        let selection = EntrySelection::from_flag(arguments.set_aside);
        for_each_description(&inspection, &arguments.types, selection, |entry| {
            if arguments.json {
                writeln!(out, "{}", serde_json::Value::from(entry.json_fields()))?;
            } else {
                writeln!(out, "{}", entry.text_line())?;
            }
            remaining -= 1;
            Ok(remaining > 0)
        })?;
    }
    out.flush()?;
    Ok(inspection.report_damage(&[]))
}

/// Entries that a command reads.
#[derive(Clone, Copy)]
pub enum EntrySelection {
    Waiting,
    SetAside,
}

impl EntrySelection {
    /// Returns the selection that the flag `--set-aside` makes.
    pub fn from_flag(set_aside: bool) -> Self {
        if set_aside {
            Self::SetAside
        } else {
            Self::Waiting
        }
    }
}

/// Passes the selected entries of these types to `each` until it returns `false`.
pub fn for_each_description(
    inspection: &SpoolInspection,
    types: &[Destination],
    selection: EntrySelection,
    mut each: impl FnMut(&EntryDescription<'_>) -> Result<bool, SpoolCommandError>,
) -> Result<(), SpoolCommandError> {
    if let EntrySelection::SetAside = selection {
        for entry in &inspection.dead_letters(types)? {
            if !each(&EntryDescription::from_dead_letter(entry))? {
                break;
            }
        }
        return Ok(());
    }
    let mut more = true;
    for to in select_destinations(types) {
        let handed_up_to = inspection.store.handover_mark(to).map(|mark| mark.upto);
        inspection.for_each_entry(to, |seq, bytes| {
            let entry = EntryDescription::from_spooled(to, seq, bytes, handed_up_to);
            more = each(&entry)?;
            Ok(more)
        })?;
        if !more {
            break;
        }
    }
    Ok(())
}
