//! Attention scores.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, leading_digits};
use serde::Serialize;
use std::fmt;

/// query, key `[b, n, s, d]` → `[b, n, s, s]`: `product_scale · q·kᵀ + alibi_scale · a`, where
/// `a` is [the ALiBi bias](AlibiForm), rounded to the storage type as a tensor of its own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttentionScores {
    /// Factor of the product.
    pub product_scale: f32,
    /// Factor of the ALiBi term.
    pub alibi_scale: f32,
    /// ALiBi slope of every head.
    pub alibi_slopes: Vec<f32>,
    /// What the slopes multiply.
    pub alibi_form: AlibiForm,
}

/// What an ALiBi slope multiplies. The two differ by a constant of every row, which no softmax sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AlibiForm {
    /// The key's position, as Megatron and transformers have it.
    KeyPosition,
    /// The key's position less the query's, as the paper has it.
    Distance,
}

impl AlibiForm {
    /// The bias of one head between a query and a key, by their positions.
    pub fn bias(self, slope: f32, query: usize, key: usize) -> f32 {
        match self {
            Self::KeyPosition => slope * key as f32,
            Self::Distance => slope * (key as f32 - query as f32),
        }
    }
}

impl Operation for AttentionScores {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([query @ [b, n, s, _], key], []) => {
                (query == key && self.alibi_slopes.len() == *n).then(|| vec![*b, *n, *s, *s])
            }
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Sequence
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, divided_by: DividedBy) -> String {
        let scales = [self.product_scale, self.alibi_scale];
        let scales = scales.map(|scale| leading_digits(scale * divided_by.result));
        let slopes = self.alibi_slopes.iter().copied().map(leading_digits);
        let slopes: Vec<String> = slopes.collect();
        format!("scores {scales:?} {slopes:?} {:?};", self.alibi_form)
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        (self.clone().into(), numerics)
    }
}

impl fmt::Display for AttentionScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (product, alibi) = (self.product_scale, self.alibi_scale);
        write!(f, "{product}·q·k + {alibi}·alibi")
    }
}
