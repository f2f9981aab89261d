//! The ledger in a file.

use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::simulate::ledger::Summary;

/// Where the ledger goes: beside it until it is complete.
pub struct Output {
    path: PathBuf,
    beside: NamedTempFile,
}

impl Output {
    /// Makes sure, before anything is sent, that it can be written.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn prepare(path: &Path) -> Result<Self, String> {
        let told = |reason: &dyn std::fmt::Display| {
            format!("--output {} cannot be written: {reason}", path.display())
        };
        if path.is_dir() {
            return Err(told(&"it is a directory"));
        }
        let dir = match path.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        let beside = tempfile::Builder::new()
            .prefix(".ledger-")
            .permissions(permissions())
            .tempfile_in(dir)
            .map_err(|e| told(&e))?;
        Ok(Self {
            path: path.to_owned(),
            beside,
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn write(mut self, summary: &Summary) -> Result<(), String> {
        let path = self.path.display().to_string();
        let told = |e: &dyn std::fmt::Display| format!("--output {path} cannot be written: {e}");
        serde_json::to_writer_pretty(&mut self.beside, summary).map_err(|e| told(&e))?;
        std::io::Write::write_all(&mut self.beside, b"\n").map_err(|e| told(&e))?;
        self.beside.persist(&self.path).map_err(|e| told(&e))?;
        Ok(())
    }
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
        drop(Output::prepare(&path).unwrap());
        assert!(!path.exists(), "only a finished run writes it");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for bad in [dir.path(), &dir.path().join("none/ledger.json")] {
            let problem = Output::prepare(bad).err().unwrap();
            assert!(problem.contains(&*bad.to_string_lossy()), "{problem}");
        }
    }
}
