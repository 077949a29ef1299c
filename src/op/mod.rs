//! The operations a plan is made of, a folder each: what an operation computes, on which shapes, in
//! which numerics, on every backend, and how far a correct result may be from the exact one.
//!
//! Shapes: `b` batch, `s` positions, `h` hidden, `n` heads, `d` head dimension. All operands are in
//! C order. Formulas say what is evaluated; a step's [`Numerics`] say in what types.
//!
//! An operation is added by a folder and its name in the list below. In the folder, `mod.rs` has the
//! struct and what `Operation` asks of it, `cpu.rs` its `CpuKernel`, `fp64.rs` its `Fp64Kernel`,
//! `bound.rs` how far a result may be off, and `cuda.rs` its `Launch`, with the kernels beside it.
//! On the CPU, an operation that is a `Formula` of one number needs the formula alone: the rest follows
//! from it (`element.rs`).

mod activation;
mod add;
mod add_bias;
mod arguments;
mod attention_scores;
mod bound;
mod choice;
mod columns;
mod context;
mod cpu;
mod element;
mod embedding;
mod expert_linear;
pub(crate) mod formula;
mod formula_source;
mod fp64;
mod functions;
mod gate;
mod join_heads;
pub(crate) mod launch;
mod layer_norm;
mod linear;
mod locality;
mod multiply;
mod norm;
mod numerics;
mod product;
mod rms_norm;
mod rotary;
mod rotary_table;
mod route;
mod router_weights;
mod scale;
mod soft_cap;
mod softmax;
pub(crate) mod split_heads;
mod sum_experts;
pub mod tensor_core;
mod weigh;

pub use activation::Activation;
pub use add::Add;
pub use add_bias::AddBias;
pub(crate) use arguments::Arguments;
pub use attention_scores::{Alibi, AlibiForm, AlibiSum, AttentionScores};
pub use bound::{Confidence, ErrorBound, Operand};
pub(crate) use bound::{MEAN_OF_NORMAL, ROUNDING_RMS, STDS, U as FP32_ROUNDOFF};
pub(crate) use choice::choice_of;
pub use columns::Columns;
pub use context::Context;
pub(crate) use cpu::CpuKernel;
pub use embedding::Embedding;
pub use expert_linear::ExpertLinear;
pub(crate) use fp64::Fp64Kernel;
pub use gate::Gate;
pub use join_heads::JoinHeads;
pub use layer_norm::LayerNorm;
pub use linear::{AllReduce, Linear, Partials};
pub use locality::Locality;
pub use multiply::Multiply;
pub use numerics::{Numerics, Rounding, Summation};
pub use rms_norm::RmsNorm;
pub use rotary::{Rotary, RotaryPairs};
pub use rotary_table::{Frequencies, RopeScaling, RotaryFunction, RotaryTable};
pub use route::{Route, RouterGroups, RouterScores};
pub use router_weights::RouterWeights;
pub use scale::Scale;
pub use soft_cap::SoftCap;
pub use softmax::{Mask, Softmax};
pub use split_heads::{HeadPart, QkvLayout, SplitHeads};
pub use sum_experts::SumExperts;
pub use weigh::Weigh;

use crate::error::Result;
use crate::tensor::{DType, Float, Tensor};
use bound::{Bounded, Evaluation};
use launch::Launch;
use serde::Serialize;
use std::fmt;

/// What every operation says of itself. Nothing has a default: what is forgotten does not compile.
pub(crate) trait Operation:
    CpuKernel + Fp64Kernel + Bounded + Launch + fmt::Display
{
    /// Shape of the result on inputs and parameters of these shapes; `None` if it does not apply to
    /// them.
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>>;

    /// Which elements of the inputs an element of the result depends on.
    fn locality(&self) -> Locality;

    /// Whether its input is token ids or positions, which are never widened.
    fn reads_tokens(&self) -> bool;

    /// What it computes, apart from roundings: steps with the same formulas in a row have the same
    /// exact result.
    fn formula(&self, divided_by: DividedBy) -> String;

    /// What it is on a GPU with these kernels, and in which numerics.
    fn on_cuda(&self, numerics: Numerics, kernels: CudaKernels) -> (Op, Numerics);
}

impl Op {
    /// Which of a result's so many axes follow the positions of a sequence: the rows, and the keys of scores.
    pub(crate) fn position_axes(&self, axes: usize) -> &'static [usize] {
        match (self, axes) {
            (Self::AttentionScores(_) | Self::Softmax(_) | Self::SoftCap(_), 4) => &[2, 3],
            (_, 4) => &[2],
            _ => &[1],
        }
    }

    /// Whether it multiplies matrices.
    pub(crate) fn is_product(&self) -> bool {
        matches!(
            self,
            Self::Linear(_) | Self::ExpertLinear(_) | Self::AttentionScores(_) | Self::Context(_)
        )
    }

    /// Whether it takes inputs and parameters of other floating types than its result's: a router's fp32 in a model of
    /// a half type.
    pub(crate) fn mixes_types(&self) -> bool {
        matches!(
            self,
            Self::Linear(_)
                | Self::ExpertLinear(_)
                | Self::Route(_)
                | Self::RouterWeights(_)
                | Self::Weigh(_)
                | Self::SumExperts(_)
        )
    }

    /// Whether it gives probabilities, which no kernel that is all of attention shows.
    pub(crate) fn is_softmax(&self) -> bool {
        matches!(self, Self::Softmax(_))
    }
}

/// By what values are divided, against the plain ones that `transformers` shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DividedBy {
    /// The first input.
    pub(crate) input: f32,
    /// The result.
    pub(crate) result: f32,
}

/// What a framework's run on a GPU has of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CudaKernels {
    /// The order in which norms and softmax are summed.
    pub(crate) summation: Summation,
    /// Whether keys and values went through a key-value cache.
    pub(crate) use_cache: bool,
}

/// The closed list of operations: an enum of their structs, and what can be asked of any of them.
macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// One operation: what it computes, apart from the types it computes in.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Op {
            $(
                #[doc = concat!("See [`type@", stringify!($name), "`].")]
                $name($name),
            )*
        }

        impl Op {
            pub(crate) fn operation(&self) -> &dyn Operation {
                match self {
                    $(Self::$name(operation) => operation,)*
                }
            }

            /// The CPU's result; see [`CpuKernel::cpu`].
            pub(crate) fn cpu<T: Float>(
                &self,
                arguments: &Arguments<'_>,
                rounding: Rounding,
            ) -> Result<Vec<T>> {
                match self {
                    $(Self::$name(operation) => operation.cpu(arguments, rounding),)*
                }
            }
        }

        /// The CUDA source of the kernels of all of them.
        pub(crate) fn kernel_sources() -> String {
            [$(<$name as Launch>::kernel_source()),*].concat()
        }

        $(
            impl From<$name> for Op {
                fn from(operation: $name) -> Self {
                    Self::$name(operation)
                }
            }
        )*
    };
}

operations! {
    Activation,
    Add,
    AddBias,
    AttentionScores,
    Columns,
    Context,
    Embedding,
    ExpertLinear,
    Gate,
    JoinHeads,
    LayerNorm,
    Linear,
    Multiply,
    RmsNorm,
    Rotary,
    RotaryTable,
    Route,
    RouterWeights,
    Scale,
    SoftCap,
    Softmax,
    SplitHeads,
    SumExperts,
    Weigh,
}

impl Op {
    /// Shape of the result on inputs and parameters of these shapes; `None` if the operation does
    /// not apply to them.
    pub fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        self.operation().shape(inputs, params)
    }

    /// Which elements of the inputs an element of the result depends on.
    pub fn locality(&self) -> Locality {
        self.operation().locality()
    }

    /// How far a correct result may be from the exact one, element by element. `output` is any correct
    /// result; shapes were checked.
    pub(crate) fn error_bound(
        &self,
        numerics: Numerics,
        inputs: &[Operand<'_>],
        params: &[Operand<'_>],
        output: &Tensor,
        confidence: Confidence,
    ) -> Result<ErrorBound> {
        let evaluation = Evaluation::new(numerics, inputs, params, output, confidence)?;
        self.operation().error_bound(&evaluation)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operation().fmt(f)
    }
}

/// Token ids or positions as numbers: `int64` or `int32`.
fn integers(ids: &Tensor) -> Result<Vec<i64>> {
    match ids.dtype() {
        DType::I32 => Ok(ids
            .as_slice::<i32>()?
            .iter()
            .map(|id| (*id).into())
            .collect()),
        _ => Ok(ids.as_slice::<i64>()?.to_vec()),
    }
}

/// The shape of what is computed element by element from `N` arrays, which is theirs.
fn elementwise<const N: usize>(inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
    let (first, rest) = inputs.split_first()?;
    let fits = inputs.len() == N && params.is_empty() && rest.iter().all(|shape| shape == first);
    fits.then(|| first.to_vec())
}

/// A shape with one more axis of this extent.
fn extended(shape: &[usize], last: usize) -> Vec<usize> {
    [shape, &[last]].concat()
}

/// The leading digits of a scale or slope in single precision: as far as frameworks, which round it in
/// different places, agree on it.
fn leading_digits(value: f32) -> String {
    format!("{value:.4e}")
}
