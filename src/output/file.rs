//! Files that appear complete or not at all.

use crate::error::{BadInput, Error, Result};
use rustix::fs::OFlags;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const BEFORE: &str = ".";
const AFTER: &str = ".parity-incomplete";

/// What a file is called while it is written: a name that nobody else gives a file, so that what a killed run left is
/// known.
pub(super) fn incomplete(path: &Path) -> OsString {
    let mut name = OsString::from(BEFORE);
    name.push(path.file_name().unwrap_or_default());
    name.push(AFTER);
    name
}

/// The name of the file that one of this name becomes.
pub(super) fn complete(name: &str) -> Option<&str> {
    name.strip_prefix(BEFORE)?.strip_suffix(AFTER)
}

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
            let file = special_file(&path)?;
            return Ok(Self {
                path,
                file,
                staging: None,
            });
        }
        let staging = path.with_file_name(incomplete(&path));
        let file = staged(&path, &staging)?;
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

/// Opens the file that becomes another, new or left by a killed run, and locks it; no link is written through.
fn staged(path: &Path, staging: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false);
    let file = options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(staging);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP | libc::ENXIO) => {
            let fault = BadInput::new(staging, "a file to write, or nothing", "something else");
            fault.remedy("move it away").into()
        }
        _ => Error::io(path, "open for writing")(error),
    })?;
    let read = |path: &Path, kind: io::Result<Metadata>| kind.map_err(Error::io(path, "read"));
    let mine = read(staging, file.metadata())?;
    if !mine.is_file() {
        let fault = BadInput::new(staging, "a file to write, or nothing", "something else");
        return Err(fault.remedy("move it away").into());
    }
    // Where a disk has no locks there is nothing to wait for either.
    let is_taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    // One that another run has just finished is that run's.
    let is_there = read(staging, staging.symlink_metadata())
        .is_ok_and(|now| (now.dev(), now.ino()) == (mine.dev(), mine.ino()));
    if is_taken || !is_there {
        return Err(BadInput::new(path, "no other run that writes the same file", "one").into());
    }
    file.set_len(0).map_err(Error::io(path, "write"))?;
    Ok(file)
}

/// Opens what cannot be replaced, a device or a pipe that somebody reads.
fn special_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    // A pipe that nobody reads would be waited for without end.
    let file = options
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => {
            BadInput::new(path, "a pipe that somebody reads", "one that nobody does").into()
        }
        _ => Error::io(path, "open for writing")(error),
    })?;
    let flags = rustix::fs::fcntl_getfl(&file).map(|flags| flags & !OFlags::NONBLOCK);
    let blocking = flags.and_then(|flags| rustix::fs::fcntl_setfl(&file, flags));
    blocking.map_err(|e| Error::io(path, "open for writing")(e.into()))?;
    Ok(file)
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
