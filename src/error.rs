//! The one error type of the library.
//!
//! Whatever is wrong with an input is said the same way: which file, where in it, what was
//! expected, what was found and what to do. The cases differ only where a caller acts
//! differently: the command line turns [`Error::DeviceUnavailable`] into exit code 3 and
//! everything else into 2.

use crate::words;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What `parity`'s fallible functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a run could not give a verdict.
///
/// A model that differs from its reference is not an error: it is a verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, or a value in it, is not what it has to be.
    #[error(transparent)]
    BadInput(Box<BadInput>),
    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {reason}", shown(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as a verb phrase: "open", "create the folder".
        action: &'static str,
        /// The system's reason.
        reason: io::Error,
    },
    /// The device asked for is not there.
    #[error("{device}: {}", words::sentence(reason))]
    DeviceUnavailable {
        /// The device as the user names it.
        device: String,
        /// What is missing.
        reason: String,
    },
    /// A backend was given a step whose numerics it does not implement.
    #[error("{}: {backend} does not implement {what}", words::name(step))]
    Unsupported {
        /// The step's id.
        step: String,
        /// The backend's name.
        backend: &'static str,
        /// The operation or the numerics it lacks.
        what: String,
    },
    /// Two arrays, or an array and an operation, do not fit together.
    #[error(
        "{}: expected {}, found {}",
        words::name(at),
        words::sentence(expected),
        words::sentence(found)
    )]
    Mismatch {
        /// The stage or tensor.
        at: String,
        /// What would have fitted.
        expected: String,
        /// What there was.
        found: String,
    },
}

impl Error {
    /// An [`Error::Io`], for use with `map_err`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |reason| Self::Io {
            path: path.to_owned(),
            action,
            reason,
        }
    }

    /// Names the step at which a device failed.
    pub(crate) fn at_step(self, step: &str) -> Self {
        match self {
            Self::DeviceUnavailable { device, reason } => Self::DeviceUnavailable {
                device,
                reason: format!("{step}: {reason}"),
            },
            other => other,
        }
    }

    /// Names the file whose contents an [`Error::Mismatch`] is about.
    pub(crate) fn in_file(self, path: impl Into<PathBuf>) -> Self {
        match self {
            Self::Mismatch {
                expected, found, ..
            } => BadInput::new(path, expected, found).into(),
            other => other,
        }
    }
}

/// The first of some things, and how many more there are: `a, b and 3 more`.
pub(crate) fn listed(all: &[impl fmt::Display], most: usize) -> String {
    let names: Vec<String> = all.iter().take(most).map(ToString::to_string).collect();
    let more = match all.len().saturating_sub(most) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.join(", ") + &more
}

impl From<BadInput> for Error {
    fn from(bad: BadInput) -> Self {
        Self::BadInput(Box::new(bad))
    }
}

/// One fault in one input: `file: at: expected …, found …; remedy`.
#[derive(Debug)]
pub struct BadInput {
    file: PathBuf,
    at: Option<String>,
    expected: String,
    found: String,
    remedy: Option<String>,
}

impl BadInput {
    /// A fault in `file`.
    pub fn new(
        file: impl Into<PathBuf>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            file: file.into(),
            at: None,
            expected: expected.into(),
            found: found.into(),
            remedy: None,
        }
    }

    /// Says where in the file: a key, a tensor, a line.
    #[must_use]
    pub fn at(mut self, at: impl Into<String>) -> Self {
        self.at = Some(at.into());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The file at fault.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", shown(&self.file))?;
        if let Some(at) = &self.at {
            write!(f, "{}: ", words::name(at))?;
        }
        let (expected, found) = (&self.expected, &self.found);
        let [expected, found] = [expected, found].map(|text| words::sentence(text));
        write!(f, "expected {expected}, found {found}")?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {}", words::sentence(remedy)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for BadInput {}

/// A path on one line.
fn shown(path: &Path) -> String {
    words::sentence(&path.to_string_lossy()).to_string()
}
