//! BLOOM's stages, and which hooks of which framework show them.

use crate::arch::stage::{HEADS, LAST, Role, Stage, hf, megatron};

/// Megatron-DeepSpeed's blocks work on `[sequence, batch, ·]`. With `skip_bias_add` the output of a
/// linear layer is a pair, of which hooks keep the product; `self_attention.output` and `mlp.output`
/// repeat that of their last layer.
///
/// In transformers `BloomAttention` and `BloomMLP` add the residual, so their outputs are the residual
/// stream; attention's dropout, which is off, gives out the probabilities that went in. Scores come
/// from no module: `recorder.keep` records them.
#[rustfmt::skip]
pub(super) const STAGES: &[Stage] = &[
    Stage::new("word_embeddings", Role::Embedding, &[
        hf("word_embeddings.output"),
        megatron("tied_modules.embed.word_embeddings.norm.input"),
    ]),
    Stage::new("word_embeddings_layernorm", Role::EmbeddingNorm, &[
        hf("word_embeddings_layernorm.output"),
        megatron("tied_modules.embed.word_embeddings.norm.output"),
        megatron("tied_modules.embed.word_embeddings.output"),
        megatron("tied_modules.embed.output"),
    ]),
    Stage::new("h.{layer}.input_layernorm", Role::Norm, &[
        hf("h.{layer}.input_layernorm.output"),
        megatron("layers.{layer}.input_layernorm.output").sbh(),
    ]),
    Stage::new("h.{layer}.self_attention.query_key_value", Role::Qkv, &[
        hf("h.{layer}.self_attention.query_key_value.output"),
        megatron("layers.{layer}.self_attention.query_key_value.output").sbh().sharded(LAST),
    ]),
    Stage::new("h.{layer}.self_attention.query", Role::Heads, &[]),
    Stage::new("h.{layer}.self_attention.key", Role::Heads, &[]),
    Stage::new("h.{layer}.self_attention.value", Role::Heads, &[]),
    Stage::new("h.{layer}.self_attention.scores", Role::Scores, &[
        hf("h.{layer}.self_attention.scores.output").bnss(),
        megatron("layers.{layer}.self_attention.scale_mask_softmax.input").bnss().sharded(HEADS)
            .divided_by_layer(),
    ]),
    Stage::new("h.{layer}.self_attention.probs", Role::Probs, &[
        hf("h.{layer}.self_attention.probs.output").bnss(),
        hf("h.{layer}.self_attention.attention_dropout.output").bnss(),
        megatron("layers.{layer}.self_attention.scale_mask_softmax.output").bnss().sharded(HEADS),
    ]),
    Stage::new("h.{layer}.self_attention.context", Role::Context, &[
        hf("h.{layer}.self_attention.context.output"),
        hf("h.{layer}.self_attention.dense.input"),
        megatron("layers.{layer}.self_attention.dense.input").sbh().sharded(LAST),
    ]),
    Stage::new("h.{layer}.self_attention.dense", Role::AttentionOutput, &[
        hf("h.{layer}.self_attention.dense.output"),
        megatron("layers.{layer}.self_attention.dense.output").sbh().without_bias(),
        megatron("layers.{layer}.self_attention.output").sbh().without_bias(),
    ]),
    Stage::new("h.{layer}.self_attention", Role::Attention, &[
        hf("h.{layer}.self_attention.output"),
        hf("h.{layer}.post_attention_layernorm.input"),
        megatron("layers.{layer}.post_attention_layernorm.input").sbh(),
    ]),
    Stage::new("h.{layer}.post_attention_layernorm", Role::Norm, &[
        hf("h.{layer}.post_attention_layernorm.output"),
        megatron("layers.{layer}.post_attention_layernorm.output").sbh(),
    ]),
    Stage::new("h.{layer}.mlp.dense_h_to_4h", Role::MlpUp, &[
        hf("h.{layer}.mlp.dense_h_to_4h.output"),
        megatron("layers.{layer}.mlp.dense_h_to_4h.output").sbh().sharded(LAST).without_bias(),
    ]),
    Stage::new("h.{layer}.mlp.gelu", Role::Activation, &[
        hf("h.{layer}.mlp.gelu.output"),
        hf("h.{layer}.mlp.gelu_impl.output"),
        hf("h.{layer}.mlp.dense_4h_to_h.input"),
        megatron("layers.{layer}.mlp.dense_4h_to_h.input").sbh().sharded(LAST),
    ]),
    Stage::new("h.{layer}.mlp.dense_4h_to_h", Role::MlpDown, &[
        hf("h.{layer}.mlp.dense_4h_to_h.output"),
        megatron("layers.{layer}.mlp.dense_4h_to_h.output").sbh().without_bias(),
        megatron("layers.{layer}.mlp.output").sbh().without_bias(),
    ]),
    Stage::new("h.{layer}", Role::Block, &[
        hf("h.{layer}.output"),
        hf("h.{layer}.mlp.output"),
        megatron("layers.{layer}.output").sbh(),
    ]),
    Stage::new("ln_f", Role::FinalNorm, &[
        hf("ln_f.output"),
        megatron("final_layernorm.output"),
    ]),
    Stage::new("logits", Role::Logits, &[
        hf("lm_head.output"),
        hf("logits.output"),
        megatron("logits").sharded(LAST),
    ]),
];
