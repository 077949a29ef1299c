//! A decoder's steps, in either framework's arithmetic.
//!
//! transformers (`modeling_llama.py` and those made of it, eager attention) and megatron-core (local layer spec) round at the
//! same places but for RMSNorm, whose normalized value transformers rounds before the weight, scores,
//! whose product transformers rounds before it is scaled, biases, and row-parallel layers, whose
//! products Megatron rounds per rank.

use super::DecoderConfig;
use crate::arch::steps::{BiasOrder, Steps};
use crate::error::Result;
use crate::op::{
    HeadPart, Partials, QkvLayout, Rotary, RotaryFunction, RotaryPairs, RotaryTable, Rounding,
    SplitHeads,
};
use crate::plan::{Arithmetic, Plan, StageId};
use crate::tensor::DType;

/// The plan of a model.
pub(super) fn plan(config: &DecoderConfig, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan> {
    let (rounding, column, row) = match arithmetic {
        Arithmetic::Transformers(_) => {
            (Rounding::EachOperation, BiasOrder::InSum, BiasOrder::InSum)
        }
        Arithmetic::Megatron(megatron) => (
            Rounding::Once,
            BiasOrder::After {
                partials: Partials::ONE,
            },
            BiasOrder::After {
                partials: megatron.partials(),
            },
        ),
    };
    let mut decoder = Decoder {
        config,
        steps: Steps::new(dtype),
        rounding,
        column,
        row,
    };
    decoder.model();
    decoder.steps.into_plan()
}

struct Decoder<'a> {
    config: &'a DecoderConfig,
    steps: Steps,
    /// Of norms and scores.
    rounding: Rounding,
    /// Of layers whose outputs ranks divide.
    column: BiasOrder,
    /// Of layers whose inputs ranks divide.
    row: BiasOrder,
}

impl Decoder<'_> {
    fn model(&mut self) {
        let hidden = self.config.hidden_size;
        let vocabulary = [self.config.vocab_size, hidden];
        let mut x = self.steps.embedding("embed_tokens", vocabulary);
        let tables = [RotaryFunction::Cos, RotaryFunction::Sin].map(|function| {
            let id = match function {
                RotaryFunction::Cos => "rotary_emb.cos",
                RotaryFunction::Sin => "rotary_emb.sin",
            };
            let table = RotaryTable {
                function,
                frequencies: self.config.rope,
                offset: 0,
            };
            self.steps.rotary_table(id, table)
        });
        for layer in 0..self.config.num_hidden_layers {
            let block = format!("layers.{layer}");
            let normed = self.norm(&format!("{block}.input_layernorm"), &x, hidden);
            let attended = self.attention(&format!("{block}.self_attn"), &normed, &tables);
            let id = format!("{block}.self_attn.residual");
            let attended = self.steps.add(id, &x, &attended);
            let normed = self.norm(
                &format!("{block}.post_attention_layernorm"),
                &attended,
                hidden,
            );
            let narrow = self.mlp(&format!("{block}.mlp"), &normed);
            x = self.steps.add(block, &attended, &narrow);
        }
        let normed = self.norm("norm", &x, hidden);
        let head = if self.config.tie_word_embeddings {
            "embed_tokens.weight"
        } else {
            "lm_head.weight"
        };
        self.steps.head(&normed, head, vocabulary);
    }

    fn attention(&mut self, at: &str, x: &StageId, [cos, sin]: &[StageId; 2]) -> StageId {
        let (hidden, dim) = (self.config.hidden_size, self.config.head_dim);
        let (queries, keys) = (
            self.config.num_attention_heads,
            self.config.num_key_value_heads,
        );
        let bias = self.config.attention_bias;
        let of_qkv = bias || self.config.qkv_bias;
        let parts = [
            (HeadPart::Query, "q_proj", queries),
            (HeadPart::Key, "k_proj", keys),
            (HeadPart::Value, "v_proj", keys),
        ];
        let projected = parts.map(|(part, name, heads)| {
            let (id, shape) = (format!("{at}.{name}"), [heads * dim, hidden]);
            let fused = self.steps.layer(&id, x, shape, of_qkv, self.column);
            (part, heads, fused)
        });
        let [query, key, value] = projected.map(|(part, heads, fused)| {
            let name = match part {
                HeadPart::Query => "query",
                HeadPart::Key => "key",
                HeadPart::Value => "value",
            };
            let split = SplitHeads {
                part,
                layout: QkvLayout::Separate,
                heads,
                cached: false,
            };
            self.steps.heads(&format!("{at}.{name}"), &fused, split)
        });
        let (query, key) = if self.config.qk_norm {
            let norm = |of: &mut Self, name: &str, x| of.norm(&format!("{at}.{name}"), x, dim);
            (norm(self, "q_norm", &query), norm(self, "k_norm", &key))
        } else {
            (query, key)
        };
        let rotary = Rotary {
            dims: self.config.rope.dims,
            pairs: if self.config.rotary_interleaved {
                RotaryPairs::Interleaved
            } else {
                RotaryPairs::Halves
            },
        };
        let mut rotate = |name: &str, x| {
            let id = format!("{at}.{name}");
            self.steps.rotary(&id, rotary, x, [cos, sin])
        };
        let (query, key) = (rotate("q_rot", &query), rotate("k_rot", &key));
        let scale = 1.0 / (dim as f64).sqrt();
        let heads = [&query, &key, &value];
        let context = self.steps.attention(at, heads, scale, self.rounding);
        let (id, shape) = (format!("{at}.o_proj"), [hidden, queries * dim]);
        self.steps.layer(&id, &context, shape, bias, self.row)
    }

    fn mlp(&mut self, at: &str, x: &StageId) -> StageId {
        let (hidden, wide) = (self.config.hidden_size, self.config.intermediate_size);
        let bias = self.config.mlp_bias;
        let mut widen = |name: &str| {
            let id = format!("{at}.{name}");
            self.steps.layer(&id, x, [wide, hidden], bias, self.column)
        };
        let (gate, up) = (widen("gate_proj"), widen("up_proj"));
        let activation = self.config.hidden_act.as_transformers();
        let gate = self
            .steps
            .activation(&format!("{at}.act_fn"), &gate, activation);
        let gated = self.steps.multiply(&format!("{at}.gated"), &gate, &up);
        let (id, shape) = (format!("{at}.down_proj"), [hidden, wide]);
        self.steps.layer(&id, &gated, shape, bias, self.row)
    }

    fn norm(&mut self, id: &str, x: &StageId, width: usize) -> StageId {
        let eps = self.config.rms_norm_eps;
        self.steps.rms_norm(id, x, width, eps, self.rounding)
    }
}
