//! Attention scores.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, leading_digits};
use serde::Serialize;
use std::fmt;

/// query `[b, n, s, d]`, key `[b, g, s, d]` → `[b, n, s, s]`: `product_scale · q·kᵀ`, and
/// `alibi.scale · a` if there is ALiBi, where `a` is [its bias](AlibiForm), rounded to the storage type
/// as a tensor of its own. Each of the `g` keys is for `n / g` queries in a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttentionScores {
    /// Factor of the product.
    pub product_scale: f32,
    /// What is added to it.
    pub alibi: Option<Alibi>,
}

/// Attention with linear biases (Press et al. 2022).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alibi {
    /// Factor of the bias.
    pub scale: f32,
    /// Slope of every head.
    pub slopes: Vec<f32>,
    /// What the slopes multiply.
    pub form: AlibiForm,
    /// What the bias is added to.
    pub sum: AlibiSum,
}

/// What an ALiBi bias is added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AlibiSum {
    /// The scaled product in fp32, of which the sum is rounded once.
    #[default]
    InProduct,
    /// The scaled product rounded to the storage type: what cuBLAS's half-precision kernels do with a matrix
    /// that they add where its rows are aligned to 16 bytes (H100, cuBLAS 13.1: 0 unequal of 224 shapes).
    Rounded,
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
            ([[b, n, s, d], [kb, g, ks, kd]], []) => {
                let same = (b, s, d) == (kb, ks, kd) && *g > 0 && n.is_multiple_of(*g);
                let biased = |alibi: &Alibi| alibi.slopes.len() == *n;
                (same && self.alibi.as_ref().is_none_or(biased)).then(|| vec![*b, *n, *s, *s])
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
        let digits = |scale: f32| leading_digits(scale * divided_by.result);
        let alibi = self.alibi.as_ref().map(|alibi| {
            let slopes = alibi.slopes.iter().copied().map(leading_digits);
            (digits(alibi.scale), slopes.collect::<Vec<_>>(), alibi.form)
        });
        format!("scores {} {alibi:?};", digits(self.product_scale))
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        (self.clone().into(), numerics)
    }
}

impl fmt::Display for AttentionScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}·q·k", self.product_scale)?;
        match &self.alibi {
            None => Ok(()),
            Some(alibi) => match alibi.sum {
                AlibiSum::InProduct => write!(f, " + {}·alibi", alibi.scale),
                AlibiSum::Rounded => write!(f, " rounded, + {}·alibi", alibi.scale),
            },
        }
    }
}
