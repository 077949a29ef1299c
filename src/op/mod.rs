//! The operations a plan is made of, a folder each: what an operation computes, on which shapes, in
//! which numerics, on every backend, and how far a correct result may be from the exact one.
//!
//! Shapes: `b` batch, `s` positions, `h` hidden, `n` heads, `d` head dimension. All operands are in
//! C order. Formulas say what is evaluated; a step's [`Numerics`] say in what types.
//!
//! An operation is added by a folder with its struct, [`Operation`] on it, and its name in the list
//! below.

mod activation;
mod add;
mod add_bias;
mod attention_scores;
mod context;
mod embedding;
mod formula_source;
mod gate;
pub(crate) mod launch;
mod layer_norm;
mod linear;
mod locality;
mod numerics;
mod rms_norm;
mod rotary;
mod scale;
mod soft_cap;
mod softmax;
pub(crate) mod split_heads;

pub use activation::Activation;
pub use add::Add;
pub use add_bias::AddBias;
pub use attention_scores::{AlibiForm, AttentionScores};
pub use context::Context;
pub use embedding::Embedding;
pub use gate::Gate;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use locality::Locality;
pub use numerics::{Numerics, Rounding, Summation};
pub use rms_norm::RmsNorm;
pub use rotary::{Rotary, RotaryPairs};
pub use scale::Scale;
pub use soft_cap::SoftCap;
pub use softmax::{Mask, Softmax};
pub use split_heads::{HeadPart, QkvLayout, SplitHeads};

use launch::Launch;
use serde::Serialize;
use std::fmt;

/// What every operation says of itself. Nothing has a default: what is forgotten does not compile.
pub(crate) trait Operation: fmt::Display + Launch {
    /// Shape of the result on inputs and parameters of these shapes; `None` if it does not apply to
    /// them.
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>>;

    /// Which elements of the inputs an element of the result depends on.
    fn locality(&self) -> Locality;
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
                #[doc = concat!("See [`struct@", stringify!($name), "`].")]
                $name($name),
            )*
        }

        impl Op {
            pub(crate) fn operation(&self) -> &dyn Operation {
                match self {
                    $(Self::$name(operation) => operation,)*
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
    Context,
    Embedding,
    Gate,
    LayerNorm,
    Linear,
    RmsNorm,
    Rotary,
    Scale,
    SoftCap,
    Softmax,
    SplitHeads,
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
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operation().fmt(f)
    }
}

/// A shape with one more axis of this extent.
fn extended(shape: &[usize], last: usize) -> Vec<usize> {
    [shape, &[last]].concat()
}
