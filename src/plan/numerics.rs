//! The numeric choices of a step.

use crate::tensor::DType;
use serde::Serialize;
use std::fmt;

/// In what types a step computes and where it rounds.
///
/// Operands are stored in the model's dtype and widened exactly; nothing is ever computed in a half
/// type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Numerics {
    /// Type of element-by-element arithmetic.
    pub compute: DType,
    /// Type in which sums (of products, of a row) are accumulated.
    pub accumulate: DType,
    /// Where results are rounded to `out`.
    pub rounding: Rounding,
    /// Type the step's result is stored in.
    pub out: DType,
}

/// Where a step rounds to its storage type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// At the end only, as a fused kernel does.
    Once,
    /// After every elementary operation, as eager execution does.
    EachOperation,
}

impl Numerics {
    /// Matrix products: fp32 sums of exact products, one rounding.
    pub fn product(out: DType) -> Self {
        Self {
            compute: DType::F32,
            accumulate: DType::F32,
            rounding: Rounding::Once,
            out,
        }
    }

    /// Norms: evaluated in fp64 and rounded once. What a framework's fp32 statistics round to,
    /// whatever their order of summation, but for values next to a rounding boundary.
    pub fn norm(out: DType) -> Self {
        Self {
            compute: DType::F64,
            accumulate: DType::F64,
            rounding: Rounding::Once,
            out,
        }
    }

    /// Softmax: fp32 exponentials and quotients over an fp64 sum, one rounding.
    pub fn softmax(out: DType) -> Self {
        Self {
            compute: DType::F32,
            accumulate: DType::F64,
            rounding: Rounding::Once,
            out,
        }
    }

    /// Element by element in fp32, rounded where `rounding` says.
    pub fn elementwise(out: DType, rounding: Rounding) -> Self {
        Self {
            compute: DType::F32,
            accumulate: DType::F32,
            rounding,
            out,
        }
    }
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounding = match self.rounding {
            Rounding::Once => "rounded once to",
            Rounding::EachOperation => "every operation rounded to",
        };
        write!(f, "{rounding} {}", self.out)
    }
}
