//! Arrays of numpy, alone and in archives.

use super::order::natural;
use super::{Dump, Dumped, stem};
use crate::error::Result;
use crate::tensor::{DType, npy, npz};
use std::path::Path;
use std::sync::Arc;

/// What elements of two bytes without a meaning of their own are: numpy has no bfloat16.
const DECLARED: Option<DType> = Some(DType::Bf16);

pub(super) fn array(path: &Path) -> Result<Dump> {
    let file = path.to_owned();
    let tensor = Dumped::new(stem(path), move || npy::read(&file, DECLARED));
    Ok(Dump::new(path, "array", vec![tensor]))
}

pub(super) fn archive(path: &Path) -> Result<Dump> {
    let archive = Arc::new(npz::Archive::open(path)?);
    let mut names: Vec<String> = archive.names().map(str::to_owned).collect();
    names.sort_by_key(|name| natural(name));
    let tensors = names.into_iter().map(|name| {
        let archive = Arc::clone(&archive);
        Dumped::new(name.clone(), move || archive.read(&name, DECLARED))
    });
    Ok(Dump::new(path, "archive", tensors.collect()))
}
