//! A folder being written.
//!
//! Files are written into a folder beside the goal, `OUT.incomplete`, which becomes the goal in one rename, or takes
//! its place: then everything of the old folder that is not replaced is linked into the new one before, so that at any
//! moment the goal is the old folder or the whole new one. A run that is killed leaves the folder beside it, and the
//! record in it; the next run goes on from there if it is the same work, and begins afresh if not. The record is in the
//! goal until all is done, so that a run that is killed after the rename is finished by the next one.

use super::record::{self, Record, Recorded};
use crate::error::{BadInput, Error, Result};
use crate::tensor::forget_in;
use rustix::fs::{Mode, OFlags, RenameFlags};
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Another run has the folder.
const BUSY: &str = "no other run that writes the same folder";

/// What becomes of a folder that exists and is not empty.
#[derive(Clone, Copy)]
pub(crate) enum Existing {
    /// It is an error, with this remedy.
    Refused(&'static str),
    /// Files of the new folder take the place of those of their names.
    Replaced,
}

/// A folder being written.
pub(crate) struct OutputFolder {
    goal: PathBuf,
    staging: PathBuf,
    /// Locked; the lock goes with the process, wherever the folder is renamed to.
    folder: File,
    record: Record,
    parents: NewFolders,
    /// Whether there is nothing left to do but to forget the record.
    is_whole: bool,
}

impl OutputFolder {
    /// Prepares to write `goal`, of which `names` are known. What an interrupted run with the same `fingerprint` has
    /// finished is kept, and a run that was interrupted when all was there is finished.
    ///
    /// # Errors
    /// If `goal` exists and may not be replaced, something else is where a file has to be, another run is writing it, or
    /// the system refuses. Nothing is changed then.
    pub(crate) fn create(
        goal: &Path,
        names: &[String],
        fingerprint: &str,
        existing: Existing,
    ) -> Result<Self> {
        let named = goal;
        // Whoever names a link to a folder means the folder.
        let goal = &match goal.symlink_metadata() {
            Ok(kind) if kind.is_symlink() => goal.canonicalize().unwrap_or(goal.to_owned()),
            _ => std::path::absolute(goal).map_err(Error::io(goal, "resolve"))?,
        };
        let Some(name) = goal.file_name() else {
            return Err(BadInput::new(named, "a folder to write", "a root").into());
        };
        let mut name = name.to_owned();
        name.push(".incomplete");
        let staging = goal.with_file_name(name);
        if let Some(done) = Self::finished(goal, &staging, fingerprint)? {
            return Ok(done);
        }
        check_goal(named, names, existing)?;
        let parents = NewFolders::above(&staging)?;
        match fs::create_dir(&staging) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.map_err(Error::io(&staging, "create the folder"))?,
        }
        let folder = locked(&staging)?;
        let recorded = Recorded::read(&staging)?;
        let kept = recorded.filter(|recorded| recorded.fingerprint == fingerprint);
        clear(&staging, goal, kept.is_some())?;
        let record = Record::open(&staging, fingerprint, kept)?;
        Ok(Self {
            goal: goal.clone(),
            staging,
            folder,
            record,
            parents,
            is_whole: false,
        })
    }

    /// What a run left that was killed after the rename: a goal with its record still in it. The folder that it
    /// replaced goes away; `None` if it is another's work that is whole now, or there is none.
    fn finished(goal: &Path, staging: &Path, fingerprint: &str) -> Result<Option<Self>> {
        let is_folder = goal.symlink_metadata().is_ok_and(|kind| kind.is_dir());
        let Some(recorded) = is_folder
            .then(|| Recorded::read(goal))
            .transpose()?
            .flatten()
        else {
            return Ok(None);
        };
        let folder = locked(goal)?;
        let is_ours = recorded.fingerprint == fingerprint;
        let record = Record::open(goal, fingerprint, Some(recorded))?;
        if staging.symlink_metadata().is_ok_and(|kind| kind.is_dir())
            && Recorded::read(staging)?.is_none()
        {
            remove_replaced(staging, goal, &record.names())?;
        }
        if !is_ours {
            forget_record(goal)?;
            return Ok(None);
        }
        Ok(Some(Self {
            goal: goal.to_owned(),
            staging: goal.to_owned(),
            folder,
            record,
            parents: NewFolders::default(),
            is_whole: true,
        }))
    }

    /// Whether a run before had finished but for the record: there is nothing to write.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Where the files are meanwhile.
    pub(crate) fn path(&self) -> &Path {
        &self.staging
    }

    /// Where a file is meanwhile. Its name is written down.
    ///
    /// # Errors
    /// If the system refuses to write it down.
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf> {
        self.record.add(name)?;
        Ok(self.staging.join(name))
    }

    /// Checks that so many more bytes fit on the disk.
    ///
    /// # Errors
    /// [`BadInput`] if they do not. If the system does not say, writing will show.
    pub(crate) fn check_space(&self, needed: u64) -> Result<()> {
        if let Ok(disk) = rustix::fs::fstatvfs(&self.folder) {
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

    /// Removes what was made, and the folders that were made for it.
    pub(crate) fn discard(self) {
        if !self.is_whole {
            // The error that led here is the one to report.
            let _ = clear(&self.staging, &self.goal, false);
            let _ = fs::remove_dir(&self.staging);
        }
    }

    /// Puts the folder in its place. Of a folder that exists, the files written here and those that `replaced` says go
    /// away, and everything else stays.
    ///
    /// # Errors
    /// If the system refuses, or something appeared where the goal has to be; what was there is still there then.
    pub(crate) fn commit(mut self, replaced: Option<&dyn Fn(&str) -> bool>) -> Result<()> {
        let (goal, staging) = (&self.goal, &self.staging);
        // What was written here may have been read again, to be verified; it moves, and nobody else changes it.
        forget_in(staging);
        if !self.is_whole {
            self.folder.sync_all().map_err(Error::io(staging, "sync"))?;
            let is_new = |path: &Path| match path.read_dir() {
                Ok(mut entries) => entries.next().is_none(),
                Err(_) => true,
            };
            if is_new(goal) {
                place(staging, goal)?;
            } else if let Some(is_replaced) = replaced {
                let names = self.record.names();
                let stays = |name: &str| !names.contains(name) && !is_replaced(name);
                link(goal, staging, &|path, kind| {
                    let name = path.to_str().unwrap_or_default();
                    kind.is_dir() || stays(name)
                })?;
                // What goes away is written down before it does.
                for entry in goal.read_dir().map_err(Error::io(goal, "list"))? {
                    let entry = entry.map_err(Error::io(goal, "list"))?;
                    let is_folder = entry
                        .path()
                        .symlink_metadata()
                        .is_ok_and(|kind| kind.is_dir());
                    if let Some(name) = entry.file_name().to_str()
                        && !is_folder
                        && is_replaced(name)
                    {
                        self.record.add(name)?;
                    }
                }
                let kind = goal.metadata().map_err(Error::io(goal, "read"))?;
                let set = fs::set_permissions(staging, kind.permissions());
                set.map_err(Error::io(staging, "set the permissions of"))?;
                exchange(staging, goal)?;
                remove_replaced(staging, goal, &self.record.names())?;
            } else {
                return Err(occupied(goal));
            }
            self.is_whole = true;
        }
        self.parents.keep();
        forget_record(&self.goal)
    }
}

impl Drop for OutputFolder {
    /// A run that failed leaves what it has finished for the next one, and nothing if that is nothing.
    fn drop(&mut self) {
        if self.is_whole {
            return;
        }
        let Ok(Some(recorded)) = Recorded::read(&self.staging) else {
            return;
        };
        let entries = self.staging.read_dir().into_iter().flatten().flatten();
        let kept = entries.filter(|entry| {
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            name != record::NAME && !recorded.is_fragment(name)
        });
        if kept.count() == 0 {
            // The error that led here is the one to report.
            let _ = clear(&self.staging, &self.goal, false);
            let _ = fs::remove_dir(&self.staging);
        } else {
            self.parents.keep();
        }
    }
}

/// Folders that were made for another, and go away again if nothing comes of it.
#[derive(Default)]
struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Makes those above a path that are not there.
    fn above(path: &Path) -> Result<Self> {
        let mut missing: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .take_while(|path| !path.exists())
            .collect();
        missing.retain(|path| !path.as_os_str().is_empty());
        let mut made = Self::default();
        for folder in missing.into_iter().rev() {
            fs::create_dir(folder).map_err(Error::io(folder, "create the folder"))?;
            made.0.push(folder.to_owned());
        }
        Ok(made)
    }

    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // Not if something is in it by now.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Opens a folder, no link, and locks it.
fn locked(path: &Path) -> Result<File> {
    let kind = path.symlink_metadata().map_err(Error::io(path, "open"))?;
    if !kind.is_dir() {
        let expected = "nothing, or a folder that parity left unfinished";
        let found = if kind.is_symlink() {
            "a link"
        } else {
            "a file"
        };
        return Err(BadInput::new(path, expected, found)
            .remedy("move it away, or name another output")
            .into());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty());
    let folder = File::from(folder.map_err(|e| Error::io(path, "open")(e.into()))?);
    // A disk may have no locks; then two runs meet at the names of files.
    if let Err(fs::TryLockError::WouldBlock) = folder.try_lock() {
        return Err(BadInput::new(path, BUSY, "one").into());
    }
    // The one that was locked may have become a goal meanwhile.
    let now = path.symlink_metadata();
    let mine = folder.metadata().map_err(Error::io(path, "read"))?;
    if !now.is_ok_and(|now| same(&now, &mine)) {
        return Err(BadInput::new(path, BUSY, "one that has just finished").into());
    }
    Ok(folder)
}

/// Removes what this program made in an unfinished folder: all, or what is of no use to a run that goes on.
///
/// # Errors
/// If there is anything that it did not make; nothing is removed then.
fn clear(staging: &Path, goal: &Path, goes_on: bool) -> Result<()> {
    let recorded = Recorded::read(staging)?;
    let mut removed = Vec::new();
    for entry in staging.read_dir().map_err(Error::io(staging, "list"))? {
        let path = entry.map_err(Error::io(staging, "list"))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let kind = path.symlink_metadata().map_err(Error::io(&path, "read"))?;
        let is_ours = !kind.is_dir()
            && (name == record::NAME
                || recorded
                    .as_ref()
                    .is_some_and(|recorded| recorded.names(name)));
        if is_ours {
            let is_fragment = recorded
                .as_ref()
                .is_some_and(|recorded| recorded.is_fragment(name));
            if !goes_on || is_fragment {
                removed.push(path);
            }
        } else if is_linked(&path, &goal.join(name))? {
            removed.push(path);
        } else {
            let expected = "nothing but what parity made";
            let fault = BadInput::new(path, expected, "something else");
            return Err(fault.remedy("move it away, or name another output").into());
        }
    }
    // The record last: what it names is ours as long as it is there.
    removed.sort_by_key(|path| path.file_name() == Some(record::NAME.as_ref()));
    removed.iter().try_for_each(|path| remove(path))
}

/// Whether all of a path is linked to another as well, so that removing it loses nothing.
fn is_linked(path: &Path, other: &Path) -> Result<bool> {
    let kind = path.symlink_metadata().map_err(Error::io(path, "read"))?;
    let Ok(theirs) = other.symlink_metadata() else {
        return Ok(false);
    };
    if !kind.is_dir() {
        return Ok(same(&kind, &theirs));
    }
    for entry in path.read_dir().map_err(Error::io(path, "list"))? {
        let entry = entry.map_err(Error::io(path, "list"))?;
        if !is_linked(&entry.path(), &other.join(entry.file_name()))? {
            return Ok(false);
        }
    }
    Ok(theirs.is_dir())
}

/// Removes a file, or a folder and what is in it, following no link.
fn remove(path: &Path) -> Result<()> {
    let kind = path.symlink_metadata().map_err(Error::io(path, "read"))?;
    let removed = if kind.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(Error::io(path, "remove"))
}

/// Links what is in one folder into another, folder by folder: what `stays` says of the first one's own entries, and
/// all below. What is linked already is.
fn link(from: &Path, to: &Path, stays: &dyn Fn(&Path, &Metadata) -> bool) -> Result<()> {
    for entry in from.read_dir().map_err(Error::io(from, "list"))? {
        let entry = entry.map_err(Error::io(from, "list"))?;
        let (name, path) = (entry.file_name(), entry.path());
        let kind = path.symlink_metadata().map_err(Error::io(&path, "read"))?;
        if name == record::NAME || !stays(Path::new(&name), &kind) {
            continue;
        }
        let to = to.join(&name);
        if kind.is_dir() {
            match fs::create_dir(&to) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => made.map_err(Error::io(&to, "create the folder"))?,
            }
            link(&path, &to, &|_, _| true)?;
        } else {
            match fs::hard_link(&path, &to) {
                Err(error)
                    if error.kind() == ErrorKind::AlreadyExists && is_linked(&to, &path)? => {}
                linked => linked.map_err(Error::io(&to, "link"))?,
            }
        }
    }
    Ok(())
}

/// Removes the folder that was replaced: what is linked into the new one, or was replaced in it. What is neither has
/// come since, and moves.
fn remove_replaced(old: &Path, goal: &Path, names: &BTreeSet<String>) -> Result<()> {
    for entry in old.read_dir().map_err(Error::io(old, "list"))? {
        let entry = entry.map_err(Error::io(old, "list"))?;
        let (path, name) = (entry.path(), entry.file_name());
        let text = name.to_str().unwrap_or_default();
        let kind = path.symlink_metadata().map_err(Error::io(&path, "read"))?;
        let is_replaced = !kind.is_dir() && names.contains(text);
        if is_replaced || is_linked(&path, &goal.join(&name))? {
            remove(&path)?;
        } else {
            place(&path, &goal.join(&name))?;
        }
    }
    fs::remove_dir(old).map_err(Error::io(old, "remove"))
}

/// Renames to a name that is free, or that an empty folder has.
fn place(from: &Path, to: &Path) -> Result<()> {
    let cwd = rustix::fs::CWD;
    let renamed = match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        // A file system without it, or an empty folder, which rename replaces and nothing else.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::EXIST)
            if from.is_dir() =>
        {
            fs::rename(from, to)
        }
        renamed => renamed.map_err(Into::into),
    };
    renamed.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory => {
            occupied(to)
        }
        _ => Error::io(to, "create the folder")(error),
    })
}

fn occupied(goal: &Path) -> Error {
    let found = "something that appeared while it was written";
    let fault = BadInput::new(goal, "a name that is free", found);
    fault
        .remedy("move it away and run again: what is written is kept")
        .into()
}

/// Lets two folders change places.
fn exchange(staging: &Path, goal: &Path) -> Result<()> {
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, staging, cwd, goal, RenameFlags::EXCHANGE).map_err(|error| {
        match error {
            rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS => {
                let expected = "a disk on which a folder can take the place of another at once";
                let fault = BadInput::new(goal, expected, "one on which it cannot");
                fault.remedy("write to a new folder").into()
            }
            error => Error::io(goal, "replace")(error.into()),
        }
    })
}

/// Removes the record, the last thing to do: the folder is its owner's then.
fn forget_record(goal: &Path) -> Result<()> {
    for folder in [Some(goal), goal.parent()].into_iter().flatten() {
        // One that may not be read, or a system that syncs no folders, is no fault of what is there.
        let Ok(opened) = File::open(folder) else {
            continue;
        };
        match opened.sync_all() {
            Err(error) if error.kind() != ErrorKind::InvalidInput => {
                return Err(Error::io(folder, "sync")(error));
            }
            _ => {}
        }
    }
    let path = goal.join(record::NAME);
    fs::remove_file(&path).map_err(Error::io(&path, "remove"))
}

fn check_goal(goal: &Path, names: &[String], existing: Existing) -> Result<()> {
    let Ok(kind) = goal.metadata() else {
        return Ok(());
    };
    if !kind.is_dir() {
        return Err(BadInput::new(goal, "a folder to write", "a file").into());
    }
    let mut entries = goal.read_dir().map_err(Error::io(goal, "list"))?;
    if let Existing::Refused(remedy) = existing
        && entries.next().is_some()
    {
        let fault = BadInput::new(goal, "a new or empty folder", "one with files in it");
        return Err(fault.remedy(remedy).into());
    }
    for name in names {
        let path = goal.join(name);
        if path.symlink_metadata().is_ok_and(|kind| kind.is_dir()) {
            let fault = BadInput::new(path, "a file that is replaced, or nothing", "a folder");
            return Err(fault.remedy("move it away").into());
        }
    }
    Ok(())
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}
