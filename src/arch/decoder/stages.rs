//! The stages of decoders, and which hooks of which framework show them: rows that belong together, of which an
//! architecture has some.

use crate::arch::Part;
use crate::arch::stage::{ChoiceForm, HEADS, INNER, LAST, Role, Rows, Stage, core, hf};

/// What precedes the blocks, and the norm before attention.
///
/// megatron-core's blocks work on `[sequence, batch, ·]`. It computes queries, keys and values at once,
/// per group of heads that share a key, and gate and up projection too, of which every rank has its
/// rows: the stages are parts of those arrays. What rotates is no module: rotated queries and keys are
/// what its attention is given. `embedding.output` repeats the embedding, transposed, and
/// `self_attention.output` and `mlp.output` their last layer.
///
/// In transformers cosines and sines are of the positions of one row if the batch was not given any:
/// the import repeats it for the others. Rotated queries and keys, scores and probabilities come from
/// no module; the dumper wraps the functions that compute them.
///
/// Heads before the rotation are copies of the projections, which neither framework shows; values are
/// what megatron-core's attention is given.
#[rustfmt::skip]
pub(in crate::arch) const EMBEDDINGS: &[Stage] = &[
    Stage::new("embed_tokens", Role::Embedding, &[
        hf("embed_tokens.output"),
        core("embedding.word_embeddings.output"),
        core("embedding.output").sbh(),
    ]),
    Stage::new("rotary_emb.cos", Role::Rotary, &[hf("rotary_emb.cos.output").one_row()]),
    Stage::new("rotary_emb.sin", Role::Rotary, &[hf("rotary_emb.sin.output").one_row()]),
    Stage::new("layers.{layer}.input_layernorm", Role::Norm, &[
        hf("layers.{layer}.input_layernorm.output"),
        core("decoder.layers.{layer}.input_layernorm.output").sbh(),
    ]),
];

/// Queries, keys and values of groups of heads.
#[rustfmt::skip]
pub(in crate::arch) const QKV: &[Stage] = &[
    Stage::new("layers.{layer}.self_attn.q_proj", Role::Qkv, &[
        hf("layers.{layer}.self_attn.q_proj.output"),
        core("decoder.layers.{layer}.self_attention.linear_qkv.output").sbh().part(Part::Query),
    ]),
    Stage::new("layers.{layer}.self_attn.k_proj", Role::Qkv, &[
        hf("layers.{layer}.self_attn.k_proj.output"),
        core("decoder.layers.{layer}.self_attention.linear_qkv.output").sbh().part(Part::Key),
    ]),
    Stage::new("layers.{layer}.self_attn.v_proj", Role::Qkv, &[
        hf("layers.{layer}.self_attn.v_proj.output"),
        core("decoder.layers.{layer}.self_attention.linear_qkv.output").sbh().part(Part::Value),
    ]),
    Stage::new("layers.{layer}.self_attn.query", Role::Heads, &[]),
    Stage::new("layers.{layer}.self_attn.key", Role::Heads, &[]),
    Stage::new("layers.{layer}.self_attn.value", Role::Heads, &[
        core("decoder.layers.{layer}.self_attention.core_attention.input.value").sbnd()
            .sharded(INNER),
    ]),
];

/// Norms of the heads of queries and keys.
#[rustfmt::skip]
pub(in crate::arch) const QK_NORMS: &[Stage] = &[
    Stage::new("layers.{layer}.self_attn.q_norm", Role::Norm, &[
        hf("layers.{layer}.self_attn.q_norm.output").bsnd(),
        core("decoder.layers.{layer}.self_attention.q_layernorm.output").sbnd().sharded(INNER),
    ]),
    Stage::new("layers.{layer}.self_attn.k_norm", Role::Norm, &[
        hf("layers.{layer}.self_attn.k_norm.output").bsnd(),
        core("decoder.layers.{layer}.self_attention.k_layernorm.output").sbnd().sharded(INNER),
    ]),
];

/// Queries, keys and values of latents. megatron-core's own layers divide the latents' rows among ranks, Transformer
/// Engine's do not. Every head of queries and keys has a plain part, then the rotated one.
#[rustfmt::skip]
pub(in crate::arch) const LATENTS: &[Stage] = &[
    Stage::new("layers.{layer}.self_attn.q_proj", Role::Qkv, &[
        hf("layers.{layer}.self_attn.q_proj.output"),
        core("decoder.layers.{layer}.self_attention.linear_q_proj.output").sbh().sharded(LAST),
    ]),
    Stage::new("layers.{layer}.self_attn.q_a_proj", Role::Qkv, &[
        hf("layers.{layer}.self_attn.q_a_proj.output"),
        core("decoder.layers.{layer}.self_attention.linear_q_down_proj.output").sbh().sharded(LAST)
            .may_be_gathered(),
    ]),
    Stage::new("layers.{layer}.self_attn.q_a_layernorm", Role::Norm, &[
        hf("layers.{layer}.self_attn.q_a_layernorm.output"),
        core("decoder.layers.{layer}.self_attention.q_layernorm.output").sbh(),
    ]),
    Stage::new("layers.{layer}.self_attn.q_b_proj", Role::Qkv, &[
        hf("layers.{layer}.self_attn.q_b_proj.output"),
        core("decoder.layers.{layer}.self_attention.linear_q_up_proj.output").sbh().sharded(LAST),
    ]),
    Stage::new("layers.{layer}.self_attn.kv_a_proj_with_mqa", Role::Qkv, &[
        hf("layers.{layer}.self_attn.kv_a_proj_with_mqa.output"),
        core("decoder.layers.{layer}.self_attention.linear_kv_down_proj.output").sbh()
            .sharded(LAST).may_be_gathered(),
    ]),
    Stage::new("layers.{layer}.self_attn.kv_a", Role::Qkv, &[]),
    Stage::new("layers.{layer}.self_attn.kv_a_layernorm", Role::Norm, &[
        hf("layers.{layer}.self_attn.kv_a_layernorm.output"),
        core("decoder.layers.{layer}.self_attention.kv_layernorm.output").sbh(),
    ]),
    Stage::new("layers.{layer}.self_attn.kv_b_proj", Role::Qkv, &[
        hf("layers.{layer}.self_attn.kv_b_proj.output"),
        core("decoder.layers.{layer}.self_attention.linear_kv_up_proj.output").sbh().sharded(LAST),
    ]),
    Stage::new("layers.{layer}.self_attn.q_nope", Role::Heads, &[]),
    Stage::new("layers.{layer}.self_attn.q_rope", Role::Heads, &[]),
    Stage::new("layers.{layer}.self_attn.q_rot", Role::Heads, &[
        hf("layers.{layer}.self_attn.q_rot.output").bnss(),
    ]),
    Stage::new("layers.{layer}.self_attn.k_nope", Role::Heads, &[]),
    Stage::new("layers.{layer}.self_attn.k_rope", Role::Heads, &[]),
    Stage::new("layers.{layer}.self_attn.k_rot", Role::Heads, &[
        hf("layers.{layer}.self_attn.k_rot.output").bnss(),
    ]),
    Stage::new("layers.{layer}.self_attn.query", Role::Heads, &[
        hf("layers.{layer}.self_attn.query.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.input.query").sbnd()
            .sharded(INNER),
    ]),
    Stage::new("layers.{layer}.self_attn.key", Role::Heads, &[
        hf("layers.{layer}.self_attn.key.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.input.key").sbnd()
            .sharded(INNER),
    ]),
    Stage::new("layers.{layer}.self_attn.value", Role::Heads, &[
        hf("layers.{layer}.self_attn.value.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.input.value").sbnd()
            .sharded(INNER),
    ]),
];

/// Rotated heads, which attention is given.
#[rustfmt::skip]
pub(in crate::arch) const ROTATED: &[Stage] = &[
    Stage::new("layers.{layer}.self_attn.q_rot", Role::Heads, &[
        hf("layers.{layer}.self_attn.q_rot.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.input.query").sbnd()
            .sharded(INNER),
    ]),
    Stage::new("layers.{layer}.self_attn.k_rot", Role::Heads, &[
        hf("layers.{layer}.self_attn.k_rot.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.input.key").sbnd()
            .sharded(INNER),
    ]),
];

/// Attention, and the norm after it.
#[rustfmt::skip]
pub(in crate::arch) const ATTENTION: &[Stage] = &[
    Stage::new("layers.{layer}.self_attn.scores", Role::Scores, &[
        hf("layers.{layer}.self_attn.scores.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.scale_mask_softmax.input").bnss()
            .sharded(HEADS),
    ]),
    Stage::new("layers.{layer}.self_attn.probs", Role::Probs, &[
        hf("layers.{layer}.self_attn.probs.output").bnss(),
        core("decoder.layers.{layer}.self_attention.core_attention.scale_mask_softmax.output").bnss()
            .sharded(HEADS),
        core("decoder.layers.{layer}.self_attention.core_attention.attention_dropout.output").bnss()
            .sharded(HEADS),
    ]),
    Stage::new("layers.{layer}.self_attn.context", Role::Context, &[
        hf("layers.{layer}.self_attn.o_proj.input"),
        core("decoder.layers.{layer}.self_attention.core_attention.output").sbh().sharded(LAST),
        core("decoder.layers.{layer}.self_attention.linear_proj.input").sbh().sharded(LAST),
    ]),
    Stage::new("layers.{layer}.self_attn.o_proj", Role::AttentionOutput, &[
        hf("layers.{layer}.self_attn.o_proj.output"),
        hf("layers.{layer}.self_attn.output"),
        core("decoder.layers.{layer}.self_attention.linear_proj.output").sbh(),
        core("decoder.layers.{layer}.self_attention.output").sbh(),
    ]),
    Stage::new("layers.{layer}.self_attn.residual", Role::Attention, &[
        hf("layers.{layer}.post_attention_layernorm.input"),
        core("decoder.layers.{layer}.pre_mlp_layernorm.input").sbh(),
    ]),
    Stage::new("layers.{layer}.post_attention_layernorm", Role::Norm, &[
        hf("layers.{layer}.post_attention_layernorm.output"),
        core("decoder.layers.{layer}.pre_mlp_layernorm.output").sbh(),
    ]),
];

/// A gated MLP.
#[rustfmt::skip]
pub(in crate::arch) const MLP: &[Stage] = &[
    Stage::new("layers.{layer}.mlp.gate_proj", Role::MlpUp, &[
        hf("layers.{layer}.mlp.gate_proj.output"),
        core("decoder.layers.{layer}.mlp.linear_fc1.output").sbh().part(Part::Gate),
    ]),
    Stage::new("layers.{layer}.mlp.act_fn", Role::Activation, &[
        hf("layers.{layer}.mlp.act_fn.output"),
    ]),
    Stage::new("layers.{layer}.mlp.up_proj", Role::MlpUp, &[
        hf("layers.{layer}.mlp.up_proj.output"),
        core("decoder.layers.{layer}.mlp.linear_fc1.output").sbh().part(Part::Up),
    ]),
    Stage::new("layers.{layer}.mlp.gated", Role::Gated, &[
        hf("layers.{layer}.mlp.down_proj.input"),
        core("decoder.layers.{layer}.mlp.linear_fc2.input").sbh().sharded(LAST),
    ]),
    Stage::new("layers.{layer}.mlp.down_proj", Role::MlpDown, &[
        hf("layers.{layer}.mlp.down_proj.output"),
        hf("layers.{layer}.mlp.output"),
        core("decoder.layers.{layer}.mlp.linear_fc2.output").sbh(),
        core("decoder.layers.{layer}.mlp.output").sbh(),
    ]),
];

/// A mixture of experts. What experts compute is recorded an expert at a time, of the tokens that it was chosen for;
/// as a stage it is of the choices of every token. megatron-core multiplies the weights before the last layer: what
/// that layer gives is weighted, and of one rank of several only a part of a sum.
#[rustfmt::skip]
pub(in crate::arch) const EXPERTS: &[Stage] = &[
    Stage::new("layers.{layer}.mlp.gate", Role::Router, &[
        hf("layers.{layer}.mlp.gate.output").rows(Rows::Tokens),
        core("decoder.layers.{layer}.mlp.router.logits").sbh(),
    ]),
    Stage::new("layers.{layer}.mlp.gate.indices", Role::Choice, &[
        hf("layers.{layer}.mlp.gate.output.indices").rows(Rows::Chosen(ChoiceForm::Numbers)),
        core("decoder.layers.{layer}.mlp.router.output.map").sbh()
            .rows(Rows::Chosen(ChoiceForm::Map)),
    ]),
    Stage::new("layers.{layer}.mlp.gate.scores", Role::RouterWeights, &[
        hf("layers.{layer}.mlp.gate.output.scores").rows(Rows::Weights(ChoiceForm::Numbers)),
        core("decoder.layers.{layer}.mlp.router.output").sbh()
            .rows(Rows::Weights(ChoiceForm::Map)),
    ]),
    Stage::new("layers.{layer}.mlp.experts.places", Role::Choice, &[
        hf("layers.{layer}.mlp.experts.{expert}.tokens").rows(Rows::Places),
    ]),
    Stage::new("layers.{layer}.mlp.experts.gate_proj", Role::MlpUp, &[
        hf("layers.{layer}.mlp.experts.{expert}.gate_up_proj.output").rows(Rows::OfExpert)
            .part(Part::Gate),
        core("decoder.layers.{layer}.mlp.experts.local_experts.{expert}.linear_fc1.output").sbh()
            .rows(Rows::OfExpert).part(Part::Gate),
    ]),
    Stage::new("layers.{layer}.mlp.experts.act_fn", Role::Activation, &[
        hf("layers.{layer}.mlp.experts.{expert}.act_fn.output").rows(Rows::OfExpert),
    ]),
    Stage::new("layers.{layer}.mlp.experts.up_proj", Role::MlpUp, &[
        hf("layers.{layer}.mlp.experts.{expert}.gate_up_proj.output").rows(Rows::OfExpert)
            .part(Part::Up),
        core("decoder.layers.{layer}.mlp.experts.local_experts.{expert}.linear_fc1.output").sbh()
            .rows(Rows::OfExpert).part(Part::Up),
    ]),
    Stage::new("layers.{layer}.mlp.experts.gated", Role::Gated, &[
        hf("layers.{layer}.mlp.experts.{expert}.down_proj.input").rows(Rows::OfExpert),
    ]),
    Stage::new("layers.{layer}.mlp.experts.gated.weighted", Role::Gated, &[
        core("decoder.layers.{layer}.mlp.experts.local_experts.{expert}.linear_fc2.input").sbh()
            .rows(Rows::OfExpert).sharded(LAST),
    ]),
    Stage::new("layers.{layer}.mlp.experts.down_proj", Role::MlpDown, &[
        hf("layers.{layer}.mlp.experts.{expert}.down_proj.output").rows(Rows::OfExpert),
    ]),
    Stage::new("layers.{layer}.mlp.experts.weighted", Role::Weighted, &[
        hf("layers.{layer}.mlp.experts.{expert}.weighted.output").rows(Rows::OfExpert),
        core("decoder.layers.{layer}.mlp.experts.local_experts.{expert}.linear_fc2.output").sbh()
            .rows(Rows::OfExpert),
    ]),
];

/// The sum of what experts gave, where it is all.
#[rustfmt::skip]
pub(in crate::arch) const SUM_OF_EXPERTS: &[Stage] = &[
    Stage::new("layers.{layer}.mlp.experts", Role::Experts, &[
        hf("layers.{layer}.mlp.experts.output").rows(Rows::Tokens),
        hf("layers.{layer}.mlp.output"),
        core("decoder.layers.{layer}.mlp.output").sbh(),
    ]),
];

/// The sum of what experts gave, the expert that all tokens go through, and the sum of both.
#[rustfmt::skip]
pub(in crate::arch) const SHARED_EXPERTS: &[Stage] = &[
    Stage::new("layers.{layer}.mlp.experts", Role::Experts, &[
        hf("layers.{layer}.mlp.experts.output").rows(Rows::Tokens),
    ]),
    Stage::new("layers.{layer}.mlp.shared_experts.gate_proj", Role::MlpUp, &[
        hf("layers.{layer}.mlp.shared_experts.gate_proj.output"),
        core("decoder.layers.{layer}.mlp.shared_experts.linear_fc1.output").sbh().part(Part::Gate),
    ]),
    Stage::new("layers.{layer}.mlp.shared_experts.act_fn", Role::Activation, &[
        hf("layers.{layer}.mlp.shared_experts.act_fn.output"),
    ]),
    Stage::new("layers.{layer}.mlp.shared_experts.up_proj", Role::MlpUp, &[
        hf("layers.{layer}.mlp.shared_experts.up_proj.output"),
        core("decoder.layers.{layer}.mlp.shared_experts.linear_fc1.output").sbh().part(Part::Up),
    ]),
    Stage::new("layers.{layer}.mlp.shared_experts.gated", Role::Gated, &[
        hf("layers.{layer}.mlp.shared_experts.down_proj.input"),
        core("decoder.layers.{layer}.mlp.shared_experts.linear_fc2.input").sbh().sharded(LAST),
    ]),
    Stage::new("layers.{layer}.mlp.shared_experts.down_proj", Role::MlpDown, &[
        hf("layers.{layer}.mlp.shared_experts.down_proj.output"),
        hf("layers.{layer}.mlp.shared_experts.output"),
        core("decoder.layers.{layer}.mlp.shared_experts.output").sbh(),
    ]),
    Stage::new("layers.{layer}.mlp", Role::Experts, &[
        hf("layers.{layer}.mlp.output"),
        core("decoder.layers.{layer}.mlp.output").sbh(),
    ]),
];

/// Blocks, and what follows them.
#[rustfmt::skip]
pub(in crate::arch) const BLOCKS: &[Stage] = &[
    Stage::new("layers.{layer}", Role::Block, &[
        hf("layers.{layer}.output"),
        core("decoder.layers.{layer}.output").sbh(),
    ]),
    Stage::new("norm", Role::FinalNorm, &[
        hf("norm.output"),
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
