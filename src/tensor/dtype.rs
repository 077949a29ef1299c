//! The storage types of arrays.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How an element is stored. Spelled as Megatron's users spell it (`fp32`, `bf16`); torch's and
/// safetensors' spellings are understood as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer.
    I16,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

/// Every spelling of every type; the first of a type is the one that is written.
const NAMES: &[(DType, &[&str])] = &[
    (DType::F64, &["fp64", "float64", "double", "F64"]),
    (DType::F32, &["fp32", "float32", "float", "F32"]),
    (DType::F16, &["fp16", "float16", "half", "F16"]),
    (DType::Bf16, &["bf16", "bfloat16", "BF16"]),
    (DType::I64, &["int64", "long", "I64"]),
    (DType::I32, &["int32", "int", "I32"]),
    (DType::I16, &["int16", "short", "I16"]),
    (DType::I8, &["int8", "char", "I8"]),
    (DType::U8, &["uint8", "byte", "U8"]),
    (DType::Bool, &["bool", "BOOL"]),
];

impl DType {
    /// Bytes an element takes.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The unit roundoff `u` of a floating type: half the spacing of numbers just above 1
    /// (2^-53, 2^-24, 2^-11 and 2^-8). `None` for integers.
    pub fn unit_roundoff(self) -> Option<f64> {
        let bits = match self {
            Self::F64 => 53,
            Self::F32 => 24,
            Self::F16 => 11,
            Self::Bf16 => 8,
            Self::I64 | Self::I32 | Self::I16 | Self::I8 | Self::U8 | Self::Bool => return None,
        };
        Some(0.5_f64.powi(bits))
    }

    /// Whether this is a floating type of two bytes.
    pub const fn is_half(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = NAMES.iter().find(|(dtype, _)| dtype == self);
        f.pad(names.map_or("", |(_, names)| names[0]))
    }
}

/// A name that is no storage type.
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown dtype {0:?} (known: fp64, fp32, fp16, bf16, int64, int32, int16, int8, uint8, bool)"
)]
pub struct UnknownDType(String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        NAMES
            .iter()
            .find(|(_, names)| names.contains(&name))
            .map(|(dtype, _)| *dtype)
            .ok_or_else(|| UnknownDType(name.to_owned()))
    }
}

impl TryFrom<String> for DType {
    type Error = UnknownDType;

    fn try_from(name: String) -> Result<Self, UnknownDType> {
        name.parse()
    }
}

impl From<DType> for String {
    fn from(dtype: DType) -> Self {
        dtype.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read_and_the_first_is_written() {
        for (dtype, names) in NAMES {
            for name in *names {
                assert_eq!(name.parse::<DType>().unwrap(), *dtype);
            }
            assert_eq!(dtype.to_string(), names[0]);
        }
        assert!("fp8".parse::<DType>().is_err());
    }
}
