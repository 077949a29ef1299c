//! BLOOM's steps, in either framework's arithmetic.

use super::{BloomConfig, MEGATRON_EMBEDDING_EPSILON, alibi};
use crate::arch::steps::{Steps, param};
use crate::error::Result;
use crate::op::{
    self, Activation, Alibi, AlibiForm, AlibiSum, HeadPart, Mask, Numerics, Partials, QkvLayout,
    Rounding,
};
use crate::plan::{
    Arithmetic, MegatronArithmetic, Plan, StageId, Step, TransformersArithmetic, Variant,
};
use crate::tensor::DType;

/// The plan of `config`'s model stored in `dtype`, rounding where `arithmetic`'s framework does.
pub(super) fn plan(config: &BloomConfig, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan> {
    let mut bloom = Bloom {
        config,
        steps: Steps::new(dtype),
    };
    match arithmetic {
        Arithmetic::Transformers(transformers) => bloom.transformers(transformers),
        Arithmetic::Megatron(megatron) => bloom.megatron(megatron),
    };
    bloom.steps.into_plan()
}

/// The steps so far. Every method adds some and returns the id of the value it leaves.
struct Bloom<'a> {
    config: &'a BloomConfig,
    steps: Steps,
}

impl Bloom<'_> {
    /// transformers (`modeling_bloom.py`, eager attention): every linear layer is an `addmm`, whose
    /// bias is in the sum before the one rounding; scores are one `baddbmm` on the ALiBi tensor.
    ///
    /// With `slow_but_exact`, `dense` and `dense_4h_to_h` are sums of rounded partial products, as
    /// over tensor-parallel ranks, and the module's bias is never added: what the stage then holds
    /// *is* its plain value, so its variant is plain.
    fn transformers(&mut self, transformers: &TransformersArithmetic) {
        let slopes = alibi::transformers(self.config.n_head);
        let mut x = self.embeddings(self.config.layer_norm_epsilon);
        for layer in 0..self.config.n_layer {
            let at = |name: &str| format!("h.{layer}.{name}");
            let normed = self.layer_norm(&at("input_layernorm"), &x);
            let scores = self.scores(layer, &normed, &slopes, 1.0, transformers.alibi_sum);
            let context = self.context(layer, &scores, 1.0);
            let id = at("self_attention.dense");
            let dense = self.row_parallel(&id, &context, self.square(), transformers);
            let residual = self.residual(&x, &normed);
            let attended = self.steps.add(at("self_attention"), &residual, &dense);

            let normed = self.layer_norm(&at("post_attention_layernorm"), &attended);
            let id = at("mlp.dense_h_to_4h");
            let wide = self.steps.linear(&id, &normed, self.widening());
            let gelu = self.gelu(layer, &wide);
            let id = at("mlp.dense_4h_to_h");
            let narrow = self.row_parallel(&id, &gelu, self.narrowing(), transformers);
            let residual = self.residual(&attended, &normed);
            x = self.steps.add(format!("h.{layer}"), &residual, &narrow);
        }
        self.head(&x);
    }

    /// Megatron-DeepSpeed (`megatron/model/transformer.py`, the pipelined model): `skip_bias_add`
    /// leaves the biases of `dense` and of both MLP layers to a later, separately rounded add;
    /// row-parallel layers round per rank; query-key layer scaling divides the scores of a block by
    /// its number and multiplies them back inside the fp32 softmax.
    fn megatron(&mut self, megatron: &MegatronArithmetic) {
        let slopes = alibi::megatron(self.config.n_head);
        let ranks = megatron.partials();
        let mut x = self.embeddings(MEGATRON_EMBEDDING_EPSILON);
        for layer in 0..self.config.n_layer {
            let at = |name: &str| format!("h.{layer}.{name}");
            let divisor = megatron.score_divisor(layer);
            let normed = self.layer_norm(&at("input_layernorm"), &x);
            let scores = self.scores(layer, &normed, &slopes, divisor, megatron.alibi_sum);
            let context = self.context(layer, &scores, divisor);
            let id = at("self_attention.dense");
            let dense = self.biased(&id, &context, self.square(), ranks);
            let residual = self.residual(&x, &normed);
            let attended = self.steps.add(at("self_attention"), &residual, &dense);

            let normed = self.layer_norm(&at("post_attention_layernorm"), &attended);
            let wide = self.biased(
                &at("mlp.dense_h_to_4h"),
                &normed,
                self.widening(),
                Partials::ONE,
            );
            let gelu = self.gelu(layer, &wide);
            let narrow = self.biased(&at("mlp.dense_4h_to_h"), &gelu, self.narrowing(), ranks);
            let residual = self.residual(&attended, &normed);
            x = self.steps.add(format!("h.{layer}"), &residual, &narrow);
        }
        self.head(&x);
    }

    fn embeddings(&mut self, epsilon: f64) -> StageId {
        let shape = [self.config.vocab_size, self.hidden()];
        let raw = self.steps.embedding("word_embeddings", shape);
        let (id, hidden) = ("word_embeddings_layernorm", self.hidden());
        self.steps.layer_norm(id, &raw, hidden, epsilon)
    }

    fn scores(
        &mut self,
        layer: usize,
        x: &StageId,
        slopes: &[f32],
        divisor: f32,
        sum: AlibiSum,
    ) -> StageId {
        let at = |name: &str| format!("h.{layer}.self_attention.{name}");
        let shape = [3 * self.hidden(), self.hidden()];
        let fused = self.steps.linear(&at("query_key_value"), x, shape);
        let dtype = self.steps.dtype;
        let heads = [HeadPart::Query, HeadPart::Key, HeadPart::Value].map(|part| {
            let name = match part {
                HeadPart::Query => "query",
                HeadPart::Key => "key",
                HeadPart::Value => "value",
            };
            let op = op::SplitHeads {
                part,
                layout: QkvLayout::PerHead,
                heads: self.config.n_head,
                cached: false,
            };
            let numerics = Numerics::elementwise(dtype, Rounding::Once);
            let step = self.steps.step(at(name), op, [&fused], numerics);
            self.steps.push(step)
        });
        let head_dim = (self.hidden() / self.config.n_head) as f64;
        let op = op::AttentionScores {
            product_scale: (1.0 / (f64::from(divisor) * head_dim.sqrt())) as f32,
            alibi: Some(Alibi {
                scale: (1.0 / f64::from(divisor)) as f32,
                slopes: slopes.to_vec(),
                form: AlibiForm::KeyPosition,
                sum,
            }),
        };
        let (inputs, numerics) = ([&heads[0], &heads[1]], Numerics::product(dtype));
        let step = self.steps.step(at("scores"), op, inputs, numerics);
        self.steps.push(Step {
            variant: Variant {
                divided_by: divisor,
                ..Variant::PLAIN
            },
            ..step
        })
    }

    fn context(&mut self, layer: usize, scores: &StageId, scale: f32) -> StageId {
        let at = |name: &str| format!("h.{layer}.self_attention.{name}");
        let (dtype, mask) = (self.steps.dtype, Mask::Causal);
        let softmax = op::Softmax { scale, mask };
        let numerics = Numerics::softmax(dtype);
        let probs = self.steps.step(at("probs"), softmax, [scores], numerics);
        let probs = self.steps.push(probs);
        let (inputs, numerics) = ([&probs, &at("value").into()], Numerics::product(dtype));
        let context = self
            .steps
            .step(at("context"), op::Context, inputs, numerics);
        self.steps.push(context)
    }

    fn gelu(&mut self, layer: usize, x: &StageId) -> StageId {
        let numerics = Numerics::elementwise(self.steps.dtype, Rounding::EachOperation);
        let (id, op) = (format!("h.{layer}.mlp.gelu"), Activation::BloomGelu);
        let gelu = self.steps.step(id, op, [x], numerics);
        self.steps.push(gelu)
    }

    /// Final norm and logits. A head of its own is named as transformers names it; both frameworks
    /// multiply by it without a bias.
    fn head(&mut self, x: &StageId) -> StageId {
        let normed = self.layer_norm("ln_f", x);
        let name = if self.config.tie_word_embeddings {
            "word_embeddings.weight"
        } else {
            "lm_head.weight"
        };
        let op = op::Linear {
            bias: false,
            partials: Partials::ONE,
        };
        let numerics = Numerics::product(self.steps.dtype);
        let logits = self.steps.step("logits", op, [&normed], numerics);
        self.steps.push(Step {
            params: vec![param(name, &[self.config.vocab_size, self.hidden()])],
            ..logits
        })
    }

    fn layer_norm(&mut self, id: &str, x: &StageId) -> StageId {
        let (hidden, epsilon) = (self.hidden(), self.config.layer_norm_epsilon);
        self.steps.layer_norm(id, x, hidden, epsilon)
    }

    /// `dense` or `dense_4h_to_h` as transformers computes it.
    fn row_parallel(
        &mut self,
        id: &str,
        x: &StageId,
        shape: [usize; 2],
        transformers: &TransformersArithmetic,
    ) -> StageId {
        match transformers.slow_but_exact {
            None => self.steps.linear(id, x, shape),
            Some(slices) => self.steps.product(id, x, shape, Partials::in_order(slices)),
        }
    }

    /// A linear layer as Megatron computes it: the sum of the ranks' products, then the bias.
    fn biased(&mut self, id: &str, x: &StageId, shape: [usize; 2], ranks: Partials) -> StageId {
        let product = self.steps.product_before_bias(id, x, shape, ranks);
        self.steps.add_bias(&product, shape[0])
    }

    fn square(&self) -> [usize; 2] {
        [self.hidden(), self.hidden()]
    }

    fn widening(&self) -> [usize; 2] {
        [4 * self.hidden(), self.hidden()]
    }

    fn narrowing(&self) -> [usize; 2] {
        [self.hidden(), 4 * self.hidden()]
    }

    fn residual(&self, before: &StageId, normed: &StageId) -> StageId {
        if self.config.apply_residual_connection_post_layernorm {
            normed.clone()
        } else {
            before.clone()
        }
    }

    fn hidden(&self) -> usize {
        self.config.hidden_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ModelConfig;
    use std::collections::BTreeSet;
    use std::fmt::Write;

    fn config() -> BloomConfig {
        BloomConfig {
            hidden_size: 12,
            n_layer: 3,
            n_head: 6,
            vocab_size: 32,
            layer_norm_epsilon: 1e-5,
            apply_residual_connection_post_layernorm: false,
            tie_word_embeddings: true,
        }
    }

    fn megatron(tensor_parallel: usize) -> Arithmetic {
        Arithmetic::Megatron(MegatronArithmetic {
            tensor_parallel,
            ..MegatronArithmetic::default()
        })
    }

    /// Every step on a line, those of blocks `but` left out.
    fn listing(plan: &Plan, but: &[usize]) -> String {
        let mut text = String::new();
        let left_out = |id: &StageId| {
            but.iter()
                .any(|b| id.as_str().starts_with(&format!("h.{b}")))
        };
        for step in plan.steps().iter().filter(|step| !left_out(&step.id)) {
            let inputs: Vec<&str> = step.inputs.iter().map(StageId::as_str).collect();
            let _ = writeln!(text, "{} = {step} ({})", step.id, inputs.join(", "));
        }
        text
    }

    #[test]
    fn the_two_arithmetics_are_two_plans() {
        let ours = plan(&config(), DType::Bf16, &Arithmetic::default()).unwrap();
        insta::assert_snapshot!("transformers", listing(&ours, &[1, 2]));
        // Block 2 is the first whose scores are divided by more than 1.
        let theirs = plan(&config(), DType::Bf16, &megatron(2)).unwrap();
        insta::assert_snapshot!("megatron", listing(&theirs, &[0, 1]));
    }

    #[test]
    fn residuals_can_be_taken_after_the_norm() {
        let config = BloomConfig {
            apply_residual_connection_post_layernorm: true,
            ..config()
        };
        let plan = plan(&config, DType::F32, &Arithmetic::default()).unwrap();
        let inputs = |id: &str| {
            let step = plan
                .steps()
                .iter()
                .find(|step| step.id.as_str() == id)
                .unwrap();
            step.inputs[0].to_string()
        };
        assert_eq!(inputs("h.1.self_attention"), "h.1.input_layernorm");
        assert_eq!(inputs("h.1"), "h.1.post_attention_layernorm");
    }

    #[test]
    fn a_head_of_its_own_is_a_parameter_of_its_own() {
        let tied = plan(&config(), DType::F32, &megatron(1)).unwrap();
        assert!(!tied.params().contains_key("lm_head.weight"));
        let untied = BloomConfig {
            tie_word_embeddings: false,
            ..config()
        };
        let untied = plan(&untied, DType::F32, &megatron(1)).unwrap();
        assert_eq!(untied.params()["lm_head.weight"].shape, [32, 12]);
    }

    #[test]
    fn shapes_follow_from_the_tokens() {
        let of_ranks = |ranks| plan(&config(), DType::F32, &megatron(ranks)).unwrap();
        let shapes = of_ranks(2).shapes([2, 5]).unwrap();
        assert_eq!(shapes["h.0.self_attention.query"], [2, 6, 5, 2]);
        assert_eq!(shapes["h.0.self_attention.scores"], [2, 6, 5, 5]);
        assert_eq!(shapes["h.0.mlp.gelu"], [2, 5, 48]);
        assert_eq!(shapes["logits"], [2, 5, 32]);
        assert!(of_ranks(5).shapes([2, 5]).is_err());
    }

    #[test]
    fn every_stage_of_a_plan_is_in_the_table_and_every_row_a_stage() {
        let transformers = plan(&config(), DType::F32, &Arithmetic::default()).unwrap();
        let megatron = plan(&config(), DType::F32, &megatron(2)).unwrap();
        let model = ModelConfig::Bloom(config());
        let mut kinds = BTreeSet::new();
        for stage in [&transformers, &megatron]
            .iter()
            .flat_map(|plan| plan.stages())
        {
            assert!(model.role(stage).is_some(), "{stage}");
            kinds.insert(stage.kind());
        }
        assert_eq!(kinds.len(), super::super::stages::STAGES.len());
    }
}
