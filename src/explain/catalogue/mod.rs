//! What goes wrong in conversions, one hypothesis a file.
//!
//! A file has a function `rewrites`, which gives the rewrites of a segment that the hypothesis has
//! anything to say about; adding one is a file and a word in the list below. An observation says
//! what looks suspicious where nothing can be rewritten.

pub(super) use bias::split;

use super::rewrite::Rewrite;
use super::subject::Subject;
use crate::error::Result;

/// The rewrites of a segment that follow from one idea of what went wrong.
pub(super) type Hypothesis = for<'a> fn(&Subject<'a>) -> Result<Vec<Rewrite<'a>>>;
/// What looks suspicious, in sentences.
pub(super) type Observation = fn(&Subject<'_>) -> Result<Vec<String>>;

macro_rules! catalogue {
    ($($name:ident,)*) => {
        $(mod $name;)*
        pub(super) const HYPOTHESES: &[Hypothesis] = &[$($name::rewrites,)*];
    };
}

catalogue! {
    activation,
    alibi,
    attention_scale,
    bias,
    bias_fit,
    embedding,
    gate,
    head,
    head_parts,
    mask,
    multiplier,
    norm_epsilon,
    norm_kind,
    norm_weight,
    other_weights,
    partial_sums,
    qkv_layout,
    rank_order,
    residual,
    rotary,
    run_dtype,
    shard_axis,
    soft_cap,
    softmax_precision,
    transposed,
    weight_precision,
}

/// What is said where no rewrite explains everything.
pub(super) const OBSERVATIONS: &[Observation] = &[other_weights::duplicates, bias::zeros];
