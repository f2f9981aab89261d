//! `spool list`: one line an entry.

use std::io::{BufWriter, Write};

use super::description::EntryDescription;
use super::inspection::SpoolInspection;
use super::{
    SpoolArguments, SpoolCommandError, SpoolCommandOutcome, parse_destination, select_destinations,
};
use butlr_event::destination::Destination;

#[derive(clap::Args, Debug)]
pub struct SpoolListArguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Only those of this type, or quarantine; may be given several times
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_destination)]
    types: Vec<Destination>,
    /// At most so many
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Those that Kafka refuses for good and that were set aside, with the reason
    #[arg(long)]
    set_aside: bool,
    /// For machines: one JSON object a line
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &SpoolListArguments) -> Result<SpoolCommandOutcome, SpoolCommandError> {
    let look = SpoolInspection::open(&arguments.spool)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if !arguments.json {
        writeln!(out, "{}", EntryDescription::header_line())?;
    }
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    if left > 0 {
        for_each_description(&look, &arguments.types, arguments.set_aside, |entry| {
            match arguments.json {
                true => writeln!(out, "{}", serde_json::Value::from(entry.json_fields()))?,
                false => writeln!(out, "{}", entry.text_line())?,
            }
            left -= 1;
            Ok(left > 0)
        })?;
    }
    out.flush()?;
    Ok(look.report_damage(&[]))
}

/// Each entry of these types, or what was set aside of them, until `each` has enough.
pub fn for_each_description(
    look: &SpoolInspection,
    types: &[Destination],
    set_aside: bool,
    mut each: impl FnMut(&EntryDescription<'_>) -> Result<bool, SpoolCommandError>,
) -> Result<(), SpoolCommandError> {
    if set_aside {
        for entry in &look.dead_letters(types)? {
            if !each(&EntryDescription::from_dead_letter(entry))? {
                break;
            }
        }
        return Ok(());
    }
    let mut more = true;
    for to in select_destinations(types) {
        let handed = look.store.handover_mark(to).map(|handed| handed.upto);
        look.for_each_entry(to, |seq, bytes| {
            more = each(&EntryDescription::from_spooled(to, seq, bytes, handed))?;
            Ok(more)
        })?;
        if !more {
            break;
        }
    }
    Ok(())
}
