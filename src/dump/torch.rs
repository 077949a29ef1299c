//! A file of `torch.save`: a tensor, or any nesting of dictionaries and lists of them.

use super::{Dump, Dumped, stem};
use crate::checkpoint::torch::{Id, Node, TensorRecord, TorchFile};
use crate::error::{BadInput, Result};
use crate::tensor::Tiled;
use std::path::Path;
use std::sync::Arc;

/// How such files are called.
pub(super) const ENDINGS: [&str; 4] = ["pt", "pth", "bin", "ckpt"];
/// Deepest nesting looked into.
const DEPTH: usize = 8;

pub(super) fn open(path: &Path) -> Result<Dump> {
    let file = Arc::new(TorchFile::open(path)?);
    let mut found = Vec::new();
    find(file.root(), &mut Vec::new(), &mut found);
    let tensors = found.into_iter().map(|(name, id)| {
        let name = if name.is_empty() { stem(path) } else { name };
        let record = TensorRecord::from_node(file.root().at(id));
        let known = record.map(|record| {
            let dtype = record
                .dtype()
                .map_or_else(str::to_owned, |dtype| dtype.to_string());
            (dtype, record.shape().to_vec())
        });
        let file = Arc::clone(&file);
        let label = name.clone();
        let mut tensor = Dumped::new(name, move || {
            let Some(record) = TensorRecord::from_node(file.root().at(id)) else {
                let fault = BadInput::new(file.path(), "a tensor", "none");
                return Err(fault.at(&label).into());
            };
            Tiled::one(file.strided(&label, &record)?).to_tensor()
        });
        tensor.known = known;
        tensor
    });
    Ok(Dump::new(path, "torch", tensors.collect()))
}

/// All tensors, in the order of the pickle: the keys and indices that lead to each, and its number there.
fn find(node: Node<'_>, at: &mut Vec<String>, found: &mut Vec<(String, Id)>) {
    if TensorRecord::from_node(node).is_some() {
        found.push((at.join("."), node.id));
        return;
    }
    if at.len() == DEPTH || found.len() > super::MOST {
        return;
    }
    let mut within = |name: String, value| {
        at.push(name);
        find(value, at, found);
        at.pop();
    };
    if let Some(entries) = node.entries() {
        for (key, value) in entries {
            let text = key.text().map(str::to_owned);
            if let Some(name) = text.or_else(|| Some(key.int()?.to_string())) {
                within(name, value);
            }
        }
    } else if let Some(elements) = node.elements() {
        for (index, value) in elements.enumerate() {
            within(index.to_string(), value);
        }
    }
}
