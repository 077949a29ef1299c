//! What goes wrong in conversions, one hypothesis a file.
//!
//! A file has a function `rewrites`, which gives the rewrites of a subgraph that the hypothesis has
//! anything to say about; adding one is a file, and its name in the two lists below. An observation says
//! what looks suspicious where nothing can be rewritten.

mod activation;
mod alibi;
mod attention_scale;
mod bias;
mod bias_fit;
mod embedding;
mod gate;
mod head;
mod head_parts;
mod mask;
mod multiplier;
mod norm_epsilon;
mod norm_kind;
mod norm_weight;
mod other_weights;
mod partial_sums;
mod qkv_layout;
mod rank_order;
mod residual;
mod rotary;
mod run_dtype;
mod shard_axis;
mod soft_cap;
mod softmax_precision;
mod transposed;
mod weight_precision;

use super::context::Context;
use super::rewrite::Rewrite;
use crate::error::Result;

/// The rewrites of a subgraph that follow from one idea of what went wrong.
pub(super) type Hypothesis = for<'a> fn(&Context<'a>) -> Result<Vec<Rewrite<'a>>>;
/// What looks suspicious, in sentences.
pub(super) type Observation = fn(&Context<'_>) -> Result<Vec<String>>;

/// Every hypothesis.
pub(super) const HYPOTHESES: &[Hypothesis] = &[
    activation::rewrites,
    alibi::rewrites,
    attention_scale::rewrites,
    bias::rewrites,
    bias_fit::rewrites,
    embedding::rewrites,
    gate::rewrites,
    head::rewrites,
    head_parts::rewrites,
    mask::rewrites,
    multiplier::rewrites,
    norm_epsilon::rewrites,
    norm_kind::rewrites,
    norm_weight::rewrites,
    other_weights::rewrites,
    partial_sums::rewrites,
    qkv_layout::rewrites,
    rank_order::rewrites,
    residual::rewrites,
    rotary::rewrites,
    run_dtype::rewrites,
    shard_axis::rewrites,
    soft_cap::rewrites,
    softmax_precision::rewrites,
    transposed::rewrites,
    weight_precision::rewrites,
];

/// What is said where no rewrite explains everything.
pub(super) const OBSERVATIONS: &[Observation] = &[other_weights::duplicates, bias::zeros];
