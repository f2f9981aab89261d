//! `spool verify`: reads everything and checks it.

use std::io::Write;
use std::time::Instant;

use super::description::EntryDescription;
use super::inspection::SpoolInspection;
use super::list::{EntrySelection, for_each_description};
use super::{CommandExit, SpoolArguments, SpoolCommandError};

#[derive(clap::Args, Debug)]
pub struct SpoolVerifyArguments {
    #[command(flatten)]
    spool: SpoolArguments,
}

/// Most unreadable entries that are reported one by one.
const MAX_REPORTED: u64 = 10;

pub fn run(arguments: &SpoolVerifyArguments) -> Result<CommandExit, SpoolCommandError> {
    let started = Instant::now();
    let inspection = SpoolInspection::open(&arguments.spool)?;
    let verified = inspection.store.verify();
    let mut unreadable = 0;
    let mut check = |entry: &EntryDescription<'_>| {
        if let Some(reason) = entry.decode_error() {
            unreadable += 1;
            if unreadable <= MAX_REPORTED {
                eprintln!("entry {} of {}: {reason}", entry.seq, entry.to.name());
            }
        }
        Ok(true)
    };
    let mut entries = 0;
    for_each_description(&inspection, &[], EntrySelection::Waiting, |entry| {
        entries += 1;
        check(entry)
    })?;
    let mut set_aside = 0;
    // If dead letters cannot be read, the damage report usually says so; otherwise the error
    // counts.
    let dead_letters = for_each_description(&inspection, &[], EntrySelection::SetAside, |entry| {
        set_aside += 1;
        check(entry)
    });
    let damage = inspection.report_damage(&verified.damaged);
    if let (Err(error), CommandExit::Success) = (dead_letters, damage) {
        return Err(error);
    }
    let verdict = if damage != CommandExit::Success {
        "damage was found".to_owned()
    } else if unreadable > 0 {
        format!("{unreadable} of them cannot be read by this release")
    } else {
        "everything is intact".to_owned()
    };
    let (files, took) = (verified.segments, started.elapsed().as_secs_f64());
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "read {entries} entries in {files} files and {set_aside} set aside in {took:.1} s: {verdict}"
    )?;
    out.flush()?;
    Ok(CommandExit::success_if(
        damage == CommandExit::Success && unreadable == 0,
    ))
}
