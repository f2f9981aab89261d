//! The ledger in a file.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use tempfile::NamedTempFile;

use butlr_simulate::ledger::RunSummary;

#[derive(Serialize)]
struct LedgerFile<'s> {
    #[serde(flatten)]
    summary: &'s RunSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Value>,
}

/// Where the ledger goes: beside it until it is complete.
pub struct LedgerOutput {
    path: PathBuf,
}

impl LedgerOutput {
    /// Makes sure, before anything is sent, that it can be written.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn prepare(path: &Path) -> Result<Self, String> {
        let describe_error = |reason: &dyn std::fmt::Display| {
            format!("--output {} cannot be written: {reason}", path.display())
        };
        if path.is_dir() {
            return Err(describe_error(&"it is a directory"));
        }
        // Not kept: a run that is ended at once leaves nothing behind.
        create_temporary_beside(path).map_err(|e| describe_error(&e))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Writes it; once more with what was proved, once it is.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn write(&self, summary: &RunSummary, proof: Option<Value>) -> Result<(), String> {
        let path = self.path.display().to_string();
        let describe_error =
            |e: &dyn std::fmt::Display| format!("--output {path} cannot be written: {e}");
        let mut beside = create_temporary_beside(&self.path).map_err(|e| describe_error(&e))?;
        let contents = LedgerFile { summary, proof };
        serde_json::to_writer_pretty(&mut beside, &contents).map_err(|e| describe_error(&e))?;
        std::io::Write::write_all(&mut beside, b"\n").map_err(|e| describe_error(&e))?;
        beside.persist(&self.path).map_err(|e| describe_error(&e))?;
        Ok(())
    }
}

fn create_temporary_beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    tempfile::Builder::new()
        .prefix(".ledger-")
        .permissions(permissions())
        .tempfile_in(dir)
}

/// As any other file's, within the user's mask.
fn permissions() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_before_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        drop(LedgerOutput::prepare(&path).unwrap());
        assert!(!path.exists(), "only a finished run writes it");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for bad in [dir.path(), &dir.path().join("none/ledger.json")] {
            let problem = LedgerOutput::prepare(bad).err().unwrap();
            assert!(problem.contains(&*bad.to_string_lossy()), "{problem}");
        }
    }
}
