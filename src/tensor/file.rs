//! Files, mapped.

use crate::error::{BadInput, Error, Result};
use memmap2::{Mmap, MmapMut};
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A whole file mapped read-only, shared by all arrays that lie in it.
#[derive(Clone)]
pub struct MappedFile {
    path: Arc<Path>,
    map: Arc<Mmap>,
}

impl MappedFile {
    /// Maps a regular file. Costs no memory until bytes are looked at.
    ///
    /// # Errors
    /// If the file is missing, unreadable or not a regular file (a pipe would block for ever).
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let kind = path.metadata().map_err(Error::io(&path, "open"))?;
        if !kind.is_file() {
            let found = if kind.is_dir() {
                "a folder"
            } else {
                "no regular file"
            };
            return Err(BadInput::new(path, "a file", found).into());
        }
        let file = File::open(&path).map_err(Error::io(&path, "open"))?;
        // SAFETY: the map is read-only and private to this process. Another process that truncates
        // the file while it is mapped makes reads beyond its new end fault; the documentation says
        // that goldens and checkpoints must not change during a run.
        #[expect(unsafe_code, reason = "the only place where files are mapped")]
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path, "map"))?;
        Ok(Self {
            path: path.into(),
            map: Arc::new(map),
        })
    }

    /// Bytes as a file of this name has them, without the file.
    ///
    /// # Errors
    /// If the system gives no memory.
    pub fn in_memory(path: impl Into<PathBuf>, bytes: &[u8]) -> Result<Self> {
        let path = path.into();
        let map = MmapMut::map_anon(bytes.len()).and_then(|mut map| {
            map.copy_from_slice(bytes);
            map.make_read_only()
        });
        let map = map.map_err(Error::io(&path, "map"))?;
        Ok(Self {
            path: path.into(),
            map: Arc::new(map),
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
