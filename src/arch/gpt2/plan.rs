//! GPT-2's steps, in either framework's arithmetic.
//!
//! transformers (`modeling_gpt2.py`, eager attention) adds biases in the sums of its `Conv1D` layers and
//! rounds the product of scores before it is scaled; megatron-core (local layer spec) rounds products,
//! per rank where ranks divide their inputs, and adds biases after, each with a rounding of its own.

use super::Gpt2Config;
use crate::arch::steps::{BiasOrder, Steps};
use crate::error::Result;
use crate::op::{Activation, HeadPart, Partials, QkvLayout, Rounding, SplitHeads};
use crate::plan::{Arithmetic, Plan, StageId};
use crate::tensor::DType;

/// The plan of a model.
pub(super) fn plan(config: &Gpt2Config, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan> {
    let activation = config.activation_function;
    let mut gpt2 = match arithmetic {
        Arithmetic::Transformers(_) => Gpt2 {
            config,
            steps: Steps::new(dtype),
            scores: Rounding::EachOperation,
            column: BiasOrder::InSum,
            row: BiasOrder::InSum,
            activation: activation.as_transformers(),
        },
        Arithmetic::Megatron(megatron) => Gpt2 {
            config,
            steps: Steps::new(dtype),
            scores: Rounding::Once,
            column: BiasOrder::After {
                partials: Partials::ONE,
            },
            row: BiasOrder::After {
                partials: megatron.partials(),
            },
            activation: activation.as_megatron(),
        },
    };
    gpt2.model();
    gpt2.steps.into_plan()
}

struct Gpt2<'a> {
    config: &'a Gpt2Config,
    steps: Steps,
    /// Of scores.
    scores: Rounding,
    /// Of layers whose outputs ranks divide.
    column: BiasOrder,
    /// Of layers whose inputs ranks divide.
    row: BiasOrder,
    activation: (Activation, Rounding),
}

impl Gpt2<'_> {
    fn model(&mut self) {
        let (hidden, wide) = (self.config.n_embd, self.config.n_inner);
        let vocabulary = [self.config.vocab_size, hidden];
        let tokens = self.steps.embedding("wte", vocabulary);
        let positions = [self.config.n_positions, hidden];
        let positions = self.steps.position_embedding("wpe", positions);
        let mut x = self.steps.add("drop", &tokens, &positions);
        for layer in 0..self.config.n_layer {
            let at = |name: &str| format!("h.{layer}.{name}");
            let normed = self.norm(&at("ln_1"), &x);
            let attended = self.attention(&at("attn"), &normed);
            let attended = self.steps.add(at("attn.residual"), &x, &attended);
            let normed = self.norm(&at("ln_2"), &attended);
            let shape = [wide, hidden];
            let column = self.column;
            let up = self
                .steps
                .layer(&at("mlp.c_fc"), &normed, shape, true, column);
            let up = self.steps.activation(&at("mlp.act"), &up, self.activation);
            let shape = [hidden, wide];
            let row = self.row;
            let down = self.steps.layer(&at("mlp.c_proj"), &up, shape, true, row);
            x = self.steps.add(format!("h.{layer}"), &attended, &down);
        }
        let normed = self.norm("ln_f", &x);
        let head = if self.config.tie_word_embeddings {
            "wte.weight"
        } else {
            "lm_head.weight"
        };
        self.steps.head(&normed, head, vocabulary);
    }

    fn attention(&mut self, at: &str, x: &StageId) -> StageId {
        let (hidden, heads) = (self.config.n_embd, self.config.n_head);
        let (id, shape) = (format!("{at}.c_attn"), [3 * hidden, hidden]);
        let fused = self.steps.layer(&id, x, shape, true, self.column);
        let parts = [
            (HeadPart::Query, "query"),
            (HeadPart::Key, "key"),
            (HeadPart::Value, "value"),
        ];
        let [query, key, value] = parts.map(|(part, name)| {
            let split = SplitHeads {
                part,
                layout: QkvLayout::PerPart,
                heads,
                cached: false,
            };
            self.steps.heads(&format!("{at}.{name}"), &fused, split)
        });
        let scale = if self.config.scale_attn_weights {
            1.0 / ((hidden / heads.max(1)) as f64).sqrt()
        } else {
            1.0
        };
        let parts = [&query, &key, &value];
        let context = self.steps.attention(at, parts, scale, self.scores);
        let (id, shape) = (format!("{at}.c_proj"), [hidden, hidden]);
        self.steps.layer(&id, &context, shape, true, self.row)
    }

    fn norm(&mut self, id: &str, x: &StageId) -> StageId {
        let (width, eps) = (self.config.n_embd, self.config.layer_norm_epsilon);
        self.steps.layer_norm(id, x, width, eps)
    }
}
