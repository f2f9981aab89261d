//! Exit codes of the commands.

use std::fmt::Display;
use std::process::ExitCode;

/// Exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CommandExit {
    /// The command did what was asked.
    Success = 0,
    /// The command failed or found a problem.
    Failed = 1,
    /// The arguments or the configuration are invalid; clap uses the same code.
    Usage = 2,
}

impl CommandExit {
    /// Returns `Success` if `is_good`, otherwise `Failed`.
    pub fn success_if(is_good: bool) -> Self {
        if is_good { Self::Success } else { Self::Failed }
    }

    /// Prints an error to standard error and returns the exit code.
    pub fn print_error(self, error: impl Display) -> Self {
        eprintln!("{error}");
        self
    }
}

impl From<CommandExit> for i32 {
    fn from(exit: CommandExit) -> Self {
        exit as i32
    }
}

impl From<CommandExit> for ExitCode {
    fn from(exit: CommandExit) -> Self {
        ExitCode::from(exit as u8)
    }
}
