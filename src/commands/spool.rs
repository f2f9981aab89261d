//! `spool`: inspects, exports and drains a spool on disk.

mod description;
mod drain;
mod export;
mod inspection;
mod list;
mod status;
mod verify;

use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{CommandExit, ConfigArguments, load_config, print_config_errors};
use crate::config::{Config, ConfigError, ConfigSources};
use crate::spool::store;
use butlr_event::EventType;
use butlr_event::destination::Destination;
use inspection::catch_redb_panics;

#[derive(clap::Args, Debug)]
pub struct SpoolCommandArguments {
    #[command(subcommand)]
    command: SpoolCommand,
}

/// Subcommands of `spool`.
#[derive(Subcommand, Debug)]
enum SpoolCommand {
    /// Show the number and age of entries per topic and of entries that were set aside; exits with
    /// 1 if damage is found
    Status(status::SpoolStatusArguments),
    /// List the entries, one per line
    List(list::SpoolListArguments),
    /// Export the entries, to save what the bridge cannot deliver and to send it again later
    Export(export::SpoolExportArguments),
    /// Read everything and compare checksums and counts; exits with 1 if something is wrong
    Verify(verify::SpoolVerifyArguments),
    /// Publish all entries to Kafka and exit; no bridge may use the spool meanwhile
    Drain(drain::SpoolDrainArguments),
}

pub fn run(arguments: SpoolCommandArguments) -> CommandExit {
    let result = match arguments.command {
        SpoolCommand::Status(arguments) => catch_redb_panics(|| status::run(&arguments)),
        SpoolCommand::List(arguments) => catch_redb_panics(|| list::run(&arguments)),
        SpoolCommand::Export(arguments) => catch_redb_panics(|| export::run(&arguments)),
        SpoolCommand::Verify(arguments) => catch_redb_panics(|| verify::run(&arguments)),
        SpoolCommand::Drain(arguments) => drain::run(&arguments),
    };
    result.unwrap_or_else(SpoolCommandError::report)
}

/// Reason why a command failed.
#[derive(Debug)]
enum SpoolCommandError {
    /// The arguments or the configuration are invalid.
    Usage(String),
    /// The error was printed already.
    AlreadyReported(CommandExit),
    /// The command could not do what was asked.
    Failed(String),
    /// The reader of the output has closed the pipe, so no message is needed.
    OutputClosed,
}

impl SpoolCommandError {
    /// Prints the error and returns the exit code.
    fn report(self) -> CommandExit {
        match self {
            Self::Usage(text) => CommandExit::Usage.print_error(text),
            Self::Failed(text) => CommandExit::Failed.print_error(text),
            Self::AlreadyReported(exit) => exit,
            Self::OutputClosed => CommandExit::Failed,
        }
    }

    fn from_config(errors: &[ConfigError]) -> Self {
        Self::AlreadyReported(print_config_errors(errors))
    }

    /// Converts an error of writing to `name`.
    fn from_output(name: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("{name} cannot be written: {error}")),
        }
    }
}

/// Converts an error of writing to standard output.
impl From<io::Error> for SpoolCommandError {
    fn from(error: io::Error) -> Self {
        Self::from_output("standard output", &error)
    }
}

/// Arguments that name a spool.
#[derive(clap::Args, Debug)]
struct SpoolArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Directory of the spool, or a copy of it; overrides spool.dir of the configuration
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl SpoolArguments {
    fn sources(&self) -> Result<ConfigSources, SpoolCommandError> {
        let mut sources = self.config.sources();
        if let Some(dir) = &self.dir {
            let dir = dir.to_str().ok_or_else(|| {
                SpoolCommandError::Usage(format!("--dir {}: the name is not UTF-8", dir.display()))
            })?;
            let value = toml::Value::String(dir.to_owned());
            sources.flags.push(("spool.dir".to_owned(), value));
        }
        Ok(sources)
    }

    fn load(&self) -> Result<Config, SpoolCommandError> {
        load_config(&self.sources()?).map_err(|errors| SpoolCommandError::from_config(&errors))
    }

    /// Returns the spool's directory. With `--dir` alone no configuration is needed, so that a copy
    /// can be inspected anywhere.
    fn dir(&self) -> Result<PathBuf, SpoolCommandError> {
        match &self.dir {
            Some(dir) if !self.config.is_given() => Ok(dir.clone()),
            _ => spool_dir(&self.load()?),
        }
    }
}

/// Returns the configured directory of the spool.
fn spool_dir(config: &Config) -> Result<PathBuf, SpoolCommandError> {
    config.spool.dir.clone().ok_or_else(|| {
        SpoolCommandError::Usage(
            "spool.dir is not set: set it to the directory of the spool, or use --dir".to_owned(),
        )
    })
}

/// Fails if the directory holds no spool, so that a mistyped directory does not look like an empty
/// spool.
fn require_spool(dir: &Path) -> Result<(), SpoolCommandError> {
    let shown = dir.display();
    match store::contains_spool(dir) {
        Ok(true) => Ok(()),
        Ok(false) => Err(SpoolCommandError::Usage(format!(
            "there is no spool in {shown}: no bridge has used this directory yet; check spool.dir or --dir"
        ))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(SpoolCommandError::Failed(format!(
                "{shown} cannot be read: {error}; run this command as the bridge's user"
            )))
        }
        Err(error) => Err(SpoolCommandError::Usage(format!(
            "{shown} cannot be read: {error}; check spool.dir or --dir"
        ))),
    }
}

/// Parses `--type`: an event type in any spelling, including that of topic names, or `quarantine`.
fn parse_destination(text: &str) -> Result<Destination, String> {
    let by_topic = |text| EventType::ALL.into_iter().find(|t| t.kebab_name() == text);
    if text.eq_ignore_ascii_case("quarantine") {
        return Ok(Destination::Quarantine);
    }
    let found = EventType::parse(text).or_else(|| by_topic(text));
    found.map(Destination::Events).ok_or_else(|| {
        let names = Destination::all().map(Destination::name);
        format!("not an event type; allowed: {}", names.join(", "))
    })
}

/// Returns the selected destinations in their order; all if none is selected.
fn select_destinations(selected: &[Destination]) -> impl Iterator<Item = Destination> {
    let all = Destination::all().into_iter();
    all.filter(|to| selected.is_empty() || selected.contains(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_accepted_in_many_spellings() {
        let room = Destination::Events(EventType::RoomOccupancy1Min);
        for text in [
            "ROOM_OCCUPANCY_1MIN",
            "room_occupancy_1m",
            "room-occupancy-1min",
        ] {
            assert_eq!(parse_destination(text), Ok(room));
        }
        assert_eq!(parse_destination("quarantine"), Ok(Destination::Quarantine));
        let error = parse_destination("rooms").unwrap_err();
        assert!(error.contains("PIR_NO_MOTION") && error.contains("quarantine"));
    }

    #[test]
    fn without_a_selection_all_destinations_are_meant() {
        assert_eq!(select_destinations(&[]).count(), Destination::COUNT);
        let one = [Destination::Quarantine];
        assert!(select_destinations(&one).eq(one));
    }

    #[test]
    fn a_directory_without_a_spool_is_not_an_empty_spool() {
        let dir = tempfile::tempdir().unwrap();
        let is_refused =
            |dir: &Path| matches!(require_spool(dir), Err(SpoolCommandError::Usage(_)));
        assert!(is_refused(dir.path()));
        assert!(is_refused(&dir.path().join("none")));
        for file in ["notes.txt", "lock", "data.redb", "1.redb"] {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        let manifest = dir.path().join("manifest.json");
        std::fs::write(&manifest, r#"{"name":"an app"}"#).unwrap();
        assert!(is_refused(dir.path()));
        let ours = r#"{"format":1,"checksum":"0","body":{}}"#;
        std::fs::write(&manifest, ours).unwrap();
        assert!(require_spool(dir.path()).is_ok());
        std::fs::remove_file(manifest).unwrap();
        assert!(is_refused(dir.path()));
        std::fs::write(dir.path().join("00000001.redb"), "x").unwrap();
        assert!(require_spool(dir.path()).is_ok());
    }

    #[test]
    fn a_closed_pipe_needs_no_message() {
        let closed = SpoolCommandError::from_output("x", &io::ErrorKind::BrokenPipe.into());
        assert!(matches!(closed, SpoolCommandError::OutputClosed));
        let full = SpoolCommandError::from_output("--out x", &io::ErrorKind::StorageFull.into());
        assert!(matches!(full, SpoolCommandError::Failed(text) if text.contains("--out x")));
    }
}
