//! Decoders from megatron-core.
//!
//! Megatron fuses query, key and value per *group* of heads that share a key: rows
//! `[groups, heads/groups + 2, head_dim]`. Gate and up projection are one matrix, the gate first;
//! every rank has its rows of both. Both frameworks rotate halves, so rotary embeddings need no
//! permutation.

use super::experts::ExpertLayer;
use super::{Experts, Features, LatentAttention, Relative};
use crate::arch::ActivationName;
use crate::arch::Settings;
use crate::arch::arguments::Arguments;
use crate::arch::megatron::{require, unsupported, vocabulary};
use crate::arch::megatron_core::{
    EMBEDDING, EXPERTS, HANDLED, ZERO_CENTRED, add_head, epsilon, gated_otherwise, groups,
    head_dim, is_tied, require_activation, zero_centred,
};
use crate::arch::recipe::{Recipe, Relayout, TensorRecipe, object};
use crate::arch::rope::{
    HIGH_FREQ_FACTOR, INTERPOLATION, LOW_FREQ_FACTOR, ORIGINAL_POSITIONS, ROPE_SCALING,
};
use crate::checkpoint::megatron::{MegatronCheckpoint, Partition};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// Arguments that all relatives' recipes read, besides those of every model of megatron-core.
const READ: &[&str] = &[
    "add_qkv_bias",
    "qk_layernorm",
    "max_position_embeddings",
    "rotary_base",
    "rotary_percent",
    "rotary_seq_len_interpolation_factor",
    "seq_len_interpolation_factor",
    "rope_scaling",
    "rope_scaling_factor",
    "use_rope_scaling",
];
/// Arguments that have to be told.
const REQUIRED: [&[&str]; 11] = [
    &["hidden_size"],
    &["num_attention_heads"],
    &["num_query_groups", "group_query_attention"],
    &["num_layers"],
    &["ffn_hidden_size"],
    &["layernorm_epsilon", "norm_epsilon"],
    &["swiglu", "activation_func"],
    &["position_embedding_type"],
    &["max_position_embeddings"],
    &["rotary_base"],
    &["rotary_percent"],
];
/// Switches that are off where nothing is said.
const OFF: [&[&str]; 3] = [
    &["apply_layernorm_1p", "layernorm_zero_centered_gamma"],
    &INTERPOLATION,
    &ROPE_SCALING,
];

/// What relatives' recipes make of arguments.
pub(in crate::arch) const ARGUMENTS: Arguments = Arguments {
    handled: &[HANDLED, READ],
    without_effect: &[&[
        // transformers' models have no other dropout than attention's.
        "hidden_dropout",
        // Another word for `position_embedding_type`.
        "use_rotary_position_embeddings",
        // Of GELU; SiLU has one formula.
        "bias_activation_fusion",
        "bias_gelu_fusion",
        "openai_gelu",
        "use_te_activation_func",
        "use_transformer_engine_op_fuser",
    ]],
    required: &REQUIRED,
    required_by: &[
        ("group_query_attention", "num_query_groups"),
        ("use_rope_scaling", "rope_scaling_factor"),
        ("rope_scaling", "rope_scaling_factor"),
    ],
    off: &OFF,
};

/// The same of relatives with experts.
pub(in crate::arch) const EXPERT_ARGUMENTS: Arguments = Arguments {
    handled: &[HANDLED, READ, &EXPERTS],
    required: {
        const OF_EXPERTS: [&[&str]; 2] = [&EXPERTS, &["moe_router_topk"]];
        const ALL: [&[&str]; 13] = both(REQUIRED, OF_EXPERTS);
        &ALL
    },
    off: {
        const OF_EXPERTS: [&[&str]; 3] = [
            &["moe_router_pre_softmax"],
            &["moe_router_num_groups"],
            &["moe_router_topk_scaling_factor"],
        ];
        const ALL: [&[&str]; 6] = both(OFF, OF_EXPERTS);
        &ALL
    },
    ..ARGUMENTS
};

/// Arguments that recipes of latent attention read besides.
const OF_LATENTS: &[&str] = &[
    "multi_latent_attention",
    "rope_type",
    // Layers that predict further ahead are left out, by their names.
    "mtp_num_layers",
];

/// The same of relatives whose attention is latent, too.
pub(in crate::arch) const LATENT_ARGUMENTS: Arguments = Arguments {
    handled: &[HANDLED, READ, &EXPERTS, OF_LATENTS],
    required: {
        const OF_LATENTS: [&[&str]; 4] = [
            &["kv_lora_rank"],
            &["qk_head_dim"],
            &["qk_pos_emb_head_dim"],
            &["v_head_dim"],
        ];
        const OF_EXPERTS: [&[&str]; 2] = [&EXPERTS, &["moe_router_topk"]];
        const BOTH: [&[&str]; 6] = both(OF_LATENTS, OF_EXPERTS);
        const ALL: [&[&str]; 17] = both(REQUIRED, BOTH);
        &ALL
    },
    ..EXPERT_ARGUMENTS
};

/// Two lists as one.
const fn both<const A: usize, const B: usize, const N: usize>(
    first: [&'static [&'static str]; A],
    second: [&'static [&'static str]; B],
) -> [&'static [&'static str]; N] {
    assert!(A + B == N, "as long as both");
    let mut all: [&[&str]; N] = [&[]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < A { first[at] } else { second[at - A] };
        at += 1;
    }
    all
}

/// A checkpoint that is being converted, and the sizes that its arguments name.
pub(in crate::arch) struct Converting<'a> {
    checkpoint: &'a MegatronCheckpoint,
    hidden: usize,
    heads: usize,
    groups: usize,
    head_dim: usize,
    layers: usize,
    wide: usize,
    /// Whether all linear layers have biases.
    pub(in crate::arch) biases: bool,
    features: Features,
    experts: Option<Experts>,
    latent: Option<LatentAttention>,
    /// Whether it holds the weights of norms less one.
    less_one: bool,
}

/// How a model of transformers is made of a checkpoint.
pub(super) fn recipe<T: Relative>(
    checkpoint: &MegatronCheckpoint,
    tokens: Option<usize>,
) -> Result<Recipe> {
    let args = checkpoint.args();
    let refuse = |argument| unsupported(checkpoint, T::NAME, argument);
    require(checkpoint, T::NAME, "normalization", "RMSNorm")?;
    require(checkpoint, T::NAME, "position_embedding_type", "rope")?;
    require_activation(checkpoint, T::NAME, ActivationName::Silu)?;
    if let Some(otherwise) = gated_otherwise(checkpoint, true)? {
        return Err(refuse(otherwise));
    }
    if args.number("rotary_percent")? != 1.0 {
        return Err(refuse("rotary_percent"));
    }
    T::FEATURES.agree_with(args)?;
    let hidden = args.size("hidden_size")?;
    let heads = args.size("num_attention_heads")?;
    let layers = args.layers()?;
    let wide = args.size("ffn_hidden_size")?;
    let experts = T::FEATURES.experts.then(|| {
        let settings = Settings::of_arguments(args);
        Experts::of_megatron(&settings, layers, wide).map(T::experts)
    });
    let latent = T::FEATURES
        .latent
        .then(|| LatentAttention::of_megatron(&Settings::of_arguments(args)));
    let converting = Converting {
        checkpoint,
        hidden,
        heads,
        groups: groups(checkpoint, heads)?,
        head_dim: head_dim(checkpoint, hidden, heads)?,
        layers,
        wide,
        biases: args.flag_or("add_bias_linear", false)?,
        features: T::FEATURES,
        experts: experts.transpose()?,
        latent: latent.transpose()?,
        less_one: zero_centred(checkpoint)?,
    };
    let tied = is_tied(checkpoint)?;
    let (padded, vocabulary) = vocabulary(checkpoint, EMBEDDING, tokens)?;

    let table = [padded, hidden];
    let embedding = "model.embed_tokens.weight";
    let rows = TensorRecipe::plain(embedding, EMBEDDING, Partition::Axis(0), &table);
    let mut tensors = vec![rows.first_rows(vocabulary)];
    for layer in 0..converting.layers {
        tensors.extend(converting.block(layer));
    }
    let norm = "decoder.final_layernorm.weight";
    tensors.push(converting.norm("model.norm.weight".into(), norm.into(), hidden));
    let copies = add_head(&mut tensors, tied.then_some(embedding), table, vocabulary);

    let theta = args.number("rotary_base")?;
    let scaling = rotary_scaling(checkpoint, T::NAME)?;
    let mut rope = object(json!({ "rope_type": "default", "rope_theta": theta }));
    rope.extend(scaling.clone().unwrap_or_default());
    let mut config = object(json!({
        "architectures": [T::CLASS],
        "model_type": T::MODEL_TYPE,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": converting.wide,
        "num_hidden_layers": converting.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": converting.groups,
        "head_dim": converting.head_dim,
        "rms_norm_eps": epsilon(checkpoint)?,
        // transformers 5 reads rope_parameters, earlier versions the two before it.
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rope_parameters": rope,
        "max_position_embeddings": args.size("max_position_embeddings")?,
        "hidden_act": "silu",
        "attention_dropout": args.dropout("attention_dropout")?,
        "tie_word_embeddings": tied,
    }));
    config.extend(T::settings(&converting)?);
    let notes = converting.less_one.then(|| ZERO_CENTRED.into());
    Ok(Recipe {
        config,
        tensors,
        copies,
        notes: notes.into_iter().collect(),
    })
}

impl Converting<'_> {
    /// Refuses biases of all layers, which not all relatives have.
    pub(in crate::arch) fn refuse_biases<T: Relative>(&self) -> Result<()> {
        match self.biases {
            true => Err(unsupported(self.checkpoint, T::NAME, "add_bias_linear")),
            false => Ok(()),
        }
    }

    /// Heads of queries.
    pub(in crate::arch) fn heads(&self) -> usize {
        self.heads
    }

    /// Its latents.
    ///
    /// # Errors
    /// If it has none.
    pub(in crate::arch) fn latent<T: Relative>(&self) -> Result<&LatentAttention> {
        let missing = || unsupported(self.checkpoint, T::NAME, "multi_latent_attention");
        self.latent.as_ref().ok_or_else(missing)
    }

    /// Its experts.
    ///
    /// # Errors
    /// If it has none.
    pub(in crate::arch) fn experts<T: Relative>(&self) -> Result<&Experts> {
        let missing = || unsupported(self.checkpoint, T::NAME, EXPERTS[0]);
        self.experts.as_ref().ok_or_else(missing)
    }

    /// The error of a checkpoint whose arguments say what an architecture lacks: the first of these that says
    /// anything.
    pub(in crate::arch) fn unlike<T: Relative>(&self, arguments: &[&str]) -> Error {
        let args = self.checkpoint.args();
        let says = |name: &&&str| {
            let plain = ["softmax", "1", "1.0"];
            args.get(name)
                .is_some_and(|arg| !arg.is_empty() && !plain.contains(&arg.to_string().as_str()))
        };
        let found = arguments.iter().find(says);
        unsupported(self.checkpoint, T::NAME, found.unwrap_or(&arguments[0]))
    }

    /// The tensors of a block.
    fn block(&self, layer: usize) -> Vec<TensorRecipe> {
        let at = Place {
            target: format!("model.layers.{layer}"),
            source: format!("decoder.layers.{layer}"),
        };
        let norms = [
            ("input_layernorm", "input_layernorm"),
            ("post_attention_layernorm", "pre_mlp_layernorm"),
        ];
        let norms = norms.map(|(ours, theirs)| {
            let [target, source] = at.names(ours, theirs, "weight");
            self.norm(target, source, self.hidden)
        });
        let mut tensors = norms.to_vec();
        let attention = at.within("self_attn", "self_attention");
        tensors.extend(match &self.latent {
            Some(latent) => self.latent_attention(&attention, latent),
            None => self.attention(&attention),
        });
        match &self.experts {
            Some(experts) if experts.are_in(layer) => {
                let mixture = at.within(experts.names.module(), "mlp");
                tensors.extend(self.mixture(&mixture, experts));
            }
            _ => tensors.extend(self.mlp(&at.within("mlp", "mlp"), self.wide)),
        }
        tensors
    }

    /// A router and its experts.
    fn mixture(&self, at: &Place, experts: &Experts) -> Vec<TensorRecipe> {
        let (hidden, wide) = (self.hidden, experts.intermediate_size);
        let [target, source] = at.names("gate", "router", "weight");
        let shape = [experts.count, hidden];
        let mut tensors = vec![TensorRecipe::plain(
            target,
            source,
            Partition::Replicated,
            &shape,
        )];
        if experts.correction_bias {
            let target = format!("{}.gate.e_score_correction_bias", at.target);
            let source = format!("{}.router.expert_bias", at.source);
            let bias = TensorRecipe::plain(target, source, Partition::Replicated, &[experts.count]);
            tensors.push(bias.of_its_type());
        }
        if let Some(wide) = experts.shared_size {
            tensors.extend(self.mlp(&at.within("shared_experts", "shared_experts"), wide));
        }
        let layout = ExpertLayout::of(self.checkpoint, &at.source);
        for expert in 0..experts.count {
            let target = |layer| {
                let layer = experts.names.layer(expert, layer);
                format!("{}.{layer}.weight", at.target)
            };
            let halves = [ExpertLayer::Gate, ExpertLayer::Up];
            for (half, layer) in halves.into_iter().enumerate() {
                let both = layout.source(&at.source, "linear_fc1", expert);
                let both = match layout {
                    ExpertLayout::Stacked => {
                        let all = [experts.count, 2 * wide, hidden];
                        let fused =
                            TensorRecipe::plain(target(layer), both, Partition::Axis(0), &all);
                        let moves = vec![
                            kept(0, expert),
                            Relayout::Split {
                                axis: 1,
                                inner: wide,
                            },
                            kept(1, half),
                        ];
                        fused.by(moves, &[wide, hidden])
                    }
                    ExpertLayout::Each | ExpertLayout::Numbered => {
                        let fused = TensorRecipe::plain(
                            target(layer),
                            both,
                            Partition::Gated,
                            &[2, wide, hidden],
                        );
                        fused.by(vec![kept(0, half)], &[wide, hidden])
                    }
                };
                tensors.push(both);
            }
            let down = layout.source(&at.source, "linear_fc2", expert);
            let target = target(ExpertLayer::Down);
            tensors.push(match layout {
                ExpertLayout::Stacked => {
                    let all = [experts.count, hidden, wide];
                    let all = TensorRecipe::plain(target, down, Partition::Axis(0), &all);
                    all.by(vec![kept(0, expert)], &[hidden, wide])
                }
                ExpertLayout::Each | ExpertLayout::Numbered => {
                    TensorRecipe::plain(target, down, Partition::Axis(1), &[hidden, wide])
                }
            });
        }
        tensors
    }

    /// The weight of a norm.
    fn norm(&self, target: String, source: String, width: usize) -> TensorRecipe {
        let norm = TensorRecipe::plain(target, source, Partition::Replicated, &[width]);
        norm.less_one(self.less_one)
    }

    fn attention(&self, at: &Place) -> Vec<TensorRecipe> {
        let (hidden, dim, groups) = (self.hidden, self.head_dim, self.groups);
        let queries = self.heads / groups;
        let of_group: [(&str, Range<usize>); 3] = [
            ("q_proj", 0..queries),
            ("k_proj", queries..queries + 1),
            ("v_proj", queries + 1..queries + 2),
        ];
        let mut tensors = Vec::new();
        for part in parts(self.biases || self.features.qkv_bias) {
            let shape = |rows| part.shape(rows, hidden);
            for (name, range) in of_group.clone() {
                let rows = range.len() * groups * dim;
                let split = |inner| Relayout::Split { axis: 0, inner };
                let keep = Relayout::Keep { axis: 1, range };
                let [name, fused] = at.names(name, "linear_qkv", part.name());
                let all = shape((queries + 2) * groups * dim);
                let fused = TensorRecipe::plain(name, fused, Partition::Axis(0), &all);
                tensors.push(fused.by(vec![split(dim), split(queries + 2), keep], &shape(rows)));
            }
        }
        tensors.extend(self.row_parallel(at, "o_proj", "linear_proj", self.heads * dim));
        if self.features.qk_norm {
            for (ours, theirs) in [("q_norm", "q_layernorm"), ("k_norm", "k_layernorm")] {
                let [target, source] = at.names(ours, theirs, "weight");
                tensors.push(self.norm(target, source, dim));
            }
        }
        tensors
    }

    /// Projections to latents and from them, in the order of rows that transformers has, too.
    fn latent_attention(&self, at: &Place, latent: &LatentAttention) -> Vec<TensorRecipe> {
        let (hidden, heads) = (self.hidden, self.heads);
        let weight = |ours: &str, theirs: &str, shape: [usize; 2]| {
            let [target, source] = at.names(ours, theirs, "weight");
            // Transformer Engine's ranks have all of a latent.
            let listed = self.checkpoint.get(&source);
            let is_whole = listed.is_some_and(|listed| listed.shape.first() == Some(&shape[0]));
            let partition = match is_whole {
                true => Partition::Replicated,
                false => Partition::Axis(0),
            };
            TensorRecipe::plain(target, source, partition, &shape)
        };
        let norm = |ours: &str, theirs: &str, width| {
            let [target, source] = at.names(ours, theirs, "weight");
            self.norm(target, source, width)
        };
        let queries = heads * latent.head_dim();
        let mut tensors = match latent.query_rank {
            Some(rank) => vec![
                weight("q_a_proj", "linear_q_down_proj", [rank, hidden]),
                norm("q_a_layernorm", "q_layernorm", rank),
                weight("q_b_proj", "linear_q_up_proj", [queries, rank]),
            ],
            None => vec![weight("q_proj", "linear_q_proj", [queries, hidden])],
        };
        let rank = latent.key_value_rank;
        let down = [rank + latent.rotary_dim, hidden];
        let up = [heads * (latent.plain_dim + latent.value_dim), rank];
        tensors.push(weight("kv_a_proj_with_mqa", "linear_kv_down_proj", down));
        tensors.push(norm("kv_a_layernorm", "kv_layernorm", rank));
        tensors.push(weight("kv_b_proj", "linear_kv_up_proj", up));
        tensors.extend(self.row_parallel(at, "o_proj", "linear_proj", heads * latent.value_dim));
        tensors
    }

    /// A gated MLP of this width.
    fn mlp(&self, at: &Place, wide: usize) -> Vec<TensorRecipe> {
        let mut tensors = Vec::new();
        for part in parts(self.biases) {
            for (index, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                let half = index..index + 1;
                let keep = Relayout::Keep {
                    axis: 0,
                    range: half,
                };
                let [name, both] = at.names(name, "linear_fc1", part.name());
                let shape = part.shape(wide, self.hidden);
                let both_shape = [&[2], shape.as_slice()].concat();
                let both = TensorRecipe::plain(name, both, Partition::Gated, &both_shape);
                tensors.push(both.by(vec![keep], &shape));
            }
        }
        tensors.extend(self.row_parallel(at, "down_proj", "linear_fc2", wide));
        tensors
    }

    /// A layer back to the residual stream, of which ranks divide the inputs.
    fn row_parallel(
        &self,
        at: &Place,
        ours: &str,
        theirs: &str,
        inner: usize,
    ) -> Vec<TensorRecipe> {
        let tensors = parts(self.biases).iter().map(|part| {
            let partition = match part {
                LayerPart::Weight => Partition::Axis(1),
                LayerPart::Bias => Partition::Replicated,
            };
            let [target, source] = at.names(ours, theirs, part.name());
            TensorRecipe::plain(target, source, partition, &part.shape(self.hidden, inner))
        });
        tensors.collect()
    }
}

/// One of an axis.
fn kept(axis: usize, index: usize) -> Relayout {
    Relayout::Keep {
        axis,
        range: index..index + 1,
    }
}

/// How a checkpoint keeps the weights of experts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExpertLayout {
    /// A tensor each: `experts.local_experts.0.linear_fc1.weight`.
    Each,
    /// The same by Transformer Engine: `experts.linear_fc1.weight0`.
    Numbered,
    /// All in one: `experts.experts.linear_fc1.weight`, as `torch_dist` stacks them.
    Stacked,
}

impl ExpertLayout {
    /// That of the mixture at a module.
    fn of(checkpoint: &MegatronCheckpoint, module: &str) -> Self {
        let all = [Self::Stacked, Self::Numbered, Self::Each];
        let is_there = |layout: &Self| {
            checkpoint
                .get(&layout.source(module, "linear_fc1", 0))
                .is_some()
        };
        all.into_iter().find(is_there).unwrap_or(Self::Each)
    }

    /// The tensor that has a layer of an expert.
    fn source(self, module: &str, layer: &str, expert: usize) -> String {
        match self {
            Self::Each => format!("{module}.experts.local_experts.{expert}.{layer}.weight"),
            Self::Numbered => format!("{module}.experts.{layer}.weight{expert}"),
            Self::Stacked => format!("{module}.experts.experts.{layer}.weight"),
        }
    }
}

/// A module on both sides.
struct Place {
    target: String,
    source: String,
}

impl Place {
    /// A module in this one.
    fn within(&self, ours: &str, theirs: &str) -> Self {
        Self {
            target: format!("{}.{ours}", self.target),
            source: format!("{}.{theirs}", self.source),
        }
    }

    /// The names of a tensor of a module in this one.
    fn names(&self, ours: &str, theirs: &str, tensor: &str) -> [String; 2] {
        let Self { target, source } = self.within(ours, theirs);
        [target, source].map(|module| format!("{module}.{tensor}"))
    }
}

/// A tensor of a linear layer.
#[derive(Clone, Copy)]
enum LayerPart {
    Weight,
    Bias,
}

/// The tensors of a linear layer, with a bias or without one.
fn parts(bias: bool) -> &'static [LayerPart] {
    match bias {
        true => &[LayerPart::Weight, LayerPart::Bias],
        false => &[LayerPart::Weight],
    }
}

impl LayerPart {
    fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
        }
    }

    /// Its shape in a layer of these extents.
    fn shape(self, rows: usize, columns: usize) -> Vec<usize> {
        match self {
            Self::Weight => vec![rows, columns],
            Self::Bias => vec![rows],
        }
    }
}

fn rotary_scaling(
    checkpoint: &MegatronCheckpoint,
    architecture: &str,
) -> Result<Option<Map<String, Value>>> {
    let args = checkpoint.args();
    if args.flag_or("multi_latent_attention", false)? {
        return latent_scaling(checkpoint);
    }
    let scaled = match args.named(&ROPE_SCALING)? {
        Some(name) => args.flag_or(name, false)?,
        None => false,
    };
    if let Some(name) = args.named(&INTERPOLATION)? {
        let factor = args.number(name)?;
        if factor != 1.0 {
            // transformers has one scaling or the other.
            if scaled || factor <= 0.0 {
                return Err(unsupported(checkpoint, architecture, name));
            }
            let linear = json!({"rope_type": "linear", "factor": factor});
            return Ok(Some(object(linear)));
        }
    }
    if !scaled {
        return Ok(None);
    }
    Ok(Some(object(json!({
        "rope_type": "llama3",
        "factor": args.number("rope_scaling_factor")?,
        "low_freq_factor": LOW_FREQ_FACTOR,
        "high_freq_factor": HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": ORIGINAL_POSITIONS,
    }))))
}

/// The scaling of latent attention: YaRN's, unless it is none.
fn latent_scaling(checkpoint: &MegatronCheckpoint) -> Result<Option<Map<String, Value>>> {
    let settings = Settings::of_arguments(checkpoint.args());
    let kind = settings.text(&["rope_type"])?;
    if kind.as_deref() == Some("rope") {
        return Ok(None);
    }
    let number = |key, default| settings.number_or(&[key], default);
    Ok(Some(object(json!({
        "rope_type": "yarn",
        "factor": number("rotary_scaling_factor", 40.0)?,
        "mscale": number("mscale", 1.0)?,
        "mscale_all_dim": number("mscale_all_dim", 0.0)?,
        "beta_fast": number("beta_fast", 32.0)?,
        "beta_slow": number("beta_slow", 1.0)?,
        "original_max_position_embeddings":
            settings.size_or(&["original_max_position_embeddings"], 4096)?,
    }))))
}
