//! A dictionary of tensors in a file.

use super::value::Id;
use super::{Node, TensorRecord, TorchFile};
use crate::error::Result;
use crate::tensor::Strided;
use std::collections::BTreeMap;
use std::path::Path;

/// The tensors of one dictionary in a file, by key. Other entries are passed over.
pub struct StateDict {
    file: TorchFile,
    tensors: BTreeMap<String, Id>,
}

impl StateDict {
    /// The tensors in a dictionary that `find` picks from what was saved; none if it picks none.
    pub fn new(file: TorchFile, find: impl FnOnce(Node<'_>) -> Option<Node<'_>>) -> Self {
        let entries = find(file.root()).and_then(Node::entries);
        let tensors = entries.into_iter().flatten().filter_map(|(key, value)| {
            TensorRecord::from_node(value)?;
            Some((key.text()?.to_owned(), value.id))
        });
        let tensors = tensors.collect();
        Self { file, tensors }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// All that was saved.
    pub fn root(&self) -> Node<'_> {
        self.file.root()
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What is said of a tensor.
    pub fn record(&self, key: &str) -> Option<TensorRecord<'_>> {
        TensorRecord::from_node(self.root().at(*self.tensors.get(key)?))
    }

    /// The elements of a tensor, in place; `None` if there is no such tensor.
    ///
    /// # Errors
    /// As [`TorchFile::strided`].
    pub fn strided(&self, key: &str) -> Result<Option<Strided>> {
        let record = self.record(key);
        record
            .map(|record| self.file.strided(key, &record))
            .transpose()
    }
}
