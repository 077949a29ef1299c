//! Weights as `save_pretrained` wrote them before safetensors: `pytorch_model.bin`, or shards that
//! `pytorch_model.bin.index.json` lists, read by the reader of `torch.save`'s files, which runs nothing.

use super::folder::{WeightFile, twice};
use super::torch::{Node, StateDict, TensorRecord, TorchFile};
use super::{Stored, Weights};
use crate::error::{BadInput, Result};
use crate::tensor::{Tensor, Tiled};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The weight files of a folder: every tensor by its full name, mapped.
pub(super) struct TorchFiles {
    folder: PathBuf,
    files: Vec<StateDict>,
    /// The file of every tensor.
    tensors: BTreeMap<String, usize>,
}

impl TorchFiles {
    /// Reads the pickles of all weight files; no weights yet.
    ///
    /// # Errors
    /// If a file is missing or malformed, lacks what the index places in it, or two have a tensor of one name.
    pub(super) fn open(folder: &Path, listed: Vec<WeightFile>) -> Result<Self> {
        let mut files: Vec<StateDict> = Vec::new();
        let mut tensors: BTreeMap<String, usize> = BTreeMap::new();
        for listed in listed {
            let file = TorchFile::open(&listed.path)?;
            let state = StateDict::new(file, |root| Some(state_dict(root)));
            listed.check(state.keys())?;
            for key in state.keys() {
                if let Some(other) = tensors.insert(key.to_owned(), files.len()) {
                    return Err(twice(key, files[other].path(), state.path()));
                }
            }
            files.push(state);
        }
        Ok(Self {
            folder: folder.to_owned(),
            files,
            tensors,
        })
    }

    fn record(&self, name: &str) -> Option<(&StateDict, TensorRecord<'_>)> {
        let file = &self.files[*self.tensors.get(name)?];
        Some((file, file.record(name)?))
    }
}

/// The tensors of what was saved: itself, or one that a training loop wrapped up.
fn state_dict(root: Node<'_>) -> Node<'_> {
    let wrapped = ["state_dict", "model", "module"];
    let mut wrapped = wrapped.into_iter().filter_map(|key| root.get(key));
    wrapped
        .find(|node| node.entries().is_some())
        .unwrap_or(root)
}

impl Weights for TorchFiles {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        let (file, record) = self.record(name)?;
        let path = file.path().file_name().unwrap_or_default();
        Some(Stored {
            dtype: record.dtype().ok()?,
            shape: record.shape().to_vec(),
            file: path.to_string_lossy().into_owned(),
        })
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        let file = self.tensors.get(name).map(|file| &self.files[*file]);
        match file.map(|file| file.strided(name)).transpose()?.flatten() {
            Some(elements) => Tiled::one(elements).to_tensor(),
            None => Err(BadInput::new(&self.folder, format!("the tensor {name}"), "none").into()),
        }
    }
}
