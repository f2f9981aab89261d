//! `spool verify`: everything is read back.

use std::io::Write;
use std::time::Instant;

use super::description::EntryDescription;
use super::inspection::SpoolInspection;
use super::list::for_each_description;
use super::{SpoolArguments, SpoolCommandError, SpoolCommandOutcome};

#[derive(clap::Args, Debug)]
pub struct SpoolVerifyArguments {
    #[command(flatten)]
    spool: SpoolArguments,
}

/// What cannot be told about every entry is told about so many.
const MAX_REPORTED: u64 = 10;

pub fn run(arguments: &SpoolVerifyArguments) -> Result<SpoolCommandOutcome, SpoolCommandError> {
    let began = Instant::now();
    let look = SpoolInspection::open(&arguments.spool)?;
    let verified = look.store.verify();
    let mut unreadable = 0;
    let mut read = |entry: &EntryDescription<'_>| {
        if let Some(why) = entry.decode_error() {
            unreadable += 1;
            if unreadable <= MAX_REPORTED {
                eprintln!("entry {} of {}: {why}", entry.seq, entry.to.name());
            }
        }
        Ok(true)
    };
    let mut entries = 0;
    for_each_description(&look, &[], false, |entry| {
        entries += 1;
        read(entry)
    })?;
    let mut set_aside = 0;
    // Where these can't be read, that is among the damage.
    let aside = for_each_description(&look, &[], true, |entry| {
        set_aside += 1;
        read(entry)
    });
    let damage = look.report_damage(&verified.damaged);
    if let (Err(failure), SpoolCommandOutcome::Success) = (aside, damage) {
        return Err(failure);
    }
    let sound = damage == SpoolCommandOutcome::Success && unreadable == 0;
    let (files, took) = (verified.segments, began.elapsed().as_secs_f64());
    let verdict = match (sound, unreadable) {
        (true, _) => "all is whole".to_owned(),
        (false, 0) => "not all is whole".to_owned(),
        (false, _) => format!("{unreadable} of them this release cannot read"),
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "read {entries} entries in {files} files and {set_aside} set aside in {took:.1} s: {verdict}"
    )?;
    out.flush()?;
    Ok(SpoolCommandOutcome::success_if(sound))
}
