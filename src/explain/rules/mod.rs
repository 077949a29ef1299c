//! What goes wrong in conversions, one rule a file.
//!
//! A rule is added by a file with a type that implements [`Rule`], and its name in the list below.

mod activation;
mod alibi;
mod attention_scale;
pub(super) mod bias;
mod bias_values;
mod dropout;
mod embedding;
mod experts;
mod gate;
mod head;
mod head_order;
mod head_parts;
mod low_rank;
mod mask;
mod multiplier;
mod norm_epsilon;
mod norm_kind;
mod norm_weight;
pub(super) mod other_weights;
pub(super) mod padding;
mod partial_sums;
mod qkv_layout;
mod rank_order;
mod residual;
mod rotary;
mod router;
mod row_order;
mod run_dtype;
mod shard_axis;
mod soft_cap;
mod softmax_precision;
mod transposed;
mod weight_precision;
mod weight_rows;

use super::Rule;

/// Every rule.
pub(super) static RULES: &[&dyn Rule] = &[
    &activation::Activation,
    &alibi::Alibi,
    &attention_scale::AttentionScale,
    &bias::Bias,
    &bias_values::BiasValues,
    &dropout::Dropout,
    &embedding::Embedding,
    &experts::Experts,
    &gate::Gate,
    &head::Head,
    &head_order::HeadOrder,
    &head_parts::HeadParts,
    &low_rank::LowRank,
    &mask::Mask,
    &multiplier::Multiplier,
    &norm_epsilon::NormEpsilon,
    &norm_kind::NormKind,
    &norm_weight::NormWeight,
    &other_weights::OtherWeights,
    &padding::Padding,
    &partial_sums::PartialSums,
    &qkv_layout::QkvLayout,
    &rank_order::RankOrder,
    &residual::Residual,
    &rotary::Rotary,
    &router::Router,
    &row_order::RowOrder,
    &run_dtype::RunDtype,
    &shard_axis::ShardAxis,
    &soft_cap::SoftCap,
    &softmax_precision::SoftmaxPrecision,
    &transposed::Transposed,
    &weight_precision::WeightPrecision,
    &weight_rows::WeightRows,
];
