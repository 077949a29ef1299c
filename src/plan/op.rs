//! The operations a plan is made of.
//!
//! Shapes: `b` batch, `s` positions, `h` hidden, `n` heads, `d` head dimension. All operands are in
//! C order. Formulas say what is evaluated; the step's [`Numerics`](super::Numerics) say in what
//! types.

use serde::Serialize;
use std::fmt;

/// One operation: what it computes, apart from the types it computes in.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Op {
    /// tokens `[b, s]`, weight `[v, h]` → `[b, s, h]`: rows of the weight, copied.
    Embedding,
    /// x `[…, h]`, weight `[h]`, bias `[h]` → `[…, h]`:
    /// `(x − mean) / sqrt(var + eps) · weight + bias`, with the biased variance.
    LayerNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// x `[…, k]`, weight `[m, k]`, bias `[m]` if there is one → `[…, m]`: `x · weightᵀ + bias`.
    Linear {
        /// Whether the bias is added to the sum before it is rounded.
        bias: bool,
        /// Into how many equal ranges the sum over `k` is split, each rounded for itself and then
        /// added in order with a rounding each: what a row-parallel layer does over this many
        /// tensor-parallel ranks. 1: one sum.
        partials: usize,
    },
    /// fused `[b, s, 3·n·d]` → `[b, n, s, d]`: the queries, keys or values of every head, copied.
    SplitHeads {
        /// Which of the three.
        part: HeadPart,
        /// How the fused axis is ordered.
        layout: QkvLayout,
        /// The number of heads `n`.
        heads: usize,
    },
    /// query, key `[b, n, s, d]` → `[b, n, s, s]`: `product_scale · q·kᵀ + alibi_scale · a`, where
    /// `a[head, key] = slope[head] · key position` is rounded to the storage type as a tensor of
    /// its own.
    AttentionScores {
        /// Factor of the product.
        product_scale: f32,
        /// Factor of the ALiBi term.
        alibi_scale: f32,
        /// ALiBi slope of every head.
        alibi_slopes: Vec<f32>,
    },
    /// scores `[b, n, s, s]` → `[b, n, s, s]`: softmax over the last axis of `scale · scores` with
    /// the masked ones left out; their probability is exactly 0.
    Softmax {
        /// Factor of the scores.
        scale: f32,
        /// Which scores take part.
        mask: Mask,
    },
    /// probabilities `[b, n, s, s]`, value `[b, n, s, d]` → `[b, s, n·d]`: `probs · value`, heads
    /// side by side.
    Context,
    /// x `[…, m]`, bias `[m]` → `[…, m]`.
    AddBias,
    /// x → same shape.
    Activation(Activation),
    /// a, b → same shape: `a + b`.
    Add,
}

impl Op {
    /// Whether the result is made of elements of the inputs: nothing is computed, so there is
    /// nothing to compare that the input does not show.
    pub fn rearranges(&self) -> bool {
        matches!(self, Self::SplitHeads { .. })
    }
}

/// Which of the fused projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadPart {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
}

/// How the rows of a fused query-key-value projection are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QkvLayout {
    /// `[heads, 3, d]`: the three parts of a head lie side by side.
    PerHead,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Those at its own position and before.
    Causal,
}

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `x·0.5 · (1 + tanh(0.79788456·x · (1 + 0.044715·x·x)))`, operations in this order: GELU as
    /// BLOOM and Megatron-DeepSpeed write it.
    BloomGelu,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::LayerNorm { eps } => write!(f, "layer norm (eps {eps:e})"),
            Self::Linear { bias, partials } => {
                f.write_str(if *bias { "product + bias" } else { "product" })?;
                match partials {
                    1 => Ok(()),
                    n => write!(f, " in {n} rounded partial sums"),
                }
            }
            Self::SplitHeads { part, .. } => write!(f, "{part:?} heads"),
            Self::AttentionScores {
                product_scale,
                alibi_scale,
                ..
            } => write!(f, "{product_scale}·q·k + {alibi_scale}·alibi"),
            Self::Softmax { scale, .. } if *scale == 1.0 => f.write_str("softmax"),
            Self::Softmax { scale, .. } => write!(f, "softmax of {scale}·scores"),
            Self::Context => f.write_str("probs·value"),
            Self::AddBias => f.write_str("+ bias"),
            Self::Activation(Activation::BloomGelu) => f.write_str("gelu (bloom)"),
            Self::Add => f.write_str("add"),
        }
    }
}
