//! What determines a GPT-2's computation, and where the frameworks write it down.

use super::convert::GPT2;
use crate::arch::{
    ActivationName, Checks, Framework, Heads, Model, ModelConfig, Read, Settings, megatron_core,
};
use crate::checkpoint::megatron::MegatronCheckpoint;
use crate::error::Result;
use crate::plan::{Arithmetic, MegatronArithmetic, Plan, TransformersArithmetic};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};

/// What determines a GPT-2 model's computation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpt2Config {
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Attention heads; divides `n_embd`.
    pub n_head: usize,
    /// Width of the MLP.
    pub n_inner: usize,
    /// Rows of the embedding of positions.
    pub n_positions: usize,
    /// Rows of the embedding of tokens. How many of them are padding differs from framework to
    /// framework.
    pub vocab_size: usize,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_epsilon: f64,
    /// The MLP's activation.
    pub activation_function: ActivationName,
    /// Whether scores are divided by the square root of a head's entries.
    pub scale_attn_weights: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
}

impl Model for Gpt2Config {
    fn plan(&self, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan> {
        super::plan::plan(self, dtype, arithmetic)
    }

    fn check(&self, checks: &Checks<'_>) -> Result<()> {
        checks.size("n_embd", self.n_embd)?;
        checks.size("n_head", self.n_head)?;
        checks.size("n_inner", self.n_inner)?;
        checks.size("n_positions", self.n_positions)?;
        checks.size("vocab_size", self.vocab_size)?;
        checks.layers("n_layer", self.n_layer)?;
        checks.heads("n_head", self.n_head)?;
        checks.divides("n_head", self.n_head, ("n_embd", self.n_embd))?;
        checks.epsilon("layer_norm_epsilon", self.layer_norm_epsilon)
    }

    fn layers(&self) -> usize {
        self.n_layer
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn set_vocab_size(&mut self, rows: usize) {
        self.vocab_size = rows;
    }

    fn heads(&self) -> Heads {
        Heads {
            queries: self.n_head,
            keys: self.n_head,
            dim: self.n_embd / self.n_head.max(1),
        }
    }

    /// Those of `Conv1D` layers.
    fn experts(&self) -> [usize; 2] {
        [0; 2]
    }

    fn keeps_type(&self, _: &str) -> bool {
        false
    }

    fn is_transposed(&self, tensor: &str) -> bool {
        const CONV1D: [&str; 4] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];
        let layer = tensor.strip_suffix(".weight");
        layer.is_some_and(|layer| CONV1D.iter().any(|name| layer.ends_with(name)))
    }

    fn structure(&self) -> Vec<usize> {
        vec![self.n_embd, self.n_layer, self.n_head, self.n_inner]
    }

    fn is_redundant(&self, tensor: &str) -> bool {
        // Older versions of transformers saved the masks of every block.
        (self.tie_word_embeddings && tensor == "lm_head.weight")
            || tensor.ends_with(".attn.bias")
            || tensor.ends_with(".attn.masked_bias")
    }

    fn tied_embedding(&self) -> Option<&'static str> {
        self.tie_word_embeddings.then_some("wte.weight")
    }

    fn untie(&mut self) {
        self.tie_word_embeddings = false;
    }
}

/// Reads transformers' settings, under the names that its `GPT2Config` maps others to as well.
pub(super) fn of_transformers(settings: &Settings<'_>) -> Result<Read<TransformersArithmetic>> {
    settings.refuse_flag("scale_attn_by_inverse_layer_idx")?;
    settings.refuse_flag("reorder_and_upcast_attn")?;
    settings.refuse_flag("add_cross_attention")?;
    let n_embd = settings.size_or(&["n_embd", "hidden_size"], 768)?;
    let config = Gpt2Config {
        n_embd,
        n_layer: settings.size_or(&["n_layer", "num_hidden_layers"], 12)?,
        n_head: settings.size_or(&["n_head", "num_attention_heads"], 12)?,
        n_inner: settings.size_or(&["n_inner"], n_embd.saturating_mul(4))?,
        n_positions: settings.size_or(&["n_positions", "max_position_embeddings"], 1024)?,
        vocab_size: settings.size_or(&["vocab_size"], 50_257)?,
        layer_norm_epsilon: settings.number_or(&["layer_norm_epsilon"], 1e-5)?,
        activation_function: ActivationName::of(
            settings,
            "activation_function",
            ActivationName::GeluNew,
        )?,
        scale_attn_weights: settings.flag_or(&["scale_attn_weights"], true)?,
        tie_word_embeddings: settings.flag_or(&["tie_word_embeddings"], true)?,
    };
    Ok((ModelConfig::Gpt2(config), TransformersArithmetic::default()))
}

/// Reads megatron-core's arguments: of `TransformerConfig` and `GPTModel`, or Megatron-LM's.
pub(super) fn of_dump(
    framework: Framework,
    settings: &Settings<'_>,
) -> Result<Option<Read<MegatronArithmetic>>> {
    let positions = settings.text(&["position_embedding_type"])?;
    // GPTModel's default.
    let learned = positions.is_none_or(|positions| positions == "learned_absolute");
    if framework != Framework::MegatronCore || !learned {
        return Ok(None);
    }
    let flags = [
        "gated_linear_unit",
        "swiglu",
        "squared_relu",
        "qk_layernorm",
        "multi_latent_attention",
    ];
    megatron_core::refuse_settings(settings, &flags)?;
    for key in megatron_core::EXPERTS {
        settings.refuse(key)?;
    }
    megatron_core::require_setting(settings, "normalization", "LayerNorm")?;
    if !settings.flag_or(&["add_bias_linear"], true)? {
        return Err(settings.fault("add_bias_linear", "true, as GPT-2 has it", false));
    }
    let n_embd = settings.size(&["hidden_size"])?;
    let n_head = settings.size(&["num_attention_heads"])?;
    let head_dim = n_embd / n_head.max(1);
    let given = settings.size_or(&["kv_channels"], head_dim)?;
    if given != head_dim {
        let expected = format!("{head_dim}, the hidden size by heads");
        return Err(settings.fault("kv_channels", &expected, given));
    }
    let grouped = settings.flag_or(&["group_query_attention"], true)?;
    let groups = settings.optional_size(&["num_query_groups"])?;
    let groups = groups.filter(|_| grouped).unwrap_or(n_head);
    if groups != n_head {
        let expected = format!("{n_head}, a group for every head");
        return Err(settings.fault("num_query_groups", &expected, groups));
    }
    let positions = ["max_sequence_length", "max_position_embeddings"];
    let config = Gpt2Config {
        n_embd,
        n_layer: settings.size(&["num_layers"])?,
        n_head,
        n_inner: settings.size_or(&["ffn_hidden_size"], n_embd.saturating_mul(4))?,
        n_positions: settings.size(&positions)?,
        vocab_size: settings.rows_of_vocabulary()?,
        layer_norm_epsilon: settings.number_or(&["norm_epsilon", "layernorm_epsilon"], 1e-5)?,
        activation_function: megatron_core::activation(settings)?,
        scale_attn_weights: true,
        tie_word_embeddings: megatron_core::is_tied_in(settings)?,
    };
    let arithmetic = megatron_core::arithmetic(settings)?;
    Ok(Some((ModelConfig::Gpt2(config), arithmetic)))
}

/// Reads the arguments of a checkpoint.
pub(super) fn of_checkpoint(checkpoint: &MegatronCheckpoint) -> Result<MegatronArithmetic> {
    megatron_core::arithmetic_of(checkpoint, GPT2)
}
