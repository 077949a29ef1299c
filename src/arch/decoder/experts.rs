//! Mixtures of experts, as configs describe them.

use crate::arch::megatron_core::EXPERTS;
use crate::arch::{Checks, Settings};
use crate::error::Result;
use crate::op::RouterScores;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::Not;

/// A mixture of experts in place of an MLP: a router chooses some of them for every token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many are chosen for every token.
    pub chosen: usize,
    /// Width of an expert.
    pub intermediate_size: usize,
    /// What the router makes of its logits.
    pub scores: RouterScores,
    /// Whether the scores of the chosen are divided by their sum.
    pub normalized: bool,
    /// By what they are multiplied then.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub scaling: f64,
    /// Groups that are chosen before their experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<ExpertGroups>,
    /// Whether a bias is added to the scores for the choice.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub correction_bias: bool,
    /// Width of an expert that all tokens go through besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_size: Option<usize>,
    /// Blocks that have an MLP all the same, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dense_layers: Vec<usize>,
    /// Whether transformers' router computes in fp32, whatever the model's type.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub fp32_router: bool,
    /// Whether transformers rounds the weights to the model's type, which it computes in fp32.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub rounded_weights: bool,
    /// What the tensors are called.
    #[serde(default, skip_serializing_if = "ExpertNames::are_default")]
    pub names: ExpertNames,
}

/// Experts in groups of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertGroups {
    /// How many groups there are.
    pub count: usize,
    /// How many of them are chosen from.
    pub chosen: usize,
}

/// What the tensors of a mixture of experts are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertNames {
    /// `mlp.gate`, `mlp.experts.0.gate_proj`, `up_proj`, `down_proj`.
    #[default]
    Mlp,
    /// `block_sparse_moe.gate`, `block_sparse_moe.experts.0.w1`, `w3`, `w2`: Mixtral's.
    BlockSparse,
}

fn one() -> f64 {
    1.0
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

/// A layer of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpertLayer {
    Gate,
    Up,
    Down,
}

impl ExpertNames {
    fn are_default(&self) -> bool {
        *self == Self::default()
    }

    /// The module that has them.
    pub(super) fn module(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::BlockSparse => "block_sparse_moe",
        }
    }

    /// A layer of an expert, in that module.
    pub(super) fn layer(self, expert: usize, layer: ExpertLayer) -> String {
        let name = match (self, layer) {
            (Self::Mlp, ExpertLayer::Gate) => "gate_proj",
            (Self::Mlp, ExpertLayer::Up) => "up_proj",
            (Self::Mlp, ExpertLayer::Down) => "down_proj",
            (Self::BlockSparse, ExpertLayer::Gate) => "w1",
            (Self::BlockSparse, ExpertLayer::Up) => "w3",
            (Self::BlockSparse, ExpertLayer::Down) => "w2",
        };
        format!("experts.{expert}.{name}")
    }
}

/// Megatron's settings that switch on what parity has no plan for in a mixture of experts.
const FOREIGN: [&str; 10] = [
    "moe_apply_probs_on_input",
    "moe_expert_capacity_factor",
    "moe_expert_rank_capacity_factor",
    "moe_latent_size",
    "moe_mlp_glu_interleave_size",
    "moe_router_force_biased",
    "moe_router_force_load_balancing",
    "moe_router_topk_limited_devices",
    "moe_shared_expert_gate",
    "moe_shared_expert_glu_interleave_size",
];

impl Experts {
    /// Whether a block has them.
    pub(super) fn are_in(&self, layer: usize) -> bool {
        !self.dense_layers.contains(&layer)
    }

    /// Checks sizes.
    pub(super) fn check(&self, checks: &Checks<'_>) -> Result<()> {
        checks.experts("experts.count", self.count)?;
        checks.size("experts.intermediate_size", self.intermediate_size)?;
        checks.size("experts.chosen", self.chosen)?;
        let most = match self.groups {
            None => self.count,
            Some(groups) => {
                checks.size("experts.groups.count", groups.count)?;
                checks.divides(
                    "experts.groups.count",
                    groups.count,
                    ("experts", self.count),
                )?;
                checks.at_most("experts.groups.chosen", groups.chosen, groups.count)?;
                checks.size("experts.groups.chosen", groups.chosen)?;
                groups.chosen * (self.count / groups.count)
            }
        };
        checks.at_most("experts.chosen", self.chosen, most)?;
        match self.shared_size {
            Some(size) => checks.size("experts.shared_size", size),
            None => Ok(()),
        }
    }

    /// Reads megatron-core's settings of a model of so many layers; `wide` is the width of its MLPs.
    ///
    /// # Errors
    /// If one is missing, or asks for what parity has no plan for.
    pub(super) fn of_megatron(settings: &Settings<'_>, layers: usize, wide: usize) -> Result<Self> {
        for key in FOREIGN {
            settings.refuse_on(key)?;
        }
        let balancing = settings.text(&["moe_router_load_balancing_type"]);
        if let Ok(Some(kind)) = balancing
            && kind == "sinkhorn"
        {
            let expected = "a choice of the highest scores";
            return Err(settings.fault("moe_router_load_balancing_type", expected, kind));
        }
        let chosen = settings.size_or(&["moe_router_topk"], 2)?;
        let scores = match settings.text(&["moe_router_score_function"])?.as_deref() {
            None | Some("softmax") => RouterScores::Softmax,
            Some("sigmoid") => RouterScores::Sigmoid,
            Some(other) => {
                let found = format!("{other:?}");
                return Err(settings.fault(
                    "moe_router_score_function",
                    "softmax or sigmoid",
                    found,
                ));
            }
        };
        let before = settings.flag_or(&["moe_router_pre_softmax"], false)?;
        let groups = settings.optional_size(&["moe_router_num_groups"])?;
        let groups = groups.map(|count| -> Result<ExpertGroups> {
            let chosen = settings.size(&["moe_router_group_topk"])?;
            Ok(ExpertGroups { count, chosen })
        });
        Ok(Self {
            count: settings.size(&EXPERTS)?,
            chosen,
            intermediate_size: settings.size_or(&["moe_ffn_hidden_size"], wide)?,
            scores,
            normalized: match scores {
                RouterScores::Softmax => !before,
                RouterScores::Sigmoid => chosen > 1,
            },
            scaling: settings
                .optional_number(&["moe_router_topk_scaling_factor"])?
                .unwrap_or(1.0),
            groups: groups.transpose()?,
            correction_bias: settings.flag_or(&["moe_router_enable_expert_bias"], false)?,
            shared_size: settings.optional_size(&["moe_shared_expert_intermediate_size"])?,
            dense_layers: dense_layers(settings, layers)?,
            fp32_router: false,
            rounded_weights: false,
            names: ExpertNames::Mlp,
        })
    }
}

/// The blocks that have no experts: of a list, those with 0; of a number `n`, all but every `n`th.
fn dense_layers(settings: &Settings<'_>, layers: usize) -> Result<Vec<usize>> {
    let key = "moe_layer_freq";
    let fault = |found: &Value| {
        let expected = format!("a number, or a list of 0 and 1 for {layers} layers");
        settings.fault(key, &expected, found)
    };
    let Some(value) = settings.any(key)? else {
        return Ok(Vec::new());
    };
    if let Some(every) = value.as_u64().filter(|every| *every > 0) {
        return Ok((0..layers)
            .filter(|layer| !(*layer as u64).is_multiple_of(every))
            .collect());
    }
    let list: Option<Vec<u64>> = match &value {
        Value::Array(list) => list.iter().map(Value::as_u64).collect(),
        // As Python shows one.
        Value::String(text) => serde_json::from_str(text).ok(),
        _ => None,
    };
    let list = list.filter(|list| list.len() == layers && list.iter().all(|entry| *entry < 2));
    let list = list.ok_or_else(|| fault(&value))?;
    let dense = list.iter().enumerate().filter(|(_, entry)| **entry == 0);
    Ok(dense.map(|(layer, _)| layer).collect())
}
