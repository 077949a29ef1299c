//! The files that are mapped: what they were when they were opened.
//!
//! A mapped file is read when its bytes are looked at, so one that another process writes to gives a mixture of old and
//! new values, and one that it cuts short a fault in place of a value. Neither becomes a verdict: whoever prints one
//! asks first whether the files are still those that were opened ([`unchanged`]), and the fault ends the process with a
//! sentence that names the file (`file.rs`).

use crate::error::{BadInput, Result};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

static ALL: Mutex<All> = Mutex::new(All {
    files: BTreeMap::new(),
    maps: BTreeMap::new(),
});

struct All {
    /// What each file was when it was opened first.
    files: BTreeMap<Arc<Path>, Stamp>,
    /// Which file is mapped at an address, and how many bytes of it.
    maps: BTreeMap<usize, (usize, Arc<Path>)>,
}

/// What changes when a file does. Not its number: some file systems make up another whenever they are asked.
#[derive(PartialEq)]
struct Stamp {
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Takes note of a file that is mapped.
pub(super) fn note(path: &Arc<Path>, file: &File, map: &[u8]) -> io::Result<()> {
    let stamp = Stamp::of(&file.metadata()?);
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.files.entry(Arc::clone(path)).or_insert(stamp);
    let place = (map.len(), Arc::clone(path));
    all.maps.insert(map.as_ptr().addr(), place);
    Ok(())
}

/// Whether every file that was mapped so far is what it was then. Those are forgotten.
///
/// # Errors
/// The first that was written to, replaced or removed.
pub(crate) fn unchanged() -> Result<()> {
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let files = std::mem::take(&mut all.files);
    files
        .iter()
        .try_for_each(|(path, stamp)| check(path, stamp))
}

/// As [`unchanged`], of the files in a folder.
///
/// # Errors
/// As [`unchanged`].
pub(crate) fn unchanged_in(folder: &Path) -> Result<()> {
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let files = std::mem::take(&mut all.files);
    let (below, others) = files
        .into_iter()
        .partition(|(path, _)| path.starts_with(folder));
    let below: BTreeMap<_, _> = below;
    all.files = others;
    below
        .iter()
        .try_for_each(|(path, stamp)| check(path, stamp))
}

/// Forgets the files in a folder: what this process wrote itself, and moves.
pub(crate) fn forget_in(folder: &Path) {
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.files.retain(|path, _| !path.starts_with(folder));
}

fn check(path: &Path, stamp: &Stamp) -> Result<()> {
    let now = path.metadata().map(|metadata| Stamp::of(&metadata));
    if now.is_ok_and(|now| now == *stamp) {
        return Ok(());
    }
    let expected = "a file that nothing writes to while it is read";
    let fault = BadInput::new(path, expected, "one that changed");
    let remedy = "run again when it is written, or on a copy";
    Err(fault.remedy(remedy).into())
}

/// Calls `with` with the path of the file that is mapped at an address, if that can be found without waiting: this is
/// asked in a signal handler.
pub(super) fn at(address: usize, with: impl FnOnce(&Path)) {
    let all = match ALL.try_lock() {
        Ok(all) => all,
        Err(TryLockError::Poisoned(all)) => all.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    // The last page goes beyond the end.
    const PAGE: usize = 1 << 16;
    if let Some((start, (len, path))) = all.maps.range(..=address).next_back()
        && address - start < len.next_multiple_of(PAGE)
    {
        with(path);
    }
}
