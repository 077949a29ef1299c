//! GPT-2's stages, and which hooks of which framework show them.

use crate::arch::Part;
use crate::arch::stage::{HEADS, INNER, LAST, Role, Stage, core, hf};

/// megatron-core's blocks work on `[sequence, batch, ·]`. It has queries, keys and values head by head
/// where transformers has all queries first: the import puts them into transformers' order. The
/// biases of all linear layers but this one are added after the hook.
///
/// In transformers the embedding of positions is that of one row: the import repeats it for the
/// others. `attn.output` and `mlp.output` repeat their last layer, whose dropout is off. Scores and
/// probabilities come from no module; the dumper wraps the function that computes them.
#[rustfmt::skip]
pub(super) const STAGES: &[Stage] = &[
    Stage::new("wte", Role::Embedding, &[
        hf("wte.output"),
        core("embedding.word_embeddings.output"),
    ]),
    Stage::new("wpe", Role::Positions, &[
        hf("wpe.output").one_row(),
        core("embedding.position_embeddings.output").one_row(),
    ]),
    Stage::new("drop", Role::Embedded, &[
        hf("drop.output"),
        core("embedding.output").sbh(),
        core("embedding.embedding_dropout.output").sbh(),
    ]),
    Stage::new("h.{layer}.ln_1", Role::Norm, &[
        hf("h.{layer}.ln_1.output"),
        core("decoder.layers.{layer}.input_layernorm.output").sbh(),
    ]),
    Stage::new("h.{layer}.attn.c_attn", Role::Qkv, &[
        hf("h.{layer}.attn.c_attn.output"),
        core("decoder.layers.{layer}.self_attention.linear_qkv.output").sbh()
            .part(Part::QueryKeyValue),
    ]),
    Stage::new("h.{layer}.attn.query", Role::Heads, &[
        hf("h.{layer}.attn.query.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.input.query").sbnd()
            .sharded(INNER),
    ]),
    Stage::new("h.{layer}.attn.key", Role::Heads, &[
        hf("h.{layer}.attn.key.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.input.key").sbnd()
            .sharded(INNER),
    ]),
    Stage::new("h.{layer}.attn.value", Role::Heads, &[
        hf("h.{layer}.attn.value.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.input.value").sbnd()
            .sharded(INNER),
    ]),
    Stage::new("h.{layer}.attn.scores", Role::Scores, &[
        hf("h.{layer}.attn.scores.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.scale_mask_softmax.input").bnss()
            .sharded(HEADS),
    ]),
    Stage::new("h.{layer}.attn.probs", Role::Probs, &[
        hf("h.{layer}.attn.probs.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.scale_mask_softmax.output").bnss()
            .sharded(HEADS),
        core("decoder.layers.{layer}.self_attention.core_attention.attention_dropout.output").bnss()
            .sharded(HEADS),
    ]),
    Stage::new("h.{layer}.attn.context", Role::Context, &[
        hf("h.{layer}.attn.c_proj.input"),
        core("decoder.layers.{layer}.self_attention.core_attention.output").sbh().sharded(LAST),
        core("decoder.layers.{layer}.self_attention.linear_proj.input").sbh().sharded(LAST),
    ]),
    Stage::new("h.{layer}.attn.c_proj", Role::AttentionOutput, &[
        hf("h.{layer}.attn.c_proj.output"),
        hf("h.{layer}.attn.resid_dropout.output"),
        hf("h.{layer}.attn.output"),
        core("decoder.layers.{layer}.self_attention.linear_proj.output").sbh().without_bias(),
        core("decoder.layers.{layer}.self_attention.output").sbh().without_bias(),
    ]),
    Stage::new("h.{layer}.attn.residual", Role::Attention, &[
        hf("h.{layer}.ln_2.input"),
        core("decoder.layers.{layer}.pre_mlp_layernorm.input").sbh(),
    ]),
    Stage::new("h.{layer}.ln_2", Role::Norm, &[
        hf("h.{layer}.ln_2.output"),
        core("decoder.layers.{layer}.pre_mlp_layernorm.output").sbh(),
    ]),
    Stage::new("h.{layer}.mlp.c_fc", Role::MlpUp, &[
        hf("h.{layer}.mlp.c_fc.output"),
        core("decoder.layers.{layer}.mlp.linear_fc1.output").sbh().sharded(LAST).without_bias(),
    ]),
    Stage::new("h.{layer}.mlp.act", Role::Activation, &[
        hf("h.{layer}.mlp.act.output"),
        hf("h.{layer}.mlp.c_proj.input"),
        core("decoder.layers.{layer}.mlp.linear_fc2.input").sbh().sharded(LAST),
    ]),
    Stage::new("h.{layer}.mlp.c_proj", Role::MlpDown, &[
        hf("h.{layer}.mlp.c_proj.output"),
        hf("h.{layer}.mlp.dropout.output"),
        hf("h.{layer}.mlp.output"),
        core("decoder.layers.{layer}.mlp.linear_fc2.output").sbh().without_bias(),
        core("decoder.layers.{layer}.mlp.output").sbh().without_bias(),
    ]),
    Stage::new("h.{layer}", Role::Block, &[
        hf("h.{layer}.output"),
        core("decoder.layers.{layer}.output").sbh(),
    ]),
    Stage::new("ln_f", Role::FinalNorm, &[
        hf("ln_f.output"),
        hf("output"),
        core("decoder.final_layernorm.output").sbh(),
    ]),
    Stage::new("logits", Role::Logits, &[
        hf("lm_head.output"),
        hf("logits.output"),
        core("output_layer.output").sbh().sharded(LAST).may_be_gathered(),
        core("logits").sharded(LAST).may_be_gathered(),
    ]),
];
