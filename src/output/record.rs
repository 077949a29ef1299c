//! The record of what this program made in a folder: each name is written down before the file is made.

use crate::error::{BadInput, Error, Result};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The record's file.
pub(super) const NAME: &str = ".parity-output";
/// The beginning of its first line; what the folder is the result of follows.
const FIRST: &str = "made by parity: ";
/// Largest record believed.
const MAX_BYTES: u64 = 64 << 20;

/// What a record says.
pub(super) struct Recorded {
    pub(super) fingerprint: String,
    names: BTreeSet<String>,
}

impl Recorded {
    /// Reads a folder's record; `None` if there is none, or one that was being made.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(NAME);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file = match file {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io(&path, "open"))?,
        };
        let kind = file.metadata().map_err(Error::io(&path, "read"))?;
        let fault = |found: &str| BadInput::new(&path, "a record of what parity made", found);
        if !kind.is_file() || kind.len() > MAX_BYTES {
            return Err(fault("another file").into());
        }
        let mut text = String::new();
        let read = file.take(MAX_BYTES).read_to_string(&mut text);
        read.map_err(Error::io(&path, "read"))?;
        // A name whose line has no end was not made yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        let Some(first) = lines.next() else {
            return Ok(None);
        };
        let Some(fingerprint) = first.strip_prefix(FIRST) else {
            return Err(fault("another file").into());
        };
        Ok(Some(Self {
            fingerprint: fingerprint.to_owned(),
            names: lines.map(str::to_owned).collect(),
        }))
    }

    /// Whether this program made an entry of this name: one that is recorded, or what is left of one being written.
    pub(super) fn names(&self, entry: &str) -> bool {
        entry == NAME || self.names.contains(entry) || self.is_fragment(entry)
    }

    /// Whether an entry is what is left of a file that was being written.
    pub(super) fn is_fragment(&self, entry: &str) -> bool {
        super::file::complete(entry).is_some_and(|name| self.names.contains(name))
    }
}

/// A record that is being written.
pub(super) struct Record {
    path: PathBuf,
    file: File,
    names: Mutex<BTreeSet<String>>,
}

impl Record {
    /// Begins one, or goes on with one of the same fingerprint.
    pub(super) fn open(folder: &Path, fingerprint: &str, before: Option<Recorded>) -> Result<Self> {
        let path = folder.join(NAME);
        let mut options = OpenOptions::new();
        options.append(true).custom_flags(libc::O_NOFOLLOW);
        let goes_on = before.is_some();
        let mut file = options
            .create_new(!goes_on)
            .open(&path)
            .map_err(Error::io(&path, "create"))?;
        if !goes_on {
            let first = format!("{FIRST}{fingerprint}\n");
            let written = file
                .write_all(first.as_bytes())
                .and_then(|()| file.sync_all());
            written.map_err(Error::io(&path, "write"))?;
        }
        let names = before.map(|before| before.names).unwrap_or_default();
        Ok(Self {
            path,
            file,
            names: Mutex::new(names),
        })
    }

    /// Writes a name down, unless it is there.
    pub(super) fn add(&self, name: &str) -> Result<()> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.insert(name.to_owned()) {
            let line = format!("{name}\n");
            let written = (&self.file).write_all(line.as_bytes());
            written.map_err(Error::io(&self.path, "write"))?;
        }
        Ok(())
    }

    /// The names so far.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
