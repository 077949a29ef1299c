//! One file.

use super::value::Pickle;
use super::{Node, TensorRecord, archive, legacy};
use crate::error::{BadInput, Error, Result};
use crate::tensor::{MappedFile, Strided};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file as `torch.save` writes it, or a part of one. Opening it reads the pickle; tensors stay
/// mapped.
pub struct TorchFile {
    file: MappedFile,
    pickle: Pickle,
    storages: BTreeMap<String, Range<usize>>,
}

impl TorchFile {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be read, or is neither a zip nor a legacy file of torch.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let whole = 0..file.len();
        Self::from_mapped(file, whole)
    }

    /// Opens a part of a mapped file that is a whole file of torch.
    ///
    /// # Errors
    /// As [`Self::open`], and if the part is not in the file.
    pub fn from_mapped(file: MappedFile, part: Range<usize>) -> Result<Self> {
        let Some(bytes) = file.get(part.clone()) else {
            let expected = format!("bytes {} to {}", part.start, part.end);
            let found = format!("{} bytes", file.len());
            return Err(BadInput::new(file.path(), expected, found).into());
        };
        if bytes.starts_with(legacy::MAGIC) {
            let legacy::Contents { pickle, storages } = legacy::contents(&file, &part)?;
            return Ok(Self {
                file,
                pickle,
                storages,
            });
        }
        if !bytes.starts_with(archive::MAGIC) {
            let expected = "a file that torch.save has written (zip or legacy)";
            let found = match bytes.len() {
                0 => "an empty one".to_owned(),
                _ => format!("one that begins with {:02x?}", &bytes[..bytes.len().min(4)]),
            };
            return Err(BadInput::new(file.path(), expected, found).into());
        }
        let archive::Members { pickle, storages } = archive::members(&file, &part)?;
        let (start, bytes) = (pickle.start, &file[pickle]);
        let (pickle, _) = Pickle::read(bytes).map_err(|e| {
            let fault = BadInput::new(file.path(), e.expected, e.found);
            fault.at(format!("byte {} (in data.pkl)", start + e.at))
        })?;
        Ok(Self {
            file,
            pickle,
            storages,
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What was saved.
    pub fn root(&self) -> Node<'_> {
        self.pickle.root()
    }

    /// The elements of a tensor, in place. `name` is for messages.
    ///
    /// # Errors
    /// If its storage type is none of ours, its storage is missing or shorter than the pickle says,
    /// or an element lies outside the storage.
    pub fn strided(&self, name: &str, record: &TensorRecord<'_>) -> Result<Strided> {
        let fault = |expected: String, found: String| -> Error {
            BadInput::new(self.path(), expected, found).at(name).into()
        };
        let dtype = record.dtype().map_err(|other| {
            fault(
                "a tensor of floats, integers or booleans".into(),
                other.to_owned(),
            )
        })?;
        if let Some(bit) = record.deferred {
            let expected = "a tensor whose values are in the file";
            let found = format!("one that torch has yet to change (its {bit} bit is set)");
            let remedy = format!("save it after .resolve_{bit}()");
            let fault = BadInput::new(self.path(), expected, found).at(name);
            return Err(fault.remedy(remedy).into());
        }
        let key = record.storage.key;
        let Some(range) = self.storages.get(key) else {
            return Err(fault(format!("the storage {key:?}"), "none".into()));
        };
        let (first, elements) = (record.storage.first, record.storage.elements);
        let bytes = |elements: usize| elements.checked_mul(dtype.size());
        // An untyped storage counts bytes.
        let held = if record.storage.kind == record.kind {
            bytes(elements)
        } else {
            Some(elements)
        };
        let part = bytes(first).zip(held).and_then(|(first, held)| {
            let start = range.start.checked_add(first)?;
            let end = start.checked_add(held)?;
            (end <= range.end).then_some(start..end)
        });
        let Some(part) = part else {
            let expected = format!("{elements} elements of {dtype} in the storage {key:?}");
            return Err(fault(expected, format!("{} bytes", range.len())));
        };
        // A stride of 0 repeats elements; a tensor is not believed to be larger than its file.
        let size = record
            .shape
            .iter()
            .try_fold(dtype.size(), |n, e| n.checked_mul(*e));
        if size.is_none_or(|size| size > self.file.len()) {
            let expected = format!(
                "a tensor no larger than the file, {} bytes",
                self.file.len()
            );
            return Err(fault(expected, format!("shape {:?}", record.shape)));
        }
        let (shape, strides) = (&record.shape, &record.strides);
        Strided::new(dtype, &self.file, part, record.offset, shape, strides).map_err(|e| match e {
            Error::Mismatch {
                expected, found, ..
            } => fault(expected, found),
            other => other,
        })
    }
}
