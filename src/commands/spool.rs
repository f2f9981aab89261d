//! `spool`: what waits on disk, for the operator who has to know, to save it, or to empty it.

mod description;
mod drain;
mod export;
mod inspection;
mod list;
mod status;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigArguments, EXIT_FAILED, EXIT_MISUSED, load_config, report_mistakes};
use crate::config::{Config, ConfigSources};
use crate::spool::store;
use butlr_event::EventType;
use butlr_event::destination::Destination;
use inspection::catch_redb_panics;

#[derive(clap::Args, Debug)]
pub struct SpoolCommandArguments {
    #[command(subcommand)]
    command: SpoolCommand,
}

/// What can be done with a spool.
#[derive(Subcommand, Debug)]
enum SpoolCommand {
    /// Show how much waits for which topic, since when, and what was set aside; exit 1 when damage was found
    Status(status::SpoolStatusArguments),
    /// List the entries, one a line
    List(list::SpoolListArguments),
    /// Write the entries out, so that what a bridge cannot deliver can be saved and fed to it again
    Export(export::SpoolExportArguments),
    /// Read everything back and compare checksums and counts; exit 1 when something is wrong
    Verify(verify::SpoolVerifyArguments),
    /// Empty the spool into Kafka and end; with no bridge running on it
    Drain(drain::SpoolDrainArguments),
}

/// Runs one of them to its end.
pub fn run(arguments: SpoolCommandArguments) -> ExitCode {
    let done = match arguments.command {
        SpoolCommand::Status(arguments) => catch_redb_panics(|| status::run(&arguments)),
        SpoolCommand::List(arguments) => catch_redb_panics(|| list::run(&arguments)),
        SpoolCommand::Export(arguments) => catch_redb_panics(|| export::run(&arguments)),
        SpoolCommand::Verify(arguments) => catch_redb_panics(|| verify::run(&arguments)),
        SpoolCommand::Drain(arguments) => drain::run(&arguments),
    };
    match done {
        Ok(SpoolCommandOutcome::Success) => ExitCode::SUCCESS,
        Ok(SpoolCommandOutcome::Problem) => ExitCode::from(EXIT_FAILED),
        Err(failure) => failure.report(),
    }
}

/// How a command ends that could do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpoolCommandOutcome {
    /// As hoped for.
    Success,
    /// Not so; what is wrong was told.
    Problem,
}

impl SpoolCommandOutcome {
    fn success_if(good: bool) -> Self {
        if good { Self::Success } else { Self::Problem }
    }
}

/// Why a command could not do it.
#[derive(Debug)]
enum SpoolCommandError {
    /// Bad usage or configuration; told here.
    Usage(String),
    /// The same; told already.
    AlreadyReported(ExitCode),
    /// Something was asked for that cannot be.
    Failed(String),
    /// Whoever read the output has gone, and knows.
    OutputClosed,
}

impl SpoolCommandError {
    fn report(self) -> ExitCode {
        match self {
            Self::Usage(text) => {
                eprintln!("{text}");
                ExitCode::from(EXIT_MISUSED)
            }
            Self::Failed(text) => {
                eprintln!("{text}");
                ExitCode::from(EXIT_FAILED)
            }
            Self::AlreadyReported(code) => code,
            Self::OutputClosed => ExitCode::from(EXIT_FAILED),
        }
    }

    /// Of writing to `name`.
    fn from_output(name: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("{name} cannot be written: {error}")),
        }
    }
}

/// Of a loop that writes to standard output.
impl From<io::Error> for SpoolCommandError {
    fn from(error: io::Error) -> Self {
        Self::from_output("standard output", &error)
    }
}

/// Which spool.
#[derive(clap::Args, Debug)]
struct SpoolArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The spool's directory, or a copy of it, instead of the configuration's spool.dir
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
        load_config(&self.sources()?)
            .map_err(|mistakes| SpoolCommandError::AlreadyReported(report_mistakes(&mistakes)))
    }

    /// Where the spool lies. A copy can be looked at where nothing of the configuration is at hand.
    fn dir(&self) -> Result<PathBuf, SpoolCommandError> {
        match &self.dir {
            Some(dir) if !self.config.is_given() => Ok(dir.clone()),
            _ => spool_dir(&self.load()?),
        }
    }
}

/// The spool's directory, which must hold one.
fn spool_dir(config: &Config) -> Result<PathBuf, SpoolCommandError> {
    config.spool.dir.clone().ok_or_else(|| {
        SpoolCommandError::Usage(
            "spool.dir is not set: name the spool's directory there, or with --dir".to_owned(),
        )
    })
}

/// Fails where there is no spool: a directory that was mistyped must not look like an empty one.
fn require_spool(dir: &Path) -> Result<(), SpoolCommandError> {
    let shown = dir.display();
    match store::contains_spool(dir) {
        Ok(true) => Ok(()),
        Ok(false) => Err(SpoolCommandError::Usage(format!(
            "there is no spool in {shown}: no bridge has used this directory yet; look whether spool.dir or --dir names the right one"
        ))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(SpoolCommandError::Failed(format!(
                "{shown} cannot be read: {error}; run this as the user of the bridge"
            )))
        }
        Err(error) => Err(SpoolCommandError::Usage(format!(
            "{shown} cannot be read: {error}; look whether spool.dir or --dir names the right directory"
        ))),
    }
}

/// `--type`: any spelling of a type, as in topics too, or `quarantine`.
fn parse_destination(text: &str) -> Result<Destination, String> {
    let by_topic = |text| EventType::ALL.into_iter().find(|t| t.kebab_name() == text);
    if text.eq_ignore_ascii_case("quarantine") {
        return Ok(Destination::Quarantine);
    }
    let found = EventType::parse(text).or_else(|| by_topic(text));
    found.map(Destination::Events).ok_or_else(|| {
        let names = Destination::all().map(Destination::name);
        format!("no type of event; allowed: {}", names.join(", "))
    })
}

/// Those that were asked for; all where none was.
fn select_destinations(asked: &[Destination]) -> impl Iterator<Item = Destination> {
    let all = Destination::all().into_iter();
    all.filter(|to| asked.is_empty() || asked.contains(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_many_spellings() {
        let room = Destination::Events(EventType::RoomOccupancy1Min);
        for text in [
            "ROOM_OCCUPANCY_1MIN",
            "room_occupancy_1m",
            "room-occupancy-1min",
        ] {
            assert_eq!(parse_destination(text), Ok(room));
        }
        assert_eq!(parse_destination("quarantine"), Ok(Destination::Quarantine));
        let problem = parse_destination("rooms").unwrap_err();
        assert!(problem.contains("PIR_NO_MOTION") && problem.contains("quarantine"));
    }

    #[test]
    fn without_a_wish_all_are_meant() {
        assert_eq!(select_destinations(&[]).count(), Destination::COUNT);
        let one = [Destination::Quarantine];
        assert!(select_destinations(&one).eq(one));
    }

    #[test]
    fn a_directory_without_a_spool_is_not_an_empty_spool() {
        let dir = tempfile::tempdir().unwrap();
        let misused = |dir: &Path| matches!(require_spool(dir), Err(SpoolCommandError::Usage(_)));
        assert!(misused(dir.path()));
        assert!(misused(&dir.path().join("none")));
        for file in ["notes.txt", "lock", "data.redb", "1.redb"] {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        let manifest = dir.path().join("manifest.json");
        std::fs::write(&manifest, r#"{"name":"an app"}"#).unwrap();
        assert!(misused(dir.path()));
        let ours = r#"{"format":1,"checksum":"0","body":{}}"#;
        std::fs::write(&manifest, ours).unwrap();
        assert!(require_spool(dir.path()).is_ok());
        std::fs::remove_file(manifest).unwrap();
        assert!(misused(dir.path()));
        std::fs::write(dir.path().join("00000001.redb"), "x").unwrap();
        assert!(require_spool(dir.path()).is_ok());
    }

    #[test]
    fn who_closes_the_pipe_is_told_nothing() {
        let closed = SpoolCommandError::from_output("x", &io::ErrorKind::BrokenPipe.into());
        assert!(matches!(closed, SpoolCommandError::OutputClosed));
        let full = SpoolCommandError::from_output("--out x", &io::ErrorKind::StorageFull.into());
        assert!(matches!(full, SpoolCommandError::Failed(text) if text.contains("--out x")));
    }
}
