//! Weights as `save_pretrained` writes them: `model.safetensors`, or shards that
//! `model.safetensors.index.json` lists.

use super::folder::{Names, WeightFile, twice};
use super::{Stored, Weights};
use crate::error::{BadInput, Result};
use crate::tensor::{DType, MappedFile, Tensor};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

/// The weight files of a folder: every tensor by its full name, mapped.
pub struct SafetensorsFiles {
    folder: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
}

struct Entry {
    stored: Stored,
    file: usize,
    range: Range<usize>,
}

impl SafetensorsFiles {
    /// Reads the headers of all weight files; no weights yet.
    ///
    /// # Errors
    /// If a file is missing or malformed, lacks what the index places in it, two have a tensor of one name, or
    /// one is stored in a type that no model has.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let Some(listed) = Names::SAFETENSORS.find(&folder)? else {
            return Err(Names::missing(&folder));
        };
        Self::of(folder, listed)
    }

    pub(super) fn of(folder: PathBuf, listed: Vec<WeightFile>) -> Result<Self> {
        let mut files: Vec<MappedFile> = Vec::new();
        let mut tensors: BTreeMap<String, Entry> = BTreeMap::new();
        for listed in listed {
            let file = MappedFile::open(&listed.path)?;
            let found = read_header(&file, files.len())?;
            listed.check(found.keys().map(String::as_str))?;
            for (name, entry) in found {
                if let Some(other) = tensors.get(&name) {
                    return Err(twice(&name, files[other.file].path(), file.path()));
                }
                tensors.insert(name, entry);
            }
            files.push(file);
        }
        Ok(Self {
            folder,
            files,
            tensors,
        })
    }
}

impl Weights for SafetensorsFiles {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        self.tensors.get(name).map(|entry| entry.stored.clone())
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(BadInput::new(&self.folder, format!("the tensor {name}"), "none").into());
        };
        let Stored { dtype, shape, .. } = &entry.stored;
        Tensor::from_mapped(*dtype, shape, &self.files[entry.file], entry.range.clone())
    }
}

/// What a header says of a tensor.
pub(crate) struct Header {
    pub(crate) name: String,
    /// Its type, as the format spells it: parity may know none of this name.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub(crate) range: Range<usize>,
}

/// The headers of all tensors in a file.
///
/// # Errors
/// If it is no safetensors file.
pub(crate) fn headers(file: &MappedFile) -> Result<Vec<Header>> {
    let (length, metadata) = SafeTensors::read_metadata(file)
        .map_err(|e| BadInput::new(file.path(), "a safetensors file", e.to_string()))?;
    // After the length of the header and the header itself.
    let start = length + size_of::<u64>();
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let (begin, end) = info.data_offsets;
        Header {
            name,
            dtype: info.dtype.to_string(),
            shape: info.shape.clone(),
            range: start + begin..start + end,
        }
    });
    Ok(tensors.collect())
}

fn read_header(file: &MappedFile, number: usize) -> Result<BTreeMap<String, Entry>> {
    let name = file.path().file_name().unwrap_or_default();
    let tensors = headers(file)?.into_iter().map(|header| {
        let dtype = header.dtype.parse::<DType>().map_err(|_| {
            BadInput::new(file.path(), "a floating type", header.dtype).at(&header.name)
        })?;
        let entry = Entry {
            stored: Stored {
                dtype,
                shape: header.shape,
                file: name.to_string_lossy().into_owned(),
            },
            file: number,
            range: header.range,
        };
        Ok((header.name, entry))
    });
    tensors.collect()
}
