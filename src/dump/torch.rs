//! A file of `torch.save`: a tensor, or any nesting of dictionaries and lists of them.

use super::{Dump, Dumped, stem};
use crate::checkpoint::torch::{Node, TensorRecord, TorchFile};
use crate::error::{BadInput, Result};
use crate::tensor::Tiled;
use std::path::Path;
use std::sync::Arc;

/// How such files are called.
pub(super) const ENDINGS: [&str; 4] = ["pt", "pth", "bin", "ckpt"];
/// Deepest nesting looked into.
const DEPTH: usize = 8;

/// A step from a container to what is in it.
#[derive(Clone)]
enum Step {
    Key(String),
    Index(usize),
}

pub(super) fn open(path: &Path) -> Result<Dump> {
    let file = Arc::new(TorchFile::open(path)?);
    let mut places = Vec::new();
    find(file.root(), &mut Vec::new(), &mut places);
    let tensors = places.into_iter().map(|place: Vec<Step>| {
        let parts = place.iter().map(|step| match step {
            Step::Key(key) => key.clone(),
            Step::Index(index) => index.to_string(),
        });
        let name = match place.as_slice() {
            [] => stem(path),
            _ => parts.collect::<Vec<_>>().join("."),
        };
        let record = place
            .iter()
            .try_fold(file.root(), |node, step| within(node, step));
        let record = record.and_then(TensorRecord::from_node);
        let known = record.map(|record| {
            let dtype = record
                .dtype()
                .map_or_else(str::to_owned, |dtype| dtype.to_string());
            (dtype, record.shape().to_vec())
        });
        let file = Arc::clone(&file);
        let label = name.clone();
        let mut tensor = Dumped::new(name, move || {
            let node = place
                .iter()
                .try_fold(file.root(), |node, step| within(node, step));
            let record = node.and_then(TensorRecord::from_node);
            let Some(record) = record else {
                return Err(BadInput::new(file.path(), "a tensor", "none")
                    .at(&label)
                    .into());
            };
            Tiled::one(file.strided(&label, &record)?).to_tensor()
        });
        tensor.known = known;
        tensor
    });
    Ok(Dump::new(path, "torch", tensors.collect()))
}

/// The places of all tensors, in the order of the pickle.
fn find(node: Node<'_>, at: &mut Vec<Step>, places: &mut Vec<Vec<Step>>) {
    if TensorRecord::from_node(node).is_some() {
        places.push(at.clone());
        return;
    }
    if at.len() == DEPTH || places.len() > super::MOST {
        return;
    }
    if let Some(entries) = node.entries() {
        for (key, value) in entries {
            let Some(key) = key
                .text()
                .map(str::to_owned)
                .or_else(|| Some(key.int()?.to_string()))
            else {
                continue;
            };
            at.push(Step::Key(key));
            find(value, at, places);
            at.pop();
        }
    } else if let Some(elements) = node.elements() {
        for (index, value) in elements.enumerate() {
            at.push(Step::Index(index));
            find(value, at, places);
            at.pop();
        }
    }
}

fn within<'a>(node: Node<'a>, step: &Step) -> Option<Node<'a>> {
    match step {
        Step::Key(key) => {
            let mut entries = node.entries()?;
            let is_it = |name: Node<'_>| {
                name.text() == Some(key) || name.int().is_some_and(|int| int.to_string() == *key)
            };
            Some(entries.find(|(name, _)| is_it(*name))?.1)
        }
        Step::Index(index) => node.elements()?.nth(*index),
    }
}
