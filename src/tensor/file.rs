//! Files, mapped.

use super::opened;
use crate::error::{BadInput, Error, Result};
use crate::memory::{self, Held};
use memmap2::{Mmap, MmapMut};
use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Up to this size a file is read when it is opened: what is checked of it and what is made of it are the same bytes,
/// whatever becomes of the file.
const READ: u64 = 1 << 20;

/// A whole file mapped read-only, or read if it is small, shared by all arrays that lie in it.
#[derive(Clone)]
pub struct MappedFile {
    path: Arc<Path>,
    map: Arc<Map>,
}

struct Map {
    bytes: Mmap,
    /// Of a file that was read, not mapped.
    _held: Option<Held>,
}

impl MappedFile {
    /// Opens a regular file. Mapped, it costs no memory until bytes are looked at.
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
        let mut file = File::open(&path).map_err(Error::io(&path, "open"))?;
        if kind.len() <= READ {
            // Beyond that it grew since.
            let mut bytes = Vec::with_capacity(kind.len() as usize);
            let read = (&mut file).take(READ + 1).read_to_end(&mut bytes);
            read.map_err(Error::io(&path, "read"))?;
            if bytes.len() as u64 <= READ {
                return Self::in_memory(path, &bytes);
            }
        }
        let path: Arc<Path> = path.into();
        // SAFETY: the map is read-only and private to this process. Another process that truncates
        // the file while it is mapped makes reads beyond its new end fault, which ends this one
        // (`end_where_files_are_cut_short`); one that writes to it changes bytes that are numbers,
        // whatever they are, and shows in `opened::unchanged` before anything is made of them.
        #[expect(unsafe_code, reason = "the only place where files are mapped")]
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path, "map"))?;
        opened::note(&path, &file, &map).map_err(Error::io(&path, "read"))?;
        Ok(Self {
            path,
            map: Arc::new(Map {
                bytes: map,
                _held: None,
            }),
        })
    }

    /// Bytes as a file of this name has them, without the file.
    ///
    /// # Errors
    /// If the system gives no memory.
    pub fn in_memory(path: impl Into<PathBuf>, bytes: &[u8]) -> Result<Self> {
        let path = path.into();
        memory::allow(&path, "its bytes", bytes.len() as u128)?;
        let map = MmapMut::map_anon(bytes.len()).and_then(|mut map| {
            map.copy_from_slice(bytes);
            map.make_read_only()
        });
        let map = map.map_err(Error::io(&path, "map"))?;
        Ok(Self {
            path: path.into(),
            map: Arc::new(Map {
                bytes: map,
                _held: Some(Held::new(bytes.len())),
            }),
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a fault on a file that was cut short while it is mapped a sentence and exit code 2, in place of a signal. For
/// programs: a library leaves signals alone.
pub(crate) fn end_where_files_are_cut_short() {
    /// Writes to standard error what can be written; controls as `?`.
    fn write(bytes: &[u8]) {
        let mut line = [0; 256];
        for bytes in bytes.chunks(line.len()) {
            let shown = &mut line[..bytes.len()];
            for (shown, byte) in shown.iter_mut().zip(bytes) {
                *shown = if byte.is_ascii_control() { b'?' } else { *byte };
            }
            let _ = rustix::io::write(rustix::stdio::stderr(), shown);
        }
    }
    let end = |info: &libc::siginfo_t| {
        // SAFETY: the signal is SIGBUS, whose information holds an address.
        #[expect(unsafe_code, reason = "it names the file")]
        let address = unsafe { info.si_addr() };
        write(b"error: ");
        opened::at(address.addr(), |path| {
            write(path.as_os_str().as_bytes());
            write(b": ");
        });
        write(b"expected a file as long as it was when it was opened, found it cut short; run again when it is written");
        let _ = rustix::io::write(rustix::stdio::stderr(), b"\n");
        // SAFETY: it ends the process, and runs nothing of it.
        #[expect(unsafe_code, reason = "exit runs more")]
        unsafe {
            libc::_exit(2)
        }
    };
    // SAFETY: the handler calls write and _exit, which may be called in one, and takes a lock only if it is free. Were
    // registering to fail, the fault would end the process as ever.
    #[expect(unsafe_code, reason = "signal handlers are")]
    let _ = unsafe { signal_hook_registry::register_sigaction(libc::SIGBUS, end) };
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map.bytes
    }
}
