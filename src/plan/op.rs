//! The operations a plan is made of.
//!
//! Shapes: `b` batch, `s` positions, `h` hidden, `n` heads, `d` head dimension. All operands are in
//! C order. Formulas say what is evaluated; the step's [`Numerics`](super::Numerics) say in what
//! types.

use super::Rotary;
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
    /// x `[…, h]`, weight `[h]`, bias `[h]` if there is one → `[…, h]`:
    /// `x / sqrt(mean(x²) + eps) · weight + bias`; nothing is centred.
    RmsNorm {
        /// Added to the mean square.
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
        /// On a GPU, whether a key-value cache copies the result, as transformers' does unless a
        /// forward says otherwise. Else the heads of one sequence stay where the projection has them,
        /// which libraries see in the distance of their rows. The values are the same.
        cached: bool,
    },
    /// x `[b, n, s, d]` → same shape: pairs of a head's entries rotated by an angle that grows with
    /// the position; the entries behind them copied.
    Rotary(Rotary),
    /// query, key `[b, n, s, d]` → `[b, n, s, s]`: `product_scale · q·kᵀ + alibi_scale · a`, where
    /// `a` is [the ALiBi bias](AlibiForm), rounded to the storage type as a tensor of its own.
    AttentionScores {
        /// Factor of the product.
        product_scale: f32,
        /// Factor of the ALiBi term.
        alibi_scale: f32,
        /// ALiBi slope of every head.
        alibi_slopes: Vec<f32>,
        /// What the slopes multiply.
        alibi_form: AlibiForm,
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
    /// gate, up → same shape: `activation(gate) · up`. The activation counts as one operation.
    Gate(Activation),
    /// a, b → same shape: `a + b`.
    Add,
    /// x → same shape: `factor · x`.
    Scale {
        /// What every element is multiplied by.
        factor: f32,
    },
    /// x → same shape: `cap · tanh(x / cap)`.
    SoftCap {
        /// The bound that no element exceeds.
        cap: f32,
    },
}

impl Op {
    /// Whether the result is made of elements of the inputs: nothing is computed, so there is
    /// nothing to compare that the input does not show.
    pub fn rearranges(&self) -> bool {
        matches!(self, Self::SplitHeads { .. })
    }

    /// Whether a column (entry of the last axis) of the result depends on the same column of the
    /// inputs alone.
    pub fn is_column_wise(&self) -> bool {
        matches!(
            self,
            Self::AddBias
                | Self::Gate(_)
                | Self::Add
                | Self::Activation(_)
                | Self::Scale { .. }
                | Self::SoftCap { .. }
        )
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
    /// Those at its own position plus this and before, and the first one always.
    Shifted(i32),
    /// All.
    Full,
}

impl Mask {
    /// How many keys, from the first on, the query at a position sees of `keys`.
    pub fn seen(self, position: usize, keys: usize) -> usize {
        let shift = match self {
            Self::Causal => 0,
            Self::Shifted(shift) => shift as isize,
            Self::Full => return keys,
        };
        position
            .saturating_add_signed(shift)
            .saturating_add(1)
            .min(keys)
            .max(usize::from(keys > 0))
    }
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

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `x·0.5 · (1 + tanh(0.79788456·x · (1 + 0.044715·x·x)))`, operations in this order: GELU as
    /// BLOOM and Megatron-DeepSpeed write it.
    BloomGelu,
    /// `x·0.5 · (1 + erf(x·√½))`: GELU as it is defined.
    Gelu,
    /// `x · σ(1.702·x)`.
    QuickGelu,
    /// `x · σ(x)`, also called swish.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
}

impl Activation {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::BloomGelu,
        Self::Gelu,
        Self::QuickGelu,
        Self::Silu,
        Self::Relu,
        Self::ReluSquared,
    ];
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::LayerNorm { eps } => write!(f, "layer norm (eps {eps:e})"),
            Self::RmsNorm { eps } => write!(f, "RMS norm (eps {eps:e})"),
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
            Self::Softmax { scale, mask } => {
                match scale {
                    1.0 => f.write_str("softmax")?,
                    _ => write!(f, "softmax of {scale}·scores")?,
                }
                match mask {
                    Mask::Causal => Ok(()),
                    Mask::Shifted(shift) => write!(f, ", mask shifted by {shift}"),
                    Mask::Full => f.write_str(", no mask"),
                }
            }
            Self::Context => f.write_str("probs·value"),
            Self::AddBias => f.write_str("+ bias"),
            Self::Rotary(rotary) => write!(f, "rotary (theta {:e})", rotary.theta),
            Self::Gate(activation) => write!(f, "{activation} gate"),
            Self::Activation(activation) => activation.fmt(f),
            Self::Add => f.write_str("add"),
            Self::Scale { factor } => write!(f, "{factor}·x"),
            Self::SoftCap { cap } => write!(f, "soft cap {cap}"),
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BloomGelu => "gelu (bloom)",
            Self::Gelu => "gelu (erf)",
            Self::QuickGelu => "quick gelu",
            Self::Silu => "silu",
            Self::Relu => "relu",
            Self::ReluSquared => "relu²",
        })
    }
}
