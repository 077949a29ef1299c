//! The folder that a conversion writes: complete, or not there.
//!
//! Files are written into a folder beside the goal, `OUT.incomplete`, each complete or not at all.
//! When all are there, the folder becomes the goal. A run that was interrupted leaves that folder;
//! the next one goes on from it if it is the same conversion, and starts afresh if not.

use crate::error::{BadInput, Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Says which conversion an unfinished folder is of.
const FINGERPRINT: &str = "conversion.json";
/// Held by the run that writes into the folder.
const LOCK: &str = "lock";

/// A folder being written.
pub(super) struct OutputFolder {
    goal: PathBuf,
    staging: PathBuf,
    /// Its lock goes with the process.
    _lock: File,
    committed: bool,
}

impl OutputFolder {
    /// Prepares to write `goal`. Files of an unfinished run with the same `fingerprint` are kept.
    ///
    /// # Errors
    /// If `goal` exists and is not an empty folder (with `replace`: no folder), if another run is
    /// writing it, or the system refuses.
    pub(super) fn create(goal: &Path, replace: bool, fingerprint: &str) -> Result<Self> {
        check_goal(goal, replace)?;
        let absolute = std::path::absolute(goal).map_err(Error::io(goal, "resolve"))?;
        let Some(name) = absolute.file_name() else {
            return Err(BadInput::new(goal, "a folder to write", "a root").into());
        };
        let mut name = name.to_owned();
        name.push(".incomplete");
        let staging = absolute.with_file_name(name);
        fs::create_dir_all(&staging).map_err(Error::io(&staging, "create the folder"))?;
        let lock_path = staging.join(LOCK);
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path, "create"))?;
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            let expected = "no other run that writes the same folder";
            return Err(BadInput::new(staging, expected, "one").into());
        }
        let recorded = staging.join(FINGERPRINT);
        if fs::read_to_string(&recorded).ok().as_deref() != Some(fingerprint) {
            for entry in fs::read_dir(&staging).map_err(Error::io(&staging, "list"))? {
                let path = entry.map_err(Error::io(&staging, "list"))?.path();
                if path.file_name() != Some(LOCK.as_ref()) {
                    fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
                }
            }
            fs::write(&recorded, fingerprint).map_err(Error::io(&recorded, "write"))?;
        }
        Ok(Self {
            goal: goal.to_owned(),
            staging,
            _lock: lock,
            committed: false,
        })
    }

    /// Where a file of the folder is written meanwhile.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.staging.join(name)
    }

    /// Checks that so many more bytes fit on the disk.
    ///
    /// # Errors
    /// [`BadInput`] if they do not. If the system does not say, writing will show.
    pub(super) fn check_space(&self, needed: u64) -> Result<()> {
        #[cfg(unix)]
        if let Ok(disk) = rustix::fs::statvfs(&self.staging) {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            if free < needed {
                let expected = format!("{needed} bytes of free disk space");
                return Err(BadInput::new(&self.goal, expected, free.to_string())
                    .remedy("write to a larger disk")
                    .into());
            }
        }
        Ok(())
    }

    /// Puts the folder under its name. In a folder that exists, `files` take the place of those of
    /// their names, and files that `obsolete` says are of the model before go away.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn commit(
        mut self,
        files: &[String],
        obsolete: impl Fn(&str) -> bool,
    ) -> Result<()> {
        self.committed = true;
        let goal = &self.goal;
        for name in [FINGERPRINT, LOCK] {
            let path = self.staging.join(name);
            fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
        }
        if !goal.exists() {
            return fs::rename(&self.staging, goal).map_err(Error::io(goal, "create the folder"));
        }
        for file in files {
            let to = goal.join(file);
            fs::rename(self.staging.join(file), &to).map_err(Error::io(&to, "create"))?;
        }
        for entry in goal.read_dir().map_err(Error::io(goal, "list"))? {
            let path = entry.map_err(Error::io(goal, "list"))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| obsolete(name) && !files.iter().any(|file| file == name)) {
                fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
            }
        }
        fs::remove_dir(&self.staging).map_err(Error::io(&self.staging, "remove"))
    }
}

impl Drop for OutputFolder {
    /// A run that failed leaves what it has finished for the next one, and nothing if that is
    /// nothing.
    fn drop(&mut self) {
        let entries = self.staging.read_dir().into_iter().flatten().flatten();
        let kept = entries.filter(|entry| {
            let name = entry.file_name();
            name != FINGERPRINT && name != LOCK
        });
        if !self.committed && kept.count() == 0 {
            // The error that led here is the one to report.
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}

fn check_goal(goal: &Path, replace: bool) -> Result<()> {
    let Ok(kind) = goal.metadata() else {
        return Ok(());
    };
    if !kind.is_dir() {
        return Err(BadInput::new(goal, "a folder to write", "a file").into());
    }
    let mut entries = goal.read_dir().map_err(Error::io(goal, "list"))?;
    if !replace && entries.next().is_some() {
        return Err(
            BadInput::new(goal, "a new or empty folder", "one with files in it")
                .remedy("name another, or give --force to replace the model in it")
                .into(),
        );
    }
    Ok(())
}
