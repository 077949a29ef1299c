//! A golden's stages.

use super::{Dump, Dumped};
use crate::error::{BadInput, Result};
use crate::golden::{Content, Golden, Reference};
use std::path::Path;
use std::sync::Arc;

pub(super) fn open(path: &Path) -> Result<Dump> {
    let golden = Arc::new(Golden::open(path)?);
    let mut tensors = Vec::new();
    let mut statistics = 0;
    for record in &golden.manifest().stages {
        if !matches!(record.content, Content::Full { .. }) {
            statistics += 1;
            continue;
        }
        let (golden, stage) = (Arc::clone(&golden), record.stage.clone());
        let name = stage.to_string();
        let mut tensor = Dumped::new(name, move || match golden.reference(&stage)? {
            Some(Reference::Full(value)) => Ok(value),
            _ => Err(BadInput::new(golden.file_of(&stage), "values", "none").into()),
        });
        tensor.alias = Some(record.source.clone());
        tensors.push(tensor);
    }
    let mut dump = Dump::new(path, "golden", tensors);
    if statistics > 0 {
        dump.notes.push(format!(
            "{} holds statistics of {statistics} stages, which are compared with a model's values only",
            path.display()
        ));
    }
    Ok(dump)
}
