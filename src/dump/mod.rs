//! Dumps: tensors by name, of any model, wherever they lie.
//!
//! A golden, a folder of raw dumps, `.npy`, `.npz`, `.safetensors` and `.pt` files or a folder of them: each is a
//! list of names, in the order of recording where that is known, and a way to each tensor. What a container is
//! read by is in a file of its own; nothing else knows them apart.

mod alike;
mod folder;
mod golden;
mod matching;
mod numpy;
mod order;
mod ranks;
mod safetensors;
mod sglang;
mod torch;

pub use alike::Alike;
pub(crate) use alike::{PADDED, unpadded};
pub use matching::{NameMap, Pairs};

use crate::error::{BadInput, Error, Result};
use crate::golden::Golden;
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Most tensors believed.
const MOST: usize = 1_000_000;

/// Reads a tensor.
type Load = Box<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// Tensors by name, in the order of recording where that is known.
pub struct Dump {
    path: PathBuf,
    kind: &'static str,
    tensors: Vec<Dumped>,
    /// What a reader should know: what is in it and cannot be compared.
    notes: Vec<String>,
}

/// A tensor of a dump.
pub struct Dumped {
    /// Its name.
    pub name: String,
    /// What it goes by besides: the module that a golden's stage was dumped from.
    pub alias: Option<String>,
    /// Its type, as its container spells it, and its shape, if the container's header says.
    known: Option<(String, Vec<usize>)>,
    /// Of every rank that holds it.
    parts: Vec<Load>,
}

impl Dumped {
    fn new(
        name: impl Into<String>,
        load: impl Fn() -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            alias: None,
            known: None,
            parts: vec![Box::new(load)],
        }
    }

    fn known(self, (dtype, shape): (String, Vec<usize>)) -> Self {
        Self {
            known: Some((dtype, shape)),
            ..self
        }
    }

    /// How many ranks hold it, or a part of it.
    pub fn ranks(&self) -> usize {
        self.parts.len()
    }

    /// Its type and shape, of the first rank; read where no header says.
    ///
    /// # Errors
    /// If it is malformed, or of no type that parity knows.
    pub fn header(&self) -> Result<(String, Vec<usize>)> {
        match &self.known {
            Some(known) => Ok(known.clone()),
            None => {
                let value = (self.parts[0])()?;
                Ok((value.dtype().to_string(), value.shape().to_vec()))
            }
        }
    }

    /// Reads it; mapped where the container can.
    ///
    /// # Errors
    /// If it is malformed, or of no type that parity knows; or if ranks hold parts of it, whose axis nothing says.
    pub fn load(&self) -> Result<Tensor> {
        match self.apart()?.as_slice() {
            [only] => Ok(only.clone()),
            parts => Err(Error::Mismatch {
                at: self.name.clone(),
                expected: "the same on all ranks".into(),
                found: format!("parts of {}", parts.len()),
            }),
        }
    }

    /// What the ranks hold: one tensor where it is the same on all.
    ///
    /// # Errors
    /// If it is malformed, or of no type that parity knows.
    fn apart(&self) -> Result<Vec<Tensor>> {
        let mut parts: Vec<Tensor> = self
            .parts
            .iter()
            .map(|load| load())
            .collect::<Result<_>>()?;
        if parts[1..].iter().all(|part| part.bits_equal(&parts[0])) {
            parts.truncate(1);
        }
        Ok(parts)
    }

    /// Reads this tensor and another that is to be compared with it, whole and in one shape, as shapes and values say.
    /// Else why they cannot be.
    ///
    /// # Errors
    /// As [`Self::header`].
    pub fn load_with(&self, other: &Self) -> Result<std::result::Result<Alike, String>> {
        alike::alike([self, other])
    }
}

impl Dump {
    /// Opens whatever holds tensors; none is read.
    ///
    /// # Errors
    /// If there is nothing, it is malformed, holds no tensor, or two of one name.
    pub fn open(path: &Path) -> Result<Self> {
        let kind = path.metadata().map_err(Error::io(path, "open"))?;
        let dump = if Golden::recognises(path) {
            golden::open(path)?
        } else if kind.is_dir() {
            folder::open(path)?
        } else {
            Self::file(path)?
        };
        dump.checked()
    }

    /// The files of tensors in a folder, whatever else it is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn files(folder: &Path) -> Result<Self> {
        folder::open(folder)?.checked()
    }

    /// Opens a file by its ending.
    fn file(path: &Path) -> Result<Self> {
        match ending(path) {
            Some("npy") => numpy::array(path),
            Some("npz") => numpy::archive(path),
            Some("safetensors") => safetensors::open(path),
            Some(ending) if torch::ENDINGS.contains(&ending) => torch::open(path),
            _ => {
                let expected = "a .npy, .npz, .safetensors or .pt file, or a folder of them";
                let found = path.file_name().unwrap_or_default().to_string_lossy();
                Err(BadInput::new(path, expected, found).into())
            }
        }
    }

    fn new(path: &Path, kind: &'static str, tensors: Vec<Dumped>) -> Self {
        Self {
            path: path.to_owned(),
            kind,
            tensors,
            notes: Vec::new(),
        }
    }

    fn checked(self) -> Result<Self> {
        if self.tensors.is_empty() {
            return Err(BadInput::new(&self.path, "a tensor at least", "none").into());
        }
        if self.tensors.len() > MOST {
            let expected = format!("at most {MOST} tensors");
            return Err(BadInput::new(&self.path, expected, self.tensors.len().to_string()).into());
        }
        let mut seen = BTreeMap::new();
        for tensor in &self.tensors {
            if seen.insert(&tensor.name, ()).is_some() {
                let fault = BadInput::new(&self.path, "every name once", "it twice");
                return Err(fault.at(&tensor.name).into());
            }
        }
        Ok(self)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tensors, in order.
    pub fn tensors(&self) -> &[Dumped] {
        &self.tensors
    }

    /// What a reader should know of it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path.display())
    }
}

fn ending(path: &Path) -> Option<&str> {
    path.extension().and_then(|ending| ending.to_str())
}

/// A file's name without its ending.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}
