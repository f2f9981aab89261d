//! `spool list`: one line an entry.

use std::io::{BufWriter, Write};

use super::describe::Described;
use super::look::Look;
use super::{Failure, SpoolArguments, Verdict, destination, destinations};
use butlr_event::destination::Destination;

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Only those of this type, or quarantine; may be given several times
    #[arg(long = "type", value_name = "TYPE", value_parser = destination)]
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

pub fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let look = Look::at(&arguments.spool)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if !arguments.json {
        writeln!(out, "{}", Described::head())?;
    }
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    if left > 0 {
        describe_all(&look, &arguments.types, arguments.set_aside, |entry| {
            match arguments.json {
                true => writeln!(out, "{}", serde_json::Value::from(entry.facts()))?,
                false => writeln!(out, "{}", entry.line())?,
            }
            left -= 1;
            Ok(left > 0)
        })?;
    }
    out.flush()?;
    Ok(look.tell_damage(&[]))
}

/// Each entry of these types, or what was set aside of them, until `each` has enough.
pub fn describe_all(
    look: &Look,
    types: &[Destination],
    set_aside: bool,
    mut each: impl FnMut(&Described<'_>) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    if set_aside {
        for entry in &look.set_aside(types)? {
            if !each(&Described::set_aside(entry))? {
                break;
            }
        }
        return Ok(());
    }
    let mut more = true;
    for to in destinations(types) {
        let handed = look.store.handed(to).map(|handed| handed.upto);
        look.each(to, |seq, bytes| {
            more = each(&Described::waiting(to, seq, bytes, handed))?;
            Ok(more)
        })?;
        if !more {
            break;
        }
    }
    Ok(())
}
