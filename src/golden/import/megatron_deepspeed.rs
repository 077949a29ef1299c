//! Names, layouts and sharding of Megatron-DeepSpeed's pipelined BLOOM (`GPTModelPipe`).
//!
//! The pipeline's layer list: 1 embeddings, 3 to L+2 the blocks, L+4 the final norm. Inside blocks
//! arrays are `[sequence, batch, ·]`.

use super::described::{Described, Names};
use super::raw::RawDump;
use crate::error::Result;
use crate::golden::manifest::{Join, Layout};
use crate::model::{BloomConfig, ModelConfig};
use crate::plan::{Arithmetic, MegatronArithmetic, Variant};
use crate::tensor::DType;

/// Pipeline index of the first block.
const FIRST_BLOCK: usize = 3;

/// A dumped name below a block, the stage it is, its layout, how ranks join, and its variant.
struct Known(&'static str, &'static str, Layout, Join, Variant);

const SBH_SHARDS: Join = Join::Concat(2);
const HEADS: Join = Join::Concat(1);

/// What a block dumps. A linear layer's output is a pair with `skip_bias_add`; the hook keeps the
/// product, without the bias. `self_attention.output` and `mlp.output` repeat that of their last
/// layer.
const BLOCK: &[Known] = {
    use Join::Replicated;
    use Layout::{Bnss, Sbh};
    const PLAIN: Variant = Variant::PLAIN;
    const PRODUCT: Variant = Variant::WITHOUT_BIAS;
    &[
        Known(
            "input_layernorm.output",
            "input_layernorm",
            Sbh,
            Replicated,
            PLAIN,
        ),
        Known(
            "self_attention.query_key_value.output",
            "self_attention.query_key_value",
            Sbh,
            SBH_SHARDS,
            PLAIN,
        ),
        Known(
            "self_attention.scale_mask_softmax.input",
            "self_attention.scores",
            Bnss,
            HEADS,
            PLAIN,
        ),
        Known(
            "self_attention.scale_mask_softmax.output",
            "self_attention.probs",
            Bnss,
            HEADS,
            PLAIN,
        ),
        Known(
            "self_attention.dense.input",
            "self_attention.context",
            Sbh,
            SBH_SHARDS,
            PLAIN,
        ),
        Known(
            "self_attention.dense.output",
            "self_attention.dense",
            Sbh,
            Replicated,
            PRODUCT,
        ),
        Known(
            "self_attention.output",
            "self_attention.dense",
            Sbh,
            Replicated,
            PRODUCT,
        ),
        Known(
            "post_attention_layernorm.input",
            "self_attention",
            Sbh,
            Replicated,
            PLAIN,
        ),
        Known(
            "post_attention_layernorm.output",
            "post_attention_layernorm",
            Sbh,
            Replicated,
            PLAIN,
        ),
        Known(
            "mlp.dense_h_to_4h.output",
            "mlp.dense_h_to_4h",
            Sbh,
            SBH_SHARDS,
            PRODUCT,
        ),
        Known(
            "mlp.dense_4h_to_h.input",
            "mlp.gelu",
            Sbh,
            SBH_SHARDS,
            PLAIN,
        ),
        Known(
            "mlp.dense_4h_to_h.output",
            "mlp.dense_4h_to_h",
            Sbh,
            Replicated,
            PRODUCT,
        ),
        Known("mlp.output", "mlp.dense_4h_to_h", Sbh, Replicated, PRODUCT),
    ]
};

/// Whether norms and softmax were Megatron's fused CUDA kernels: on a GPU, where they are not switched
/// off (`--no-masked-softmax-fusion`).
fn fused_kernels(dump: &RawDump) -> Result<bool> {
    let fused = dump.optional::<bool>(&["masked_softmax_fusion"], "true or false")?;
    Ok(dump.is_of_a_gpu() && fused.unwrap_or(false))
}

/// Reads the settings that Megatron-DeepSpeed's dumps come with.
pub(super) fn describe(dump: &RawDump) -> Result<Described> {
    // Names of the reference dumps, then Megatron's own.
    let size = |keys: &[&str]| dump.setting::<usize>(keys, "a whole number");
    let flag = |key: &str| dump.setting::<bool>(&[key], "true or false");
    let n_layer = size(&["n_layer", "num_layers"])?;
    let query_key_layer_scaling = flag("apply_query_key_layer_scaling")?;
    let model = ModelConfig::Bloom(BloomConfig {
        hidden_size: size(&["hidden_size"])?,
        n_layer,
        n_head: size(&["n_head", "num_attention_heads"])?,
        vocab_size: size(&["vocab_size", "padded_vocab_size"])?,
        layer_norm_epsilon: dump.setting(&["layernorm_epsilon"], "a number")?,
        apply_residual_connection_post_layernorm: flag("apply_residual_connection_post_layernorm")?,
        tie_word_embeddings: true,
    });
    let tensor_parallel = size(&["tensor_parallel", "tensor_model_parallel_size"])?;
    Ok(Described {
        framework: "megatron-deepspeed",
        model,
        dtype: dump.setting::<DType>(&["dtype"], "fp32, fp16 or bf16")?,
        arithmetic: Arithmetic::Megatron(MegatronArithmetic {
            tensor_parallel,
            query_key_layer_scaling,
            fused_kernels: fused_kernels(dump)?,
        }),
        ranks: tensor_parallel,
        names: Box::new(PipelineNames {
            n_layer,
            query_key_layer_scaling,
        }),
    })
}

struct PipelineNames {
    n_layer: usize,
    query_key_layer_scaling: bool,
}

impl Names for PipelineNames {
    fn stage(&self, name: &str) -> Option<(String, Layout, Join, Variant)> {
        let top = |stage: &str, join| Some((stage.to_owned(), Layout::Bsh, join, Variant::PLAIN));
        match name {
            "tied_modules.embed.word_embeddings.norm.input" => {
                return top("word_embeddings", Join::Replicated);
            }
            "tied_modules.embed.word_embeddings.norm.output"
            | "tied_modules.embed.word_embeddings.output"
            | "tied_modules.embed.output" => {
                return top("word_embeddings_layernorm", Join::Replicated);
            }
            // Every rank has its slice of the vocabulary.
            "logits" => return top("logits", Join::Concat(2)),
            _ => {}
        }
        let (index, name) = name.split_once('.')?;
        let index: usize = index.parse().ok()?;
        if index == self.n_layer + FIRST_BLOCK + 1 && name == "output" {
            return top("ln_f", Join::Replicated);
        }
        let block = index
            .checked_sub(FIRST_BLOCK)
            .filter(|block| *block < self.n_layer)?;
        if name == "output" {
            let stage = format!("h.{block}");
            return Some((stage, Layout::Sbh, Join::Replicated, Variant::PLAIN));
        }
        let Known(_, stage, layout, join, variant) = BLOCK.iter().find(|known| known.0 == name)?;
        let mut variant = *variant;
        if self.query_key_layer_scaling && *stage == "self_attention.scores" {
            variant.divided_by = block.max(1) as f32;
        }
        Some((format!("h.{block}.{stage}"), *layout, *join, variant))
    }
}
