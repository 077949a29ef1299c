//! A decoder's steps, in either framework's arithmetic.
//!
//! transformers (`modeling_llama.py` and those made of it, eager attention) and megatron-core (local layer spec) round at the
//! same places but for RMSNorm, whose normalized value transformers rounds before the weight, scores,
//! whose product transformers rounds before it is scaled, biases, and row-parallel layers, whose
//! products Megatron rounds per rank. In mixtures of experts Megatron multiplies the router's weights before the
//! last layer of an expert, transformers after it; both compute them in fp32, and each rounds them, and the sum over
//! experts, at places of its own.

use super::experts::{ExpertLayer, Experts};
use super::{DecoderConfig, LatentAttention};
use crate::arch::steps::{BiasOrder, Steps, param};
use crate::error::Result;
use crate::op::{
    Columns, ExpertLinear, HeadPart, JoinHeads, Numerics, Op, Partials, QkvLayout, Rotary,
    RotaryFunction, RotaryPairs, RotaryTable, Rounding, Route, RouterGroups, RouterScores,
    RouterWeights, SplitHeads, SumExperts, Weigh,
};
use crate::plan::{Arithmetic, Plan, StageId, Step};
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
        dtype,
        arithmetic,
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
    dtype: DType,
    arithmetic: &'a Arithmetic,
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
            let at = format!("{block}.self_attn");
            let attended = match &self.config.latent {
                Some(latent) => self.latent_attention(&at, &normed, &tables, latent),
                None => self.attention(&at, &normed, &tables),
            };
            let id = format!("{block}.self_attn.residual");
            let attended = self.steps.add(id, &x, &attended);
            let normed = self.norm(
                &format!("{block}.post_attention_layernorm"),
                &attended,
                hidden,
            );
            let at = format!("{block}.mlp");
            let narrow = match &self.config.experts {
                Some(experts) if experts.are_in(layer) => self.experts(&block, &normed, experts),
                _ => self.mlp(&at, &normed, self.config.intermediate_size),
            };
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

    /// Attention whose keys and values are made of a latent, and queries if they have one.
    fn latent_attention(
        &mut self,
        at: &str,
        x: &StageId,
        [cos, sin]: &[StageId; 2],
        latent: &LatentAttention,
    ) -> StageId {
        let (hidden, heads) = (self.config.hidden_size, self.config.num_attention_heads);
        let (plain, turned, value) = (latent.plain_dim, latent.rotary_dim, latent.value_dim);
        // transformers leaves its class's default to the norms of latents.
        let eps = match self.arithmetic {
            Arithmetic::Transformers(_) => 1e-6,
            Arithmetic::Megatron(_) => self.config.rms_norm_eps,
        };
        let rounding = self.rounding;
        let layer = |of: &mut Self, name: &str, x: &StageId, shape| {
            let id = format!("{at}.{name}");
            of.steps.layer(&id, x, shape, false, of.column)
        };
        let norm = |of: &mut Self, name: &str, x: &StageId, width| {
            let id = format!("{at}.{name}");
            of.steps.rms_norm(&id, x, width, eps, rounding)
        };
        let columns = |of: &mut Self, name: &str, x: &StageId, op: Columns| {
            let numerics = Numerics::elementwise(of.dtype, Rounding::Once);
            let step = of.steps.step(format!("{at}.{name}"), op, [x], numerics);
            of.steps.push(step)
        };
        let of_heads = |from, count| Columns {
            heads: Some(heads),
            from,
            count,
            apart: false,
        };
        let all_queries = heads * (plain + turned);
        let query = match latent.query_rank {
            Some(rank) => {
                let narrow = layer(self, "q_a_proj", x, [rank, hidden]);
                let normed = norm(self, "q_a_layernorm", &narrow, rank);
                layer(self, "q_b_proj", &normed, [all_queries, rank])
            }
            None => layer(self, "q_proj", x, [all_queries, hidden]),
        };
        let rank = latent.key_value_rank;
        let fused = layer(self, "kv_a_proj_with_mqa", x, [rank + turned, hidden]);
        let narrow = Columns {
            heads: None,
            from: 0,
            count: rank,
            apart: false,
        };
        let narrow = columns(self, "kv_a", &fused, narrow);
        let normed = norm(self, "kv_a_layernorm", &narrow, rank);
        let wide = [heads * (plain + value), rank];
        let keys_values = layer(self, "kv_b_proj", &normed, wide);

        let rotary = Rotary {
            dims: turned,
            pairs: RotaryPairs::Halves,
        };
        let rotate = |of: &mut Self, name: &str, x: &StageId, op: Columns| {
            let op = Columns {
                apart: latent.interleaved,
                ..op
            };
            let part = columns(of, &format!("{name}_rope"), x, op);
            let id = format!("{at}.{name}_rot");
            of.steps.rotary(&id, rotary, &part, [cos, sin])
        };
        let query_plain = columns(self, "q_nope", &query, of_heads(0, plain));
        let query_turned = rotate(self, "q", &query, of_heads(plain, turned));
        let key_plain = columns(self, "k_nope", &keys_values, of_heads(0, plain));
        let one_head = Columns {
            heads: Some(1),
            from: rank,
            count: turned,
            apart: false,
        };
        let key_turned = rotate(self, "k", &fused, one_head);
        let joined = |of: &mut Self, name: &str, parts: [&StageId; 2]| {
            let numerics = Numerics::elementwise(of.dtype, Rounding::Once);
            let step = of
                .steps
                .step(format!("{at}.{name}"), JoinHeads, parts, numerics);
            of.steps.push(step)
        };
        let query = joined(self, "query", [&query_plain, &query_turned]);
        let key = joined(self, "key", [&key_plain, &key_turned]);
        let values = columns(self, "value", &keys_values, of_heads(plain, value));
        let scale = latent.mscale * latent.mscale / ((plain + turned) as f64).sqrt();
        let parts = [&query, &key, &values];
        let context = self.steps.attention(at, parts, scale, rounding);
        let (id, shape) = (format!("{at}.o_proj"), [hidden, heads * value]);
        self.steps.layer(&id, &context, shape, false, self.row)
    }

    fn mlp(&mut self, at: &str, x: &StageId, wide: usize) -> StageId {
        let hidden = self.config.hidden_size;
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

    /// A mixture of experts. What experts compute is of the choices of every token, side by side.
    fn experts(&mut self, block: &str, x: &StageId, experts: &Experts) -> StageId {
        let (at, dtype) = (format!("{block}.mlp"), self.dtype);
        let once = |out| Numerics::elementwise(out, Rounding::Once);
        let megatron = match self.arithmetic {
            Arithmetic::Megatron(megatron) => Some(*megatron),
            Arithmetic::Transformers(_) => None,
        };
        let router = match megatron {
            Some(megatron) if megatron.fp32_router => DType::F32,
            None if experts.fp32_router => DType::F32,
            _ => dtype,
        };
        let [choice, weights] = self.router(block, x, experts, router);

        let hidden = self.config.hidden_size;
        let wide = experts.intermediate_size;
        let widen = |of: &mut Self, name: &str, layer| {
            let id = format!("{at}.experts.{name}");
            let op = ExpertLinear {
                of_choices: false,
                parts: 1,
            };
            of.of_experts(
                &id,
                op,
                [x, &choice],
                (block, experts, layer),
                [wide, hidden],
            )
        };
        let gate = widen(self, "gate_proj", ExpertLayer::Gate);
        let up = widen(self, "up_proj", ExpertLayer::Up);
        let activation = self.config.hidden_act.as_transformers();
        let gate = self
            .steps
            .activation(&format!("{at}.experts.act_fn"), &gate, activation);
        let gated = self
            .steps
            .multiply(&format!("{at}.experts.gated"), &gate, &up);
        let id = |name: &str| format!("{at}.experts.{name}");
        let narrow = |of: &mut Self, id: &str, x: &StageId, parts| {
            let op = ExpertLinear {
                of_choices: true,
                parts,
            };
            let layer = (block, experts, ExpertLayer::Down);
            of.of_experts(id, op, [x, &choice], layer, [hidden, wide])
        };
        let (weighted, parts, ranks, rounding) = match (megatron, self.arithmetic) {
            (Some(megatron), _) => {
                let inputs = [&gated, &weights];
                let step = self
                    .steps
                    .step(id("gated.weighted"), Weigh, inputs, once(dtype));
                let gated = self.steps.push(step);
                let parts = megatron.tensor_parallel;
                // Of several ranks each has a part of the sum, which is no stage that others have.
                let name = if parts == 1 {
                    "weighted"
                } else {
                    "weighted.parts"
                };
                let weighted = narrow(self, &id(name), &gated, parts);
                (weighted, parts, megatron.expert_ranks, Rounding::Once)
            }
            (None, arithmetic) => {
                let grouped =
                    matches!(arithmetic, Arithmetic::Transformers(t) if t.grouped_experts);
                let narrow = narrow(self, &id("down_proj"), &gated, 1);
                let (out, rounding) = match grouped {
                    true if !experts.rounded_weights => (DType::F32, Rounding::Once),
                    true => (dtype, Rounding::Once),
                    false => (dtype, Rounding::EachOperation),
                };
                let inputs = [&narrow, &weights];
                let step = self.steps.step(id("weighted"), Weigh, inputs, once(out));
                (self.steps.push(step), 1, 1, rounding)
            }
        };
        let sum = SumExperts {
            parts,
            ranks,
            experts: experts.count,
        };
        let numerics = Numerics::elementwise(dtype, rounding);
        let inputs = [&weighted, &choice];
        let step = self
            .steps
            .step(format!("{at}.experts"), sum, inputs, numerics);
        let routed = self.steps.push(step);
        let Some(wide) = experts.shared_size else {
            return routed;
        };
        let shared = self.mlp(&format!("{at}.shared_experts"), x, wide);
        self.steps.add(at, &routed, &shared)
    }

    /// Which experts a router chooses, and their weights; it computes in the type `router`.
    fn router(
        &mut self,
        block: &str,
        x: &StageId,
        experts: &Experts,
        router: DType,
    ) -> [StageId; 2] {
        let gate = format!("{block}.mlp.gate");
        let once = |out| Numerics::elementwise(out, Rounding::Once);
        let weight = format!("{block}.{}.gate.weight", experts.names.module());
        let shape = [experts.count, self.config.hidden_size];
        let product = crate::op::Linear {
            bias: false,
            partials: Partials::ONE,
        };
        let logits = self.steps.push(Step {
            params: vec![param(&weight, &shape)],
            ..self
                .steps
                .step(gate.clone(), product, [x], Numerics::product(router))
        });
        let is_transformers = matches!(self.arithmetic, Arithmetic::Transformers(_));
        let route = Route {
            chosen: experts.chosen,
            scores: experts.scores,
            groups: experts.groups.map(|groups| RouterGroups {
                count: groups.count,
                chosen: groups.chosen,
                best: match is_transformers {
                    true => 2,
                    false => (experts.chosen / groups.chosen).max(1),
                },
            }),
            bias: experts.correction_bias,
        };
        let bias = format!("{gate}.e_score_correction_bias");
        let params = experts
            .correction_bias
            .then(|| param(&bias, &[experts.count]));
        let choice = self.steps.push(Step {
            params: params.into_iter().collect(),
            ..self.steps.step(
                format!("{gate}.indices"),
                route,
                [&logits],
                once(DType::F32),
            )
        });
        let weights = RouterWeights {
            scores: experts.scores,
            of_chosen: !is_transformers
                && experts.scores == RouterScores::Softmax
                && experts.normalized,
            normalized: experts.normalized,
            epsilon: match experts.scores {
                RouterScores::Softmax => 0.0,
                RouterScores::Sigmoid => 1e-20,
            },
            scaling: experts.scaling as f32,
        };
        let out = match is_transformers {
            true if !experts.rounded_weights => DType::F32,
            true => self.dtype,
            false => router,
        };
        let inputs = [&logits, &choice];
        let step = self
            .steps
            .step(format!("{gate}.scores"), weights, inputs, once(out));
        let weights = self.steps.push(step);
        [choice, weights]
    }

    /// A layer of all experts, of weights of this shape.
    fn of_experts(
        &mut self,
        id: &str,
        op: ExpertLinear,
        inputs: [&StageId; 2],
        (block, experts, layer): (&str, &Experts, ExpertLayer),
        shape: [usize; 2],
    ) -> StageId {
        let module = experts.names.module();
        let params = (0..experts.count).map(|expert| {
            let layer = experts.names.layer(expert, layer);
            param(&format!("{block}.{module}.{layer}.weight"), &shape)
        });
        let numerics = Numerics::product(self.dtype);
        self.steps.push(Step {
            params: params.collect(),
            ..self.steps.step(id, Op::from(op), inputs, numerics)
        })
    }

    fn norm(&mut self, id: &str, x: &StageId, width: usize) -> StageId {
        let eps = self.config.rms_norm_eps;
        self.steps.rms_norm(id, x, width, eps, self.rounding)
    }
}
