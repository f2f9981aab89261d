//! `spool export`: everything that lies in the spool, to be saved and fed again.

use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::description::{EntryDescription, to_single_line};
use super::inspection::SpoolInspection;
use super::list::for_each_description;
use super::{SpoolArguments, SpoolCommandError, SpoolCommandOutcome, parse_destination};
use butlr_event::destination::Destination;

const EXPORT_HELP: &str = r#"An exported value is as it was received; only where it has line ends between its tokens, these become blanks. "value" is there
where it is JSON, "value_base64" otherwise (what is quarantined can be anything). Nothing is removed from the spool.

To save what a bridge cannot deliver, and feed it to a bridge again later:

  butlr-bridge spool export --config bridge.toml --out saved.jsonl
  jq -c 'select(has("value")) | .value' saved.jsonl | while IFS= read -r event; do
    printf %s "$event" | curl -fsS -H 'x-api-key: …' -H 'content-type: application/json' \
      --data-binary @- https://bridge.example/v1/events || printf '%s\n' "$event" >> again.jsonl
  done

jq before 1.7 rounds numbers of more than 17 digits; `--raw` in place of the first jq changes none. Which of them Kafka holds
already the bridge knows by their ids for as long as its dedup.id_window says."#;

#[derive(clap::Args, Debug)]
#[command(after_long_help = EXPORT_HELP)]
pub struct SpoolExportArguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Only those of this type, or quarantine; may be given several times
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_destination)]
    types: Vec<Destination>,
    /// Those that Kafka refuses for good and that were set aside
    #[arg(long)]
    set_aside: bool,
    /// The values only, one a line
    #[arg(long)]
    raw: bool,
    /// Into this new file instead of standard output; it is there only once it is complete
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// How many were written.
#[derive(Default)]
struct ExportCounts {
    entries: u64,
    /// Values that are no JSON; raw, some may have several lines.
    non_json: u64,
}

pub fn run(arguments: &SpoolExportArguments) -> Result<SpoolCommandOutcome, SpoolCommandError> {
    let look = SpoolInspection::open(&arguments.spool)?;
    let written = match &arguments.out {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            write_all(&look, arguments, "standard output", &mut out)?
        }
        Some(path) => write_to_file(&look, arguments, path)?,
    };
    if arguments.raw && written.non_json > 0 {
        eprintln!(
            "{} of the values are no JSON and may have several lines; without --raw each is on one",
            written.non_json
        );
    }
    if let Some(path) = &arguments.out {
        eprintln!("{} entries are in {}", written.entries, path.display());
    }
    Ok(look.report_damage(&[]))
}

/// Never over a file that is there: it may be what was saved before the spool was drained.
fn write_to_file(
    look: &SpoolInspection,
    arguments: &SpoolExportArguments,
    path: &Path,
) -> Result<ExportCounts, SpoolCommandError> {
    let name = format!("--out {}", path.display());
    let refused = |error: &io::Error| SpoolCommandError::from_output(&name, error);
    let taken =
        || SpoolCommandError::Failed(format!("{name}: it is there already; choose another name"));
    if path.exists() {
        return Err(taken());
    }
    let mut file = create_temporary_beside(path).map_err(|error| refused(&error))?;
    let written = write_all(look, arguments, &name, &mut BufWriter::new(&mut file))?;
    file.as_file().sync_all().map_err(|error| refused(&error))?;
    file.persist_noclobber(path)
        .map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => taken(),
            _ => refused(&error.error),
        })?;
    Ok(written)
}

fn create_temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    // Like the spool, not for everybody to read.
    let owner_only: Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    tempfile::Builder::new()
        .prefix(".export-")
        .permissions(owner_only)
        .tempfile_in(dir)
}

fn write_all(
    look: &SpoolInspection,
    arguments: &SpoolExportArguments,
    name: &str,
    out: &mut impl Write,
) -> Result<ExportCounts, SpoolCommandError> {
    let mut written = ExportCounts::default();
    for_each_description(look, &arguments.types, arguments.set_aside, |entry| {
        let line = match arguments.raw {
            true => raw_line(entry, &mut written),
            false => entry.json_line().into_bytes(),
        };
        written.entries += 1;
        let wrote = out.write_all(&line).and_then(|()| out.write_all(b"\n"));
        wrote.map_err(|error| SpoolCommandError::from_output(name, &error))?;
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
