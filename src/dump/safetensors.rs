//! A file of safetensors.

use super::order::natural;
use super::{Dump, Dumped};
use crate::error::{BadInput, Result};
use crate::tensor::{DType, MappedFile, Tensor};
use safetensors::SafeTensors;
use std::path::Path;

pub(super) fn open(path: &Path) -> Result<Dump> {
    let file = MappedFile::open(path)?;
    let (header, metadata) = SafeTensors::read_metadata(&file)
        .map_err(|e| BadInput::new(path, "a safetensors file", e.to_string()))?;
    // After the length of the header and the header itself.
    let start = header + size_of::<u64>();
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let (file, label) = (file.clone(), name.clone());
        let (spelled, shape) = (info.dtype.to_string(), info.shape.clone());
        let (begin, end) = info.data_offsets;
        let known = (spelled.clone(), shape.clone());
        let tensor = Dumped::new(name, move || {
            let dtype = spelled.parse::<DType>().map_err(|_| {
                let expected = "a type that parity knows";
                BadInput::new(file.path(), expected, &*spelled).at(&label)
            })?;
            Tensor::from_mapped(dtype, &shape, &file, start + begin..start + end)
        });
        tensor.known(known)
    });
    let mut tensors: Vec<Dumped> = tensors.collect();
    tensors.sort_by_key(|tensor| natural(&tensor.name));
    Ok(Dump::new(path, "safetensors", tensors))
}
