//! What determines a BLOOM's computation, and where the frameworks write it down.

use crate::arch::{Checks, Framework, Heads, Model, ModelConfig, Read, Settings};
use crate::checkpoint::megatron::MegatronCheckpoint;
use crate::error::Result;
use crate::plan::{Arithmetic, MegatronArithmetic, Plan, TransformersArithmetic};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};

/// What determines a BLOOM model's computation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BloomConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Attention heads; divides `hidden_size`.
    pub n_head: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_epsilon: f64,
    /// Whether residuals are taken after the LayerNorm instead of before it.
    pub apply_residual_connection_post_layernorm: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
}

impl Model for BloomConfig {
    fn plan(&self, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan> {
        super::plan::plan(self, dtype, arithmetic)
    }

    fn check(&self, checks: &Checks<'_>) -> Result<()> {
        checks.size("hidden_size", self.hidden_size)?;
        checks.size("n_head", self.n_head)?;
        checks.size("vocab_size", self.vocab_size)?;
        checks.layers("n_layer", self.n_layer)?;
        checks.heads("n_head", self.n_head)?;
        checks.divides("n_head", self.n_head, ("hidden_size", self.hidden_size))?;
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
            dim: self.hidden_size / self.n_head.max(1),
        }
    }

    fn experts(&self) -> [usize; 2] {
        [0; 2]
    }

    fn keeps_type(&self, _: &str) -> bool {
        false
    }

    fn is_transposed(&self, _: &str) -> bool {
        false
    }

    fn structure(&self) -> Vec<usize> {
        vec![self.hidden_size, self.n_layer, self.n_head]
    }

    fn is_redundant(&self, tensor: &str) -> bool {
        self.tie_word_embeddings && tensor == "lm_head.weight"
    }

    fn tied_embedding(&self) -> Option<&'static str> {
        self.tie_word_embeddings.then_some("word_embeddings.weight")
    }

    fn untie(&mut self) {
        self.tie_word_embeddings = false;
    }
}

/// Reads transformers' settings, under the names that its `BloomConfig` maps older ones to as well.
pub(super) fn of_transformers(settings: &Settings<'_>) -> Result<Read<TransformersArithmetic>> {
    let post = "apply_residual_connection_post_layernorm";
    let config = BloomConfig {
        hidden_size: settings.size_or(&["n_embed", "hidden_size"], 64)?,
        n_layer: settings.size_or(&["n_layer", "num_hidden_layers"], 2)?,
        n_head: settings.size_or(&["n_head", "num_attention_heads"], 8)?,
        vocab_size: settings.size_or(&["vocab_size"], 250_880)?,
        layer_norm_epsilon: settings.number_or(&["layer_norm_epsilon"], 1e-5)?,
        apply_residual_connection_post_layernorm: settings.flag_or(&[post], false)?,
        tie_word_embeddings: settings.flag_or(&["tie_word_embeddings"], true)?,
    };
    // `modeling_bloom.py` takes `slow_but_exact` into account where `pretraining_tp` is above 1.
    let ranks = settings.size_or(&["pretraining_tp"], 1)?;
    let sliced = settings.flag_or(&["slow_but_exact"], false)? && ranks > 1;
    if sliced && !config.hidden_size.is_multiple_of(ranks) {
        let expected = format!("a divisor of hidden_size {}", config.hidden_size);
        return Err(settings.fault("pretraining_tp", &expected, ranks));
    }
    let arithmetic = TransformersArithmetic {
        slow_but_exact: sliced.then_some(ranks),
        ..TransformersArithmetic::default()
    };
    Ok((ModelConfig::Bloom(config), arithmetic))
}

/// Reads Megatron-DeepSpeed's arguments, under the names that the reference dumps give them as well.
/// A dump does not say which architecture it is of; this is the only one that runs there.
pub(super) fn of_dump(
    framework: Framework,
    settings: &Settings<'_>,
) -> Result<Option<Read<MegatronArithmetic>>> {
    if framework != Framework::MegatronDeepspeed {
        return Ok(None);
    }
    let post = "apply_residual_connection_post_layernorm";
    let config = BloomConfig {
        hidden_size: settings.size(&["hidden_size"])?,
        n_layer: settings.size(&["n_layer", "num_layers"])?,
        n_head: settings.size(&["n_head", "num_attention_heads"])?,
        vocab_size: settings.rows_of_vocabulary()?,
        layer_norm_epsilon: settings.number(&["layernorm_epsilon"])?,
        apply_residual_connection_post_layernorm: settings.flag(&[post])?,
        tie_word_embeddings: true,
    };
    let arithmetic = MegatronArithmetic {
        tensor_parallel: settings.size(&["tensor_parallel", "tensor_model_parallel_size"])?,
        query_key_layer_scaling: settings.flag(&["apply_query_key_layer_scaling"])?,
        // `--no-masked-softmax-fusion` switches Megatron's own kernels off.
        fused_kernels: settings.flag_or(&["masked_softmax_fusion"], false)?,
        ..MegatronArithmetic::default()
    };
    Ok(Some((ModelConfig::Bloom(config), arithmetic)))
}

/// Reads the arguments of a checkpoint. They do not tell which kernels ran on a GPU.
pub(super) fn of_checkpoint(checkpoint: &MegatronCheckpoint) -> Result<MegatronArithmetic> {
    let default = MegatronArithmetic::default();
    let scaling = default.query_key_layer_scaling;
    Ok(MegatronArithmetic {
        tensor_parallel: checkpoint.ranks(),
        query_key_layer_scaling: checkpoint
            .args()
            .flag_or("apply_query_key_layer_scaling", scaling)?,
        ..default
    })
}
