//! The storage types of arrays.

use super::float::{self, FLOATS, FloatFormat};
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
    /// torch's `float8_e4m3fn`. Storage only.
    F8E4M3,
    /// torch's `float8_e5m2`. Storage only.
    F8E5M2,
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

/// Every spelling of the types that are not floating; the first of a type is the one that is
/// written. Floating types have a table of their own.
const INTEGERS: [(DType, &[&str]); 6] = [
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
            Self::F64 => float::F64.bytes(),
            Self::F32 => float::F32.bytes(),
            Self::F16 => float::F16.bytes(),
            Self::Bf16 => float::BF16.bytes(),
            Self::F8E4M3 => float::F8_E4M3.bytes(),
            Self::F8E5M2 => float::F8_E5M2.bytes(),
            Self::I64 => 8,
            Self::I32 => 4,
            Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The row of a floating type in the table; `None` for integers and booleans.
    pub const fn float(self) -> Option<&'static FloatFormat> {
        match self {
            Self::F64 => Some(&float::F64),
            Self::F32 => Some(&float::F32),
            Self::F16 => Some(&float::F16),
            Self::Bf16 => Some(&float::BF16),
            Self::F8E4M3 => Some(&float::F8_E4M3),
            Self::F8E5M2 => Some(&float::F8_E5M2),
            Self::I64 | Self::I32 | Self::I16 | Self::I8 | Self::U8 | Self::Bool => None,
        }
    }

    /// Binary digits of a floating type's significand, the leading one included; 0 for integers.
    pub const fn significand_bits(self) -> i32 {
        match self.float() {
            Some(float) => float.mantissa_bits as i32 + 1,
            None => 0,
        }
    }

    /// The unit roundoff `u` of a floating type: half the spacing of numbers just above 1
    /// (2^-53, 2^-24, 2^-11 and 2^-8). `None` for integers.
    pub const fn unit_roundoff(self) -> Option<f64> {
        match self.float() {
            Some(float) => Some(float.unit_roundoff()),
            None => None,
        }
    }

    /// Whether this is a floating type of two bytes.
    pub const fn is_half(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16)
    }

    /// Whether models stored in this type are run: fp32, fp16 and bf16. fp64 is what they are
    /// checked with, and fp8 is storage that nothing computes in.
    pub const fn is_runnable(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Every type with its spellings.
    fn all() -> impl Iterator<Item = (Self, Vec<&'static str>)> {
        let floats = FLOATS.iter().map(|f| (f.dtype, f.spellings().collect()));
        floats.chain(
            INTEGERS
                .iter()
                .map(|(dtype, names)| (*dtype, names.to_vec())),
        )
    }

    /// The name that is written.
    fn name(self) -> &'static str {
        let of_integer = || INTEGERS.iter().find(|(dtype, _)| *dtype == self);
        match self.float() {
            Some(float) => float.name,
            None => of_integer().map_or("", |(_, names)| names[0]),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no storage type.
#[derive(Debug, thiserror::Error)]
#[error("unknown dtype {0:?} (known: {known})", known = known())]
pub struct UnknownDType(String);

fn known() -> String {
    let names: Vec<&str> = DType::all().map(|(dtype, _)| dtype.name()).collect();
    names.join(", ")
}

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        Self::all()
            .find(|(_, names)| names.contains(&name))
            .map(|(dtype, _)| dtype)
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
        for (dtype, names) in DType::all() {
            for name in &names {
                assert_eq!(name.parse::<DType>().unwrap(), dtype);
            }
            assert_eq!(dtype.to_string(), names[0]);
        }
        assert!("fp8".parse::<DType>().is_err());
    }
}
