//! A file of safetensors.

use super::order::natural;
use super::{Dump, Dumped};
use crate::checkpoint::safetensors_headers;
use crate::error::{BadInput, Result};
use crate::tensor::{DType, MappedFile, Tensor};
use std::path::Path;

pub(super) fn open(path: &Path) -> Result<Dump> {
    let file = MappedFile::open(path)?;
    let tensors = safetensors_headers(&file)?.into_iter().map(|header| {
        let file = file.clone();
        let known = (header.dtype.clone(), header.shape.clone());
        let tensor = Dumped::new(header.name.clone(), move || {
            let dtype = header.dtype.parse::<DType>().map_err(|_| {
                let expected = "a type that parity knows";
                BadInput::new(file.path(), expected, &*header.dtype).at(&header.name)
            })?;
            Tensor::from_mapped(dtype, &header.shape, &file, header.range.clone())
        });
        tensor.known(known)
    });
    let mut tensors: Vec<Dumped> = tensors.collect();
    tensors.sort_by_key(|tensor| natural(&tensor.name));
    Ok(Dump::new(path, "safetensors", tensors))
}
