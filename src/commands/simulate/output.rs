//! Ledger of a run, written to a file.

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::commands::temporary_file;
use butlr_simulate::ledger::RunSummary;

#[derive(Serialize)]
struct LedgerFile<'s> {
    #[serde(flatten)]
    summary: &'s RunSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Value>,
}

/// Output file of the ledger. It is written to a temporary file and renamed once complete.
pub struct LedgerOutput {
    path: PathBuf,
}

impl LedgerOutput {
    /// Checks, before anything is sent, that the file can be written. The error names the file.
    pub fn prepare(path: &Path) -> Result<Self, String> {
        let output = Self {
            path: path.to_owned(),
        };
        if path.is_dir() {
            return Err(output.describe_error(&"it is a directory"));
        }
        // Deleted at once, so that a run that is aborted leaves nothing behind.
        drop(output.create_temporary()?);
        Ok(output)
    }

    /// Writes the ledger, with the verification if there is one. The error names the file.
    pub fn write(&self, summary: &RunSummary, proof: Option<Value>) -> Result<(), String> {
        let mut file = self.create_temporary()?;
        let contents = LedgerFile { summary, proof };
        serde_json::to_writer_pretty(&mut file, &contents).map_err(|e| self.describe_error(&e))?;
        file.write_all(b"\n").map_err(|e| self.describe_error(&e))?;
        file.persist(&self.path)
            .map_err(|e| self.describe_error(&e))?;
        Ok(())
    }

    fn create_temporary(&self) -> Result<NamedTempFile, String> {
        temporary_file::create_beside(&self.path, ".ledger-", 0o666)
            .map_err(|e| self.describe_error(&e))
    }

    fn describe_error(&self, reason: &dyn Display) -> String {
        format!(
            "--output {} cannot be written: {reason}",
            self.path.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unwritable_file_is_reported_before_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        drop(LedgerOutput::prepare(&path).unwrap());
        assert!(!path.exists(), "only a finished run writes the file");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for bad in [dir.path(), &dir.path().join("none/ledger.json")] {
            let error = LedgerOutput::prepare(bad).err().unwrap();
            assert!(error.contains(&*bad.to_string_lossy()), "{error}");
        }
    }
}
