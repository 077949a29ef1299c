//! What determines a decoder's computation, and where the frameworks write it down.

use super::{Experts, Features, LatentAttention};
use crate::arch::{ActivationName, Checks, Heads, Model, Settings, megatron_core, rope};
use crate::error::Result;
use crate::op::Frequencies;
use crate::plan::{Arithmetic, Plan};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};
use std::ops::Not;

/// What determines the computation of a Llama or one of its relatives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads of queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Entries of a head.
    pub head_dim: usize,
    /// Rows of the embedding. How many of them are padding differs from framework to framework.
    pub vocab_size: usize,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// The activation of the gate.
    pub hidden_act: ActivationName,
    /// Whether attention's projections have biases.
    pub attention_bias: bool,
    /// Whether queries, keys and values alone have biases.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub qkv_bias: bool,
    /// Whether the heads of queries and keys are normalized before they are rotated.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub qk_norm: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Latents that keys and values are made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<LatentAttention>,
    /// Experts in place of MLPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
    /// By which angles queries and keys are rotated.
    pub rope: Frequencies,
    /// Whether neighbours are rotated together, in place of halves.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub rotary_interleaved: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
}

impl Model for DecoderConfig {
    fn plan(&self, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan> {
        super::plan::plan(self, dtype, arithmetic)
    }

    fn check(&self, checks: &Checks<'_>) -> Result<()> {
        let heads = ("num_attention_heads", self.num_attention_heads);
        checks.size("hidden_size", self.hidden_size)?;
        checks.size("intermediate_size", self.intermediate_size)?;
        checks.size(heads.0, heads.1)?;
        checks.size("num_key_value_heads", self.num_key_value_heads)?;
        checks.size("head_dim", self.head_dim)?;
        checks.size("vocab_size", self.vocab_size)?;
        checks.layers("num_hidden_layers", self.num_hidden_layers)?;
        checks.heads(heads.0, heads.1)?;
        checks.divides("num_key_value_heads", self.num_key_value_heads, heads)?;
        checks.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        if let Some(experts) = &self.experts {
            experts.check(checks)?;
        }
        if let Some(latent) = &self.latent {
            latent.check(checks)?;
        }
        checks.rope(&self.rope, self.head_dim)
    }

    fn layers(&self) -> usize {
        self.num_hidden_layers
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn set_vocab_size(&mut self, rows: usize) {
        self.vocab_size = rows;
    }

    fn heads(&self) -> Heads {
        Heads {
            queries: self.num_attention_heads,
            keys: self.num_key_value_heads,
            dim: self.head_dim,
        }
    }

    fn experts(&self) -> [usize; 2] {
        self.experts
            .as_ref()
            .map_or([0; 2], |experts| [experts.count, experts.chosen])
    }

    fn keeps_type(&self, tensor: &str) -> bool {
        // What transformers lists as kept in fp32.
        let has_bias = self
            .experts
            .as_ref()
            .is_some_and(|experts| experts.correction_bias);
        has_bias
            && (tensor.ends_with(".mlp.gate.weight")
                || tensor.ends_with(".mlp.gate.e_score_correction_bias"))
    }

    fn is_transposed(&self, _: &str) -> bool {
        false
    }

    fn structure(&self) -> Vec<usize> {
        let experts = self.experts.iter().flat_map(|experts| {
            let sizes = [
                experts.count,
                experts.chosen,
                experts.intermediate_size,
                experts.shared_size.unwrap_or(0),
            ];
            sizes
                .into_iter()
                .chain(experts.dense_layers.iter().copied())
        });
        let sizes = vec![
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            self.qk_norm.into(),
        ];
        let latent = self.latent.iter().flat_map(|latent| {
            [
                latent.query_rank.unwrap_or(0),
                latent.key_value_rank,
                latent.plain_dim,
                latent.rotary_dim,
                latent.value_dim,
            ]
        });
        sizes.into_iter().chain(latent).chain(experts).collect()
    }

    fn is_redundant(&self, tensor: &str) -> bool {
        // Older versions of transformers saved the frequencies of every block.
        (self.tie_word_embeddings && tensor == "lm_head.weight")
            || tensor.ends_with("rotary_emb.inv_freq")
    }

    fn tied_embedding(&self) -> Option<&'static str> {
        self.tie_word_embeddings.then_some("embed_tokens.weight")
    }

    fn untie(&mut self) {
        self.tie_word_embeddings = false;
    }
}

/// What a class of transformers takes where a config says nothing.
pub(in crate::arch) struct Defaults {
    pub(in crate::arch) hidden_size: usize,
    pub(in crate::arch) intermediate_size: usize,
    pub(in crate::arch) num_hidden_layers: usize,
    pub(in crate::arch) num_attention_heads: usize,
    /// As many as of queries if `None`.
    pub(in crate::arch) num_key_value_heads: Option<usize>,
    /// The hidden size by heads if `None`.
    pub(in crate::arch) head_dim: Option<usize>,
    pub(in crate::arch) vocab_size: usize,
    pub(in crate::arch) max_position_embeddings: usize,
    pub(in crate::arch) rms_norm_eps: f64,
    pub(in crate::arch) rope_theta: f64,
}

/// The settings that all relatives have, and no features.
pub(in crate::arch) fn shared_settings(
    settings: &Settings<'_>,
    defaults: &Defaults,
) -> Result<DecoderConfig> {
    let size = |key, default| settings.size_or(&[key], default);
    let hidden_size = size("hidden_size", defaults.hidden_size)?;
    let num_attention_heads = size("num_attention_heads", defaults.num_attention_heads)?;
    let keys = defaults.num_key_value_heads.unwrap_or(num_attention_heads);
    let by_heads = hidden_size / num_attention_heads.max(1);
    let head_dim = size("head_dim", defaults.head_dim.unwrap_or(by_heads))?;
    let positions = size("max_position_embeddings", defaults.max_position_embeddings)?;
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: size("intermediate_size", defaults.intermediate_size)?,
        num_hidden_layers: size("num_hidden_layers", defaults.num_hidden_layers)?,
        num_attention_heads,
        num_key_value_heads: size("num_key_value_heads", keys)?,
        head_dim,
        vocab_size: size("vocab_size", defaults.vocab_size)?,
        rms_norm_eps: settings.number_or(&["rms_norm_eps"], defaults.rms_norm_eps)?,
        hidden_act: ActivationName::of(settings, "hidden_act", ActivationName::Silu)?,
        attention_bias: false,
        qkv_bias: false,
        qk_norm: false,
        mlp_bias: false,
        latent: None,
        experts: None,
        rope: rope::of_transformers(settings, head_dim, positions, defaults.rope_theta)?,
        rotary_interleaved: false,
        tie_word_embeddings: settings.flag_or(&["tie_word_embeddings"], false)?,
    })
}

/// Refuses attention that sees a window of tokens alone, as Qwen's classes have it: in the layers that
/// `layer_types` names, or else after the first `max_window_layers`.
pub(in crate::arch) fn refuse_window(settings: &Settings<'_>) -> Result<()> {
    let expected = "full attention: parity has no plan for windows";
    let kinds = settings.texts("layer_types")?;
    if let Some(kinds) = kinds {
        let other = kinds.into_iter().find(|kind| kind != "full_attention");
        return other.map_or(Ok(()), |other| {
            Err(settings.fault("layer_types", expected, format!("{other:?}")))
        });
    }
    let is_used = settings.flag_or(&["use_sliding_window"], false)?;
    let full = settings.size_or(&["max_window_layers"], 28)?;
    let layers = settings.size_or(&["num_hidden_layers"], 32)?;
    if is_used && full < layers {
        return Err(settings.fault("use_sliding_window", expected, true));
    }
    Ok(())
}

/// Reads megatron-core's arguments.
pub(super) fn of_dump(settings: &Settings<'_>, features: Features) -> Result<DecoderConfig> {
    megatron_core::refuse_settings(settings, &["squared_relu"])?;
    megatron_core::require_setting(settings, "normalization", "RMSNorm")?;
    // Biases of row-parallel layers would have to be told from those of the others.
    if settings.flag_or(&["add_bias_linear"], true)? {
        let expected = "false: parity has no plan for biases here";
        return Err(settings.fault("add_bias_linear", expected, true));
    }
    let gated = settings.flag_or(&["gated_linear_unit", "swiglu"], false)?;
    if !gated {
        return Err(settings.fault("gated_linear_unit", "true, as Llama has it", gated));
    }
    let hidden_act = match settings.flag_or(&["swiglu"], false)? {
        true => ActivationName::Silu,
        false => megatron_core::activation(settings)?,
    };
    let hidden_size = settings.size(&["hidden_size"])?;
    let num_attention_heads = settings.size(&["num_attention_heads"])?;
    let head_dim = match settings.optional_size(&["kv_channels"])? {
        Some(given) => given,
        None => hidden_size / num_attention_heads.max(1),
    };
    let latent = features
        .latent
        .then(|| LatentAttention::of_megatron(settings))
        .transpose()?;
    let head_dim = latent.map_or(head_dim, |latent| latent.head_dim());
    let rotary_dim = latent.map_or(head_dim, |latent| latent.rotary_dim);
    // Without the flag Megatron-LM's num_query_groups is its default, 1, and means nothing.
    let grouped = settings.flag_or(&["group_query_attention"], true)?;
    let groups = settings.optional_size(&["num_query_groups"])?;
    let groups = groups.filter(|_| grouped && latent.is_none());
    let groups = groups.unwrap_or(num_attention_heads);
    let layers = settings.size(&["num_layers"])?;
    let wide = settings.size_or(&["ffn_hidden_size"], hidden_size.saturating_mul(4))?;
    let experts = features
        .experts
        .then(|| Experts::of_megatron(settings, layers, wide));
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: wide,
        num_hidden_layers: layers,
        num_attention_heads,
        num_key_value_heads: groups,
        head_dim,
        vocab_size: settings.rows_of_vocabulary()?,
        rms_norm_eps: settings.number_or(&["norm_epsilon", "layernorm_epsilon"], 1e-5)?,
        hidden_act,
        attention_bias: false,
        qkv_bias: features.qkv_bias,
        qk_norm: features.qk_norm,
        mlp_bias: false,
        experts: experts.transpose()?,
        rope: rope::of_megatron_core(settings, rotary_dim)?,
        latent,
        rotary_interleaved: settings.flag_or(&["rotary_interleaved"], false)?,
        tie_word_embeddings: megatron_core::is_tied_in(settings)?,
    })
}
