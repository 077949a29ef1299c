//! The numeric choices of a step.

use super::tensor_core::MmaUnit;
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
    /// In what order they are.
    pub summation: Summation,
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

/// In what order a step sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Summation {
    /// The backend's own, which its documentation states. Correct results of other orders are within
    /// the step's rounding budget.
    #[default]
    Backend,
    /// The tree of torch's CUDA kernel, to the bit.
    TorchCuda,
    /// The tree of Megatron's fused CUDA kernel, to the bit, with its approximate quotients,
    /// exponentials and roots. A softmax that Megatron's kernel does not take is torch's.
    MegatronCuda,
    /// That of a tensor core: blocks of products are cut, not rounded, and their number is what errors grow
    /// with. A CPU computes such a step in its own order; what is the unit's is the error bound.
    TensorCore(MmaUnit),
}

impl Numerics {
    /// Matrix products: fp32 sums of exact products, one rounding.
    pub fn product(out: DType) -> Self {
        Self {
            compute: DType::F32,
            accumulate: DType::F32,
            summation: Summation::Backend,
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
            summation: Summation::Backend,
            rounding: Rounding::Once,
            out,
        }
    }

    /// Softmax: fp32 exponentials and quotients over an fp64 sum, one rounding.
    pub fn softmax(out: DType) -> Self {
        Self {
            compute: DType::F32,
            accumulate: DType::F64,
            summation: Summation::Backend,
            rounding: Rounding::Once,
            out,
        }
    }

    /// Norms and softmax as CUDA kernels compute them: in fp32 throughout, in the kernel's order, one
    /// rounding.
    pub fn cuda_kernel(out: DType, summation: Summation) -> Self {
        Self {
            compute: DType::F32,
            accumulate: DType::F32,
            summation,
            rounding: Rounding::Once,
            out,
        }
    }

    /// Whether they are those of a CUDA kernel, summed in its order.
    pub(crate) fn is_of_cuda_kernel(&self) -> bool {
        let kernel = Self::cuda_kernel(self.out, self.summation);
        self.summation != Summation::Backend && *self == kernel
    }

    /// Element by element in fp32, rounded where `rounding` says.
    pub fn elementwise(out: DType, rounding: Rounding) -> Self {
        Self {
            compute: DType::F32,
            accumulate: DType::F32,
            summation: Summation::Backend,
            rounding,
            out,
        }
    }
}

impl Numerics {
    /// The same in the backend's own order, if they are a product's: what any backend can compute.
    pub(crate) fn in_own_order(self) -> Self {
        match self.summation {
            Summation::TensorCore(_) => Self {
                summation: Summation::Backend,
                ..self
            },
            _ => self,
        }
    }

    /// The same, but rounded where `rounding` says.
    pub(crate) fn with_rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// What a norm or softmax of these numerics is on a GPU, whose kernels sum in this order. One that
    /// rounds in between is a composition of eager operations, not one kernel: it stays.
    pub(crate) fn on_cuda(self, summation: Summation) -> Self {
        match self.rounding {
            Rounding::Once => Self::cuda_kernel(self.out, summation),
            Rounding::EachOperation => self,
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
