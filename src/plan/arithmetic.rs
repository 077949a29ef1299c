//! Whose arithmetic a plan follows.

use crate::op::{AlibiSum, AllReduce, Partials, Summation};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The framework whose rounding points a plan has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "framework", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Arithmetic {
    /// transformers, eager: biases inside the product, residual adds rounded once.
    Transformers(TransformersArithmetic),
    /// Megatron: biases after the rounded product, row-parallel products summed over ranks.
    Megatron(MegatronArithmetic),
}

/// What changes transformers' results from config to config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformersArithmetic {
    /// `pretraining_tp` of a BLOOM whose config sets `slow_but_exact`: into how many slices the
    /// products of `dense` and `dense_4h_to_h` are cut, which are multiplied and rounded one by
    /// one. transformers leaves the biases of both out then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_but_exact: Option<usize>,
    /// Whether keys and values went through a key-value cache, on a GPU: libraries choose their
    /// kernels by where operands lie.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_cache: bool,
    /// Whether a mixture's experts are grouped products (`grouped_mm`, the default of transformers 5), whose sum is
    /// rounded once; else (`eager`) it is rounded after every expert.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grouped_experts: bool,
    /// What ALiBi was added to. Nobody records it: it is inferred from the values.
    #[serde(skip)]
    pub alibi_sum: AlibiSum,
}

/// What changes Megatron's results from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MegatronArithmetic {
    /// Ranks that share every layer; at least 1.
    pub tensor_parallel: usize,
    /// How the ranks' parts of a sum are added, if there are more than two. Nobody records it: it is
    /// inferred from the values.
    #[serde(skip)]
    pub all_reduce: AllReduce,
    /// Whether scores are divided by `max(1, block index)` and multiplied back inside the softmax.
    pub query_key_layer_scaling: bool,
    /// Whether LayerNorms and softmax were Megatron's fused CUDA kernels (`MixedFusedLayerNorm`,
    /// `ScaledUpperTriangMaskedSoftmax`) in place of torch's. Says nothing of a run on a CPU.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fused_kernels: bool,
    /// Whether a mixture's router computes in fp32 (`moe_router_dtype`), else in the model's type.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fp32_router: bool,
    /// Ranks that have experts of their own and whose sums are rounded before they are added, as the allgather
    /// dispatcher does; 1 under another one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub expert_ranks: usize,
    /// What ALiBi was added to. Nobody records it: it is inferred from the values.
    #[serde(skip)]
    pub alibi_sum: AlibiSum,
}

fn one() -> usize {
    1
}

fn is_one(ranks: &usize) -> bool {
    *ranks == 1
}

impl Arithmetic {
    /// Whether keys and values went through a key-value cache.
    pub fn uses_cache(&self) -> bool {
        matches!(self, Self::Transformers(transformers) if transformers.use_cache)
    }

    /// The same, ALiBi being added to something else.
    pub fn with_alibi_sum(self, alibi_sum: AlibiSum) -> Self {
        match self {
            Self::Transformers(transformers) => Self::Transformers(TransformersArithmetic {
                alibi_sum,
                ..transformers
            }),
            Self::Megatron(megatron) => Self::Megatron(MegatronArithmetic {
                alibi_sum,
                ..megatron
            }),
        }
    }

    /// The order in which a GPU sums the rows of norms and softmax in this arithmetic.
    pub fn summation(&self) -> Summation {
        match self {
            Self::Megatron(megatron) if megatron.fused_kernels => Summation::MegatronCuda,
            Self::Megatron(_) | Self::Transformers(_) => Summation::TorchCuda,
        }
    }
}

impl MegatronArithmetic {
    /// How row-parallel products are summed.
    pub fn partials(&self) -> Partials {
        Partials {
            count: self.tensor_parallel,
            order: self.all_reduce,
        }
    }

    /// By what the scores of a block are divided: its number, with query-key layer scaling.
    pub fn score_divisor(&self, layer: usize) -> f32 {
        if self.query_key_layer_scaling {
            layer.max(1) as f32
        } else {
            1.0
        }
    }
}

impl Default for Arithmetic {
    /// transformers', of a config without peculiarities.
    fn default() -> Self {
        Self::Transformers(TransformersArithmetic::default())
    }
}

impl Default for MegatronArithmetic {
    fn default() -> Self {
        Self {
            tensor_parallel: 1,
            all_reduce: AllReduce::default(),
            query_key_layer_scaling: true,
            fused_kernels: false,
            fp32_router: false,
            expert_ranks: 1,
            alibi_sum: AlibiSum::default(),
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transformers(transformers) => match transformers.slow_but_exact {
                None => f.write_str("transformers"),
                Some(n) => write!(f, "transformers (slow_but_exact, pretraining_tp {n})"),
            },
            Self::Megatron(megatron) => match megatron.tensor_parallel {
                1 => f.write_str("megatron"),
                n => write!(f, "megatron (tensor parallel {n})"),
            },
        }
    }
}
