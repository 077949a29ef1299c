//! Dumps: tensors by name, of any model, wherever they lie.
//!
//! A golden, a folder of raw dumps, `.npy`, `.npz`, `.safetensors` and `.pt` files or a folder of them: each is a
//! list of names, in the order of recording where that is known, and a way to each tensor. What a container is
//! read by is in a file of its own; nothing else knows them apart.

mod folder;
mod golden;
mod matching;
mod numpy;
mod order;
mod safetensors;
mod sglang;
mod torch;

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
    load: Load,
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
            load: Box::new(load),
        }
    }

    fn known(self, (dtype, shape): (String, Vec<usize>)) -> Self {
        Self {
            known: Some((dtype, shape)),
            ..self
        }
    }

    /// Its type and shape; read where no header says.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn header(&self) -> Result<(String, Vec<usize>)> {
        match &self.known {
            Some(known) => Ok(known.clone()),
            None => {
                let value = self.load()?;
                Ok((value.dtype().to_string(), value.shape().to_vec()))
            }
        }
    }

    /// Reads it; mapped where the container can.
    ///
    /// # Errors
    /// If it is malformed, or of no type that parity knows.
    pub fn load(&self) -> Result<Tensor> {
        (self.load)()
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
