//! Which tensor goes into which file.

use super::converted::ConvertedTensor;
use crate::tensor::DType;
use std::fmt;
use std::str::FromStr;

/// A number of bytes, as `5GB`, `500MB` or `2GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Units, the longest names first.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = UNITS.iter().find(|(unit, _)| {
            text.to_ascii_uppercase()
                .ends_with(&unit.to_ascii_uppercase())
        });
        let (number, scale) = match unit {
            Some((unit, scale)) => (&text[..text.len() - unit.len()], *scale),
            None => (text, 1),
        };
        let number: u64 = number
            .trim()
            .parse()
            .map_err(|_| "expected a size such as 5GB")?;
        match number.checked_mul(scale) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err("expected a size above 0 and below 2^64 bytes".into()),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS
            .iter()
            .filter(|(_, scale)| self.0.is_multiple_of(*scale));
        match exact.max_by_key(|(_, scale)| *scale) {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// One file of weights.
#[derive(Debug)]
pub(super) struct Shard<'a> {
    pub(super) file: String,
    pub(super) tensors: Vec<&'a ConvertedTensor>,
}

/// Fills files of at most `largest` bytes with tensors as they are written, in order; a tensor that
/// is larger has a file of its own. Files are named as transformers names them.
pub(super) fn shards(
    tensors: &[ConvertedTensor],
    asked: Option<DType>,
    largest: ByteSize,
) -> Vec<Shard<'_>> {
    let mut files: Vec<Vec<&ConvertedTensor>> = Vec::new();
    let mut held = 0;
    for tensor in tensors {
        let size = bytes(tensor, asked);
        match files.last_mut() {
            Some(file) if held + size <= largest.0 => file.push(tensor),
            _ => {
                files.push(vec![tensor]);
                held = 0;
            }
        }
        held += size;
    }
    let count = files.len();
    let named = files.into_iter().enumerate().map(|(index, tensors)| Shard {
        file: match count {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        },
        tensors,
    });
    named.collect()
}

/// The name of the only file.
pub(super) const SINGLE: &str = "model.safetensors";
/// The file that says which tensor is in which of several.
pub(super) const CONFIG: &str = "config.json";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Whether a file holds weights as transformers names them, or says where they are.
pub(super) fn is_weights(name: &str) -> bool {
    name == SINGLE || name == INDEX || name.starts_with("model-") && name.ends_with(".safetensors")
}

/// Bytes of a tensor as it is written.
pub(super) fn bytes(tensor: &ConvertedTensor, asked: Option<DType>) -> u64 {
    (tensor.elements.len() * tensor.written_as(asked).size()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Tensor, Tiled};

    #[test]
    fn sizes_are_read_and_written() {
        let size = |text: &str| text.parse::<ByteSize>().map(|size| size.0);
        assert_eq!(size("5GB"), Ok(5_000_000_000));
        assert_eq!(size("2gib"), Ok(2 << 30));
        assert_eq!(size("17"), Ok(17));
        for wrong in ["", "GB", "5 parsecs", "-1GB", "0", "99999999999TB", "µ5GB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        for text in ["5GB", "2GiB", "1001B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn files_are_filled_in_order() {
        let tensor = |name: &str, rows: usize| {
            let zeros = Tensor::from_vec(&[rows], vec![0.0_f32; rows]).unwrap();
            ConvertedTensor {
                name: name.into(),
                source: name.into(),
                shape: vec![rows],
                elements: Tiled::one(zeros),
                zero_centred: false,
                keeps_type: false,
            }
        };
        let tensors = [
            tensor("a", 2),
            tensor("b", 2),
            tensor("c", 9),
            tensor("d", 1),
        ];
        let names = |dtype, largest| {
            let shards = shards(&tensors, Some(dtype), ByteSize(largest));
            let names = shards.iter().map(|shard| {
                let tensors = shard.tensors.iter().map(|t| t.name.as_str());
                (shard.file.clone(), tensors.collect::<String>())
            });
            names.collect::<Vec<_>>()
        };
        let owned = |file: &str, tensors: &str| (file.to_owned(), tensors.to_owned());
        assert_eq!(
            names(DType::F32, 1000),
            [owned("model.safetensors", "abcd")]
        );
        assert_eq!(
            names(DType::F32, 16),
            [
                owned("model-00001-of-00003.safetensors", "ab"),
                owned("model-00002-of-00003.safetensors", "c"),
                owned("model-00003-of-00003.safetensors", "d"),
            ]
        );
        assert_eq!(names(DType::F16, 8).len(), 3);
    }
}
