//! `spool export`: writes out the entries, so that they can be saved and sent again.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::description::{EntryDescription, to_single_line};
use super::inspection::SpoolInspection;
use super::list::{EntrySelection, for_each_description};
use super::{CommandExit, SpoolArguments, SpoolCommandError, parse_destination};
use crate::commands::temporary_file;
use butlr_event::destination::Destination;

const EXPORT_HELP: &str = r#"Exported values are as received, except that line ends between JSON tokens become spaces. JSON values are in "value", others in
"value_base64" (quarantined items can be anything). Nothing is removed from the spool.

To save what the bridge cannot deliver, and send it to a bridge later:

  butlr-bridge spool export --config bridge.toml --out saved.jsonl
  jq -c 'select(has("value")) | .value' saved.jsonl | while IFS= read -r event; do
    printf %s "$event" | curl -fsS -H 'x-api-key: …' -H 'content-type: application/json' \
      --data-binary @- https://bridge.example/v1/events || printf '%s\n' "$event" >> again.jsonl
  done

jq before 1.7 rounds numbers of more than 17 digits; `--raw` instead of the first jq keeps them. The bridge recognises events that
Kafka holds already by their ids, for as long as dedup.id_window."#;

#[derive(clap::Args, Debug)]
#[command(after_long_help = EXPORT_HELP)]
pub struct SpoolExportArguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Only entries of this event type, or quarantine; can be repeated
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_destination)]
    types: Vec<Destination>,
    /// Instead the entries that were set aside because Kafka rejects them permanently
    #[arg(long)]
    set_aside: bool,
    /// Only the values, one per line
    #[arg(long)]
    raw: bool,
    /// Write to this new file instead of standard output; it appears only once it is complete
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Counts of exported entries.
#[derive(Default)]
struct ExportCounts {
    entries: u64,
    /// Values that are not JSON; with `--raw` they may span several lines.
    non_json: u64,
}

pub fn run(arguments: &SpoolExportArguments) -> Result<CommandExit, SpoolCommandError> {
    let inspection = SpoolInspection::open(&arguments.spool)?;
    let written = match &arguments.out {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            write_all(&inspection, arguments, "standard output", &mut out)?
        }
        Some(path) => write_to_file(&inspection, arguments, path)?,
    };
    if arguments.raw && written.non_json > 0 {
        eprintln!(
            "{} values are not JSON and may span several lines; without --raw each takes one line",
            written.non_json
        );
    }
    if let Some(path) = &arguments.out {
        eprintln!(
            "{} entries were written to {}",
            written.entries,
            path.display()
        );
    }
    Ok(inspection.report_damage(&[]))
}

/// Writes a new file. An existing one is never overwritten: it may hold what was saved before the
/// spool was drained.
fn write_to_file(
    inspection: &SpoolInspection,
    arguments: &SpoolExportArguments,
    path: &Path,
) -> Result<ExportCounts, SpoolCommandError> {
    let name = format!("--out {}", path.display());
    let write_error = |error: &io::Error| SpoolCommandError::from_output(&name, error);
    let exists =
        || SpoolCommandError::Failed(format!("{name}: the file exists; choose another name"));
    if path.exists() {
        return Err(exists());
    }
    // Like the spool, readable by its owner only.
    let file = temporary_file::create_beside(path, ".export-", 0o600);
    let mut file = file.map_err(|error| write_error(&error))?;
    let written = write_all(inspection, arguments, &name, &mut BufWriter::new(&mut file))?;
    file.as_file()
        .sync_all()
        .map_err(|error| write_error(&error))?;
    file.persist_noclobber(path)
        .map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => exists(),
            _ => write_error(&error.error),
        })?;
    Ok(written)
}

fn write_all(
    inspection: &SpoolInspection,
    arguments: &SpoolExportArguments,
    name: &str,
    out: &mut impl Write,
) -> Result<ExportCounts, SpoolCommandError> {
    let mut written = ExportCounts::default();
    let selection = EntrySelection::from_flag(arguments.set_aside);
    for_each_description(inspection, &arguments.types, selection, |entry| {
        let line = if arguments.raw {
            raw_line(entry, &mut written)
        } else {
            entry.json_line().into_bytes()
        };
        written.entries += 1;
        let result = out.write_all(&line).and_then(|()| out.write_all(b"\n"));
        result.map_err(|error| SpoolCommandError::from_output(name, &error))?;
        Ok(true)
    })?;
    out.flush()
        .map_err(|error| SpoolCommandError::from_output(name, &error))?;
    Ok(written)
}

fn raw_line(entry: &EntryDescription<'_>, written: &mut ExportCounts) -> Vec<u8> {
    match to_single_line(entry.value()) {
        Some(json) => json.into_bytes(),
        None => {
            written.non_json += 1;
            entry.value().to_vec()
        }
    }
}
