//! A file of safetensors.

use super::order::natural;
use super::{Dump, Dumped};
use crate::checkpoint::{SafetensorsFiles, Weights};
use crate::error::Result;
use std::path::Path;
use std::sync::Arc;

pub(super) fn open(path: &Path) -> Result<Dump> {
    let files = Arc::new(SafetensorsFiles::one(path)?);
    let mut names: Vec<String> = files.names().into_iter().map(str::to_owned).collect();
    names.sort_by_key(|name| natural(name));
    let tensors = names.into_iter().map(|name| {
        let files = Arc::clone(&files);
        Dumped::new(name.clone(), move || files.load(&name))
    });
    Ok(Dump::new(path, "safetensors", tensors.collect()))
}
