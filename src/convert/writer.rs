//! Writing one safetensors file, tensor after tensor, in pieces.
//!
//! The format (<https://huggingface.co/docs/safetensors>): the header's length in 8 bytes, the
//! header as JSON padded with spaces to a multiple of 8, the data in the header's order.

use super::converted::ConvertedTensor;
use super::sharding::{Shard, bytes};
use crate::error::{BadInput, Error, Result};
use crate::tensor::{DType, Float, with_element, with_float};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;

/// Bytes that are buffered before they are written.
const PIECE: usize = 4 << 20;

/// The beginning of a shard's file: everything before the data.
pub(super) fn header(shard: &Shard<'_>, asked: Option<DType>) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut next = 0;
    for tensor in &shard.tensors {
        let end = next + bytes(tensor, asked);
        let name = tensor
            .written_as(asked)
            .float()
            .map(|float| float.safetensors);
        let entry = json!({ "dtype": name, "shape": tensor.shape, "data_offsets": [next, end] });
        entries.insert(tensor.name.clone(), entry);
        next = end;
    }
    let mut text = Value::Object(entries).to_string();
    text += &" ".repeat(text.len().next_multiple_of(8) - text.len());
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text.as_bytes());
    header
}

/// Bytes of a shard's data.
pub(super) fn data_len(shard: &Shard<'_>, asked: Option<DType>) -> u64 {
    shard
        .tensors
        .iter()
        .map(|tensor| bytes(tensor, asked))
        .sum()
}

/// Writes a tensor's elements, in the type that is asked for or else its own. `on` hears of every piece, by its bytes.
///
/// Elements of the same type are copied; others are rounded to nearest even, once.
///
/// # Errors
/// If the file cannot be written, or a finite value is infinite in that type.
pub(super) fn write_tensor(
    file: &mut impl Write,
    path: &Path,
    tensor: &ConvertedTensor,
    asked: Option<DType>,
    on: &dyn Fn(u64),
) -> Result<()> {
    let dtype = tensor.written_as(asked);
    let mut buffer = Vec::new();
    tensor.elements.pieces(PIECE, &mut |piece| {
        buffer.resize(piece.len() * piece.dtype().size(), 0);
        piece.read(0..piece.rows(), &mut buffer);
        let rounded = if tensor.is_copied_as(dtype) {
            None
        } else {
            Some(converted(&buffer, tensor, dtype)?)
        };
        let bytes = rounded.as_ref().unwrap_or(&buffer);
        file.write_all(bytes).map_err(Error::io(path, "write"))?;
        on(bytes.len() as u64);
        Ok(())
    })
}

/// The elements in `piece` as `dtype`, rounded to nearest even, once.
pub(super) fn converted(piece: &[u8], tensor: &ConvertedTensor, dtype: DType) -> Result<Vec<u8>> {
    let overflow = |value: f64| -> Error {
        let expected = format!("values that {dtype} can hold");
        BadInput::new(&tensor.name, expected, format!("{value:e}"))
            .remedy("convert to a wider --dtype")
            .into()
    };
    with_element!(tensor.dtype(), S => with_float!(dtype, D => {
        let mut out = Vec::with_capacity(piece.len() / size_of::<S>() * size_of::<D>());
        for bytes in piece.chunks_exact(size_of::<S>()) {
            let value = bytemuck::pod_read_unaligned::<S>(bytes);
            let value = crate::tensor::Element::to_f64(value);
            let value = if tensor.zero_centred { value + 1.0 } else { value };
            let rounded = D::nearest(value);
            if value.is_finite() && !rounded.to_f32().is_finite() {
                return Err(overflow(value));
            }
            out.extend_from_slice(bytemuck::bytes_of(&rounded));
        }
        Ok(out)
    }, else unreachable!("models are stored in fp32, fp16 or bf16")))
}
