//! Files that appear complete or not at all.

use crate::error::{BadInput, Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file being written. It replaces what was under its path when it is committed; dropped before
/// that, it leaves no trace.
pub struct OutputFile {
    path: PathBuf,
    file: File,
    /// Where it is written meanwhile; `None` for what cannot be replaced, such as a pipe.
    staging: Option<PathBuf>,
}

impl OutputFile {
    /// Opens a file for writing, so that a path that cannot be written fails now.
    ///
    /// # Errors
    /// If the path is a folder or its folder cannot be written to.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let special = match path.metadata() {
            Ok(kind) if kind.is_dir() => {
                return Err(BadInput::new(path, "a file to write", "a folder").into());
            }
            Ok(kind) => !kind.is_file(),
            Err(_) => false,
        };
        if special {
            let file = OpenOptions::new().write(true).open(&path);
            let file = file.map_err(Error::io(&path, "open for writing"))?;
            return Ok(Self {
                path,
                file,
                staging: None,
            });
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        // Two files being written for one path must not be one file.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".incomplete-{}-{number}", std::process::id()));
        let staging = path.with_file_name(name);
        let file = File::create(&staging).map_err(Error::io(&path, "open for writing"))?;
        Ok(Self {
            path,
            file,
            staging: Some(staging),
        })
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file under its path.
    ///
    /// # Errors
    /// If the system cannot finish writing it; what was there before is still there then.
    pub fn commit(mut self) -> Result<()> {
        let Some(staging) = self.staging.take() else {
            return Ok(());
        };
        let done = self
            .file
            .sync_all()
            .and_then(|()| fs::rename(&staging, &self.path));
        done.map_err(|source| {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&staging);
            Error::io(&self.path, "write")(source)
        })
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(staging) = &self.staging {
            // Nothing more can be done about a leftover that cannot be removed.
            let _ = fs::remove_file(staging);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        fs::write(&path, "before").unwrap();
        let mut file = OutputFile::create(&path).unwrap();
        file.write_all(b"after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
        drop(OutputFile::create(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn folders_and_missing_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(OutputFile::create(folder.path()).is_err());
        assert!(OutputFile::create(folder.path().join("no/such/report")).is_err());
    }
}
