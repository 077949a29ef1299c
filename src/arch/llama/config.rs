//! What determines a Llama's computation, and where the frameworks write it down.

use super::convert::LLAMA;
use crate::arch::{
    ActivationName, Checks, Framework, Heads, Model, ModelConfig, Read, Settings, megatron_core,
    rope,
};
use crate::checkpoint::megatron::MegatronCheckpoint;
use crate::error::Result;
use crate::op::Frequencies;
use crate::plan::{Arithmetic, MegatronArithmetic, Plan, TransformersArithmetic};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};

/// What determines a Llama model's computation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
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
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// By which angles queries and keys are rotated.
    pub rope: Frequencies,
    /// Whether neighbours are rotated together, in place of halves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotary_interleaved: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
}

impl Model for LlamaConfig {
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

    fn is_transposed(&self, _: &str) -> bool {
        false
    }

    fn structure(&self) -> Vec<usize> {
        vec![
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
        ]
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

/// Reads transformers' settings.
pub(super) fn of_transformers(settings: &Settings<'_>) -> Result<Read<TransformersArithmetic>> {
    let hidden_size = settings.size_or(&["hidden_size"], 4096)?;
    let num_attention_heads = settings.size_or(&["num_attention_heads"], 32)?;
    let head_dim = match settings.optional_size(&["head_dim"])? {
        Some(given) => given,
        None => hidden_size / num_attention_heads.max(1),
    };
    let positions = settings.size_or(&["max_position_embeddings"], 2048)?;
    let config = LlamaConfig {
        hidden_size,
        intermediate_size: settings.size_or(&["intermediate_size"], 11_008)?,
        num_hidden_layers: settings.size_or(&["num_hidden_layers"], 32)?,
        num_attention_heads,
        num_key_value_heads: settings.size_or(&["num_key_value_heads"], num_attention_heads)?,
        head_dim,
        vocab_size: settings.size_or(&["vocab_size"], 32_000)?,
        rms_norm_eps: settings.number_or(&["rms_norm_eps"], 1e-6)?,
        hidden_act: ActivationName::of(settings, "hidden_act", ActivationName::Silu)?,
        attention_bias: settings.flag_or(&["attention_bias"], false)?,
        mlp_bias: settings.flag_or(&["mlp_bias"], false)?,
        rope: rope::of_transformers(settings, head_dim, positions)?,
        rotary_interleaved: false,
        tie_word_embeddings: settings.flag_or(&["tie_word_embeddings"], false)?,
    };
    Ok((
        ModelConfig::Llama(config),
        TransformersArithmetic::default(),
    ))
}

/// Reads megatron-core's arguments: of `TransformerConfig` and `GPTModel`, or Megatron-LM's.
pub(super) fn of_dump(
    framework: Framework,
    settings: &Settings<'_>,
) -> Result<Option<Read<MegatronArithmetic>>> {
    let positions = settings.text(&["position_embedding_type"])?;
    if framework != Framework::MegatronCore || positions.as_deref() != Some("rope") {
        return Ok(None);
    }
    megatron_core::refuse_settings(settings, &["qk_layernorm", "add_qkv_bias", "squared_relu"])?;
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
    // Without the flag Megatron-LM's num_query_groups is its default, 1, and means nothing.
    let grouped = settings.flag_or(&["group_query_attention"], true)?;
    let groups = settings.optional_size(&["num_query_groups"])?;
    let groups = groups.filter(|_| grouped).unwrap_or(num_attention_heads);
    let config = LlamaConfig {
        hidden_size,
        intermediate_size: settings.size_or(&["ffn_hidden_size"], hidden_size.saturating_mul(4))?,
        num_hidden_layers: settings.size(&["num_layers"])?,
        num_attention_heads,
        num_key_value_heads: groups,
        head_dim,
        vocab_size: settings.rows_of_vocabulary()?,
        rms_norm_eps: settings.number_or(&["norm_epsilon", "layernorm_epsilon"], 1e-5)?,
        hidden_act,
        attention_bias: false,
        mlp_bias: false,
        rope: rope::of_megatron_core(settings, head_dim)?,
        rotary_interleaved: settings.flag_or(&["rotary_interleaved"], false)?,
        tie_word_embeddings: megatron_core::is_tied_in(settings)?,
    };
    let arithmetic = megatron_core::arithmetic(settings)?;
    Ok(Some((ModelConfig::Llama(config), arithmetic)))
}

/// Reads the arguments of a checkpoint.
pub(super) fn of_checkpoint(checkpoint: &MegatronCheckpoint) -> Result<MegatronArithmetic> {
    megatron_core::arithmetic_of(checkpoint, LLAMA)
}
