//! `spool verify`: everything is read back.

use std::io::Write;
use std::time::Instant;

use super::describe::Described;
use super::list::describe_all;
use super::look::Look;
use super::{Failure, SpoolArguments, Verdict};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    spool: SpoolArguments,
}

/// What cannot be told about every entry is told about so many.
const TOLD: u64 = 10;

pub fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let began = Instant::now();
    let look = Look::at(&arguments.spool)?;
    let verified = look.store.verify();
    let verified = verified.map_err(|error| Failure::Failed(error.to_string()))?;
    let mut unreadable = 0;
    let mut read = |entry: &Described<'_>| {
        if let Some(why) = entry.unreadable() {
            unreadable += 1;
            if unreadable <= TOLD {
                eprintln!("entry {} of {}: {why}", entry.seq, entry.to.name());
            }
        }
        Ok(true)
    };
    let mut entries = 0;
    describe_all(&look, &[], false, |entry| {
        entries += 1;
        read(entry)
    })?;
    let mut set_aside = 0;
    // Where these can't be read, that is among the damage.
    let aside = describe_all(&look, &[], true, |entry| {
        set_aside += 1;
        read(entry)
    });
    let damage = look.tell_damage(&verified.damaged);
    if let (Err(failure), Verdict::Good) = (aside, damage) {
        return Err(failure);
    }
    let sound = damage == Verdict::Good && unreadable == 0;
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
    Ok(Verdict::good_if(sound))
}
