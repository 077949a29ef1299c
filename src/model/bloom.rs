//! BLOOM: ALiBi, a LayerNorm on the embeddings, query-key-value fused per head, a tied head.

use super::alibi;
use crate::error::Result;
use crate::op::{self, Activation, AlibiForm, HeadPart, Mask, Numerics, Op, QkvLayout, Rounding};
use crate::plan::{
    Arithmetic, MegatronArithmetic, Param, Plan, StageId, Step, TransformersArithmetic, Variant,
};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};

/// The epsilon of Megatron's embedding LayerNorm, whatever the arguments say: the default of
/// `MixedFusedLayerNorm`, which `VocabParallelEmbedding` does not override. transformers uses the
/// config's.
pub(crate) const MEGATRON_EMBEDDING_EPSILON: f64 = 1e-5;

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

impl BloomConfig {
    /// The plan of this model stored in `dtype`, rounding where `arithmetic`'s framework does.
    ///
    /// # Errors
    /// None for a config that has been validated.
    pub fn plan(&self, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan> {
        let mut steps = Steps {
            config: self,
            dtype,
            steps: Vec::new(),
        };
        let logits = match arithmetic {
            Arithmetic::Transformers(transformers) => steps.transformers(transformers),
            Arithmetic::Megatron(megatron) => steps.megatron(megatron),
        };
        debug_assert_eq!(logits.as_str(), "logits");
        Plan::new(dtype, steps.steps)
    }
}

/// The steps so far. Every method adds some and returns the id of the value it leaves.
struct Steps<'a> {
    config: &'a BloomConfig,
    dtype: DType,
    steps: Vec<Step>,
}

impl Steps<'_> {
    /// transformers (`modeling_bloom.py`, eager attention): every linear layer is an `addmm`, whose
    /// bias is in the sum before the one rounding; scores are one `baddbmm` on the ALiBi tensor.
    ///
    /// With `slow_but_exact`, `dense` and `dense_4h_to_h` are sums of rounded partial products, as
    /// over tensor-parallel ranks, and the module's bias is never added: what the stage then holds
    /// *is* its plain value, so its variant is plain.
    fn transformers(&mut self, transformers: &TransformersArithmetic) -> StageId {
        let slopes = alibi::transformers(self.config.n_head);
        let mut x = self.embeddings(self.config.layer_norm_epsilon);
        for layer in 0..self.config.n_layer {
            let at = |name: &str| format!("h.{layer}.{name}");
            let normed = self.layer_norm(at("input_layernorm"), &x);
            let scores = self.scores(layer, &normed, &slopes, 1.0);
            let context = self.context(layer, &scores, 1.0);
            let id = at("self_attention.dense");
            let dense = self.row_parallel(id, &context, self.square(), transformers);
            let residual = self.residual(&x, &normed);
            let attended = self.add(at("self_attention"), &residual, &dense);

            let normed = self.layer_norm(at("post_attention_layernorm"), &attended);
            let wide = self.linear(at("mlp.dense_h_to_4h"), &normed, self.widening());
            let gelu = self.gelu(layer, &wide);
            let id = at("mlp.dense_4h_to_h");
            let narrow = self.row_parallel(id, &gelu, self.narrowing(), transformers);
            let residual = self.residual(&attended, &normed);
            x = self.add(format!("h.{layer}"), &residual, &narrow);
        }
        self.head(&x)
    }

    /// Megatron-DeepSpeed (`megatron/model/transformer.py`, the pipelined model): `skip_bias_add`
    /// leaves the biases of `dense` and of both MLP layers to a later, separately rounded add;
    /// row-parallel layers round per rank; query-key layer scaling divides the scores of block `i`
    /// by `max(1, i)` and multiplies them back inside the fp32 softmax.
    fn megatron(&mut self, megatron: &MegatronArithmetic) -> StageId {
        let slopes = alibi::megatron(self.config.n_head);
        let ranks = megatron.tensor_parallel;
        let mut x = self.embeddings(MEGATRON_EMBEDDING_EPSILON);
        for layer in 0..self.config.n_layer {
            let at = |name: &str| format!("h.{layer}.{name}");
            let divisor = match megatron.query_key_layer_scaling {
                true => layer.max(1) as f32,
                false => 1.0,
            };
            let normed = self.layer_norm(at("input_layernorm"), &x);
            let scores = self.scores(layer, &normed, &slopes, divisor);
            let context = self.context(layer, &scores, divisor);
            let dense = self.product(at("self_attention.dense"), &context, self.square(), ranks);
            let dense = self.add_bias(&dense, self.hidden());
            let residual = self.residual(&x, &normed);
            let attended = self.add(at("self_attention"), &residual, &dense);

            let normed = self.layer_norm(at("post_attention_layernorm"), &attended);
            let wide = self.product(at("mlp.dense_h_to_4h"), &normed, self.widening(), 1);
            let wide = self.add_bias(&wide, 4 * self.hidden());
            let gelu = self.gelu(layer, &wide);
            let narrow = self.product(at("mlp.dense_4h_to_h"), &gelu, self.narrowing(), ranks);
            let narrow = self.add_bias(&narrow, self.hidden());
            let residual = self.residual(&attended, &normed);
            x = self.add(format!("h.{layer}"), &residual, &narrow);
        }
        self.head(&x)
    }

    fn embeddings(&mut self, epsilon: f64) -> StageId {
        let weight = param(
            "word_embeddings.weight",
            &[self.config.vocab_size, self.hidden()],
        );
        let raw = self.push(Step {
            params: vec![weight],
            ..self.step(
                "word_embeddings",
                Op::Embedding(op::Embedding),
                [&StageId::TOKENS.into()],
                // Rows are copied; nothing is computed or rounded.
                Numerics::elementwise(self.dtype, Rounding::Once),
            )
        });
        self.layer_norm_with("word_embeddings_layernorm".into(), &raw, epsilon)
    }

    fn scores(&mut self, layer: usize, x: &StageId, slopes: &[f32], divisor: f32) -> StageId {
        let at = |name: &str| format!("h.{layer}.self_attention.{name}");
        let fused = self.linear(at("query_key_value"), x, [3 * self.hidden(), self.hidden()]);
        let heads = [HeadPart::Query, HeadPart::Key, HeadPart::Value].map(|part| {
            let name = match part {
                HeadPart::Query => "query",
                HeadPart::Key => "key",
                HeadPart::Value => "value",
            };
            let op = Op::SplitHeads(op::SplitHeads {
                part,
                layout: QkvLayout::PerHead,
                heads: self.config.n_head,
                cached: false,
            });
            let numerics = Numerics::elementwise(self.dtype, Rounding::Once);
            self.push(self.step(at(name), op, [&fused], numerics))
        });
        let head_dim = (self.hidden() / self.config.n_head) as f64;
        let op = Op::AttentionScores(op::AttentionScores {
            product_scale: (1.0 / (f64::from(divisor) * head_dim.sqrt())) as f32,
            alibi_scale: (1.0 / f64::from(divisor)) as f32,
            alibi_slopes: slopes.to_vec(),
            alibi_form: AlibiForm::KeyPosition,
        });
        let inputs = [&heads[0], &heads[1]];
        self.push(Step {
            variant: Variant {
                divided_by: divisor,
                ..Variant::PLAIN
            },
            ..self.step(at("scores"), op, inputs, Numerics::product(self.dtype))
        })
    }

    fn context(&mut self, layer: usize, scores: &StageId, scale: f32) -> StageId {
        let at = |name: &str| format!("h.{layer}.self_attention.{name}");
        let softmax = Op::Softmax(op::Softmax {
            scale,
            mask: Mask::Causal,
        });
        let numerics = Numerics::softmax(self.dtype);
        let probs = self.push(self.step(at("probs"), softmax, [scores], numerics));
        let inputs = [&probs, &at("value").into()];
        let numerics = Numerics::product(self.dtype);
        self.push(self.step(at("context"), Op::Context(op::Context), inputs, numerics))
    }

    fn gelu(&mut self, layer: usize, x: &StageId) -> StageId {
        let op = Op::Activation(Activation::BloomGelu);
        let numerics = Numerics::elementwise(self.dtype, Rounding::EachOperation);
        self.push(self.step(format!("h.{layer}.mlp.gelu"), op, [x], numerics))
    }

    /// Final norm and logits. A head of its own is named as transformers names it; both frameworks
    /// multiply by it without a bias.
    fn head(&mut self, x: &StageId) -> StageId {
        let normed = self.layer_norm("ln_f".into(), x);
        let name = match self.config.tie_word_embeddings {
            true => "word_embeddings.weight",
            false => "lm_head.weight",
        };
        let op = Op::Linear(op::Linear {
            bias: false,
            partials: 1,
        });
        self.push(Step {
            params: vec![param(name, &[self.config.vocab_size, self.hidden()])],
            ..self.step("logits", op, [&normed], Numerics::product(self.dtype))
        })
    }

    fn layer_norm(&mut self, id: String, x: &StageId) -> StageId {
        self.layer_norm_with(id, x, self.config.layer_norm_epsilon)
    }

    fn layer_norm_with(&mut self, id: String, x: &StageId, eps: f64) -> StageId {
        let op = Op::LayerNorm(op::LayerNorm { eps });
        self.push(Step {
            params: vec![
                param(&format!("{id}.weight"), &[self.hidden()]),
                param(&format!("{id}.bias"), &[self.hidden()]),
            ],
            ..self.step(id, op, [x], Numerics::norm(self.dtype))
        })
    }

    /// A linear layer with weight `[out, in]` whose bias is in the sum before it is rounded.
    fn linear(&mut self, id: String, x: &StageId, shape: [usize; 2]) -> StageId {
        let bias = param(&format!("{id}.bias"), &shape[..1]);
        let mut step = self.projection(id, x, shape, true, 1);
        step.params.push(bias);
        self.push(step)
    }

    /// `dense` or `dense_4h_to_h` as transformers computes it.
    fn row_parallel(
        &mut self,
        id: String,
        x: &StageId,
        shape: [usize; 2],
        transformers: &TransformersArithmetic,
    ) -> StageId {
        match transformers.slow_but_exact {
            None => self.linear(id, x, shape),
            Some(slices) => {
                let step = self.projection(id, x, shape, false, slices);
                self.push(step)
            }
        }
    }

    /// A linear layer with weight `[out, in]` whose bias is left to [`Self::add_bias`].
    fn product(&mut self, id: String, x: &StageId, shape: [usize; 2], ranks: usize) -> StageId {
        let step = self.projection(id, x, shape, false, ranks);
        self.push(Step {
            variant: Variant::WITHOUT_BIAS,
            ..step
        })
    }

    fn projection(
        &self,
        id: String,
        x: &StageId,
        shape: [usize; 2],
        bias: bool,
        partials: usize,
    ) -> Step {
        let weight = param(&format!("{id}.weight"), &shape);
        let op = Op::Linear(op::Linear { bias, partials });
        Step {
            params: vec![weight],
            ..self.step(id, op, [x], Numerics::product(self.dtype))
        }
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

    fn add_bias(&mut self, product: &StageId, width: usize) -> StageId {
        let numerics = Numerics::elementwise(self.dtype, Rounding::Once);
        self.push(Step {
            stage: product.clone(),
            params: vec![param(&format!("{product}.bias"), &[width])],
            ..self.step(
                format!("{product}.biased"),
                Op::AddBias(op::AddBias),
                [product],
                numerics,
            )
        })
    }

    fn add(&mut self, id: String, a: &StageId, b: &StageId) -> StageId {
        let numerics = Numerics::elementwise(self.dtype, Rounding::Once);
        self.push(self.step(id, Op::Add(op::Add), [a, b], numerics))
    }

    fn residual(&self, before: &StageId, normed: &StageId) -> StageId {
        match self.config.apply_residual_connection_post_layernorm {
            true => normed.clone(),
            false => before.clone(),
        }
    }

    fn step<const N: usize>(
        &self,
        id: impl Into<StageId>,
        op: Op,
        inputs: [&StageId; N],
        numerics: Numerics,
    ) -> Step {
        let id = id.into();
        Step {
            stage: id.clone(),
            id,
            variant: Variant::PLAIN,
            op,
            inputs: inputs.map(StageId::clone).to_vec(),
            params: Vec::new(),
            numerics,
        }
    }

    fn push(&mut self, step: Step) -> StageId {
        let id = step.id.clone();
        self.steps.push(step);
        id
    }

    fn hidden(&self) -> usize {
        self.config.hidden_size
    }
}

fn param(name: &str, shape: &[usize]) -> Param {
    Param {
        name: name.to_owned(),
        shape: shape.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MegatronArithmetic;
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
        let ours = config().plan(DType::Bf16, &Arithmetic::default()).unwrap();
        insta::assert_snapshot!("transformers", listing(&ours, &[1, 2]));
        // Block 2 is the first whose scores are divided by more than 1.
        let theirs = config().plan(DType::Bf16, &megatron(2)).unwrap();
        insta::assert_snapshot!("megatron", listing(&theirs, &[0, 1]));
    }

    #[test]
    fn residuals_can_be_taken_after_the_norm() {
        let config = BloomConfig {
            apply_residual_connection_post_layernorm: true,
            ..config()
        };
        let plan = config.plan(DType::F32, &Arithmetic::default()).unwrap();
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
        let tied = config().plan(DType::F32, &megatron(1)).unwrap();
        assert!(!tied.params().contains_key("lm_head.weight"));
        let untied = BloomConfig {
            tie_word_embeddings: false,
            ..config()
        };
        let untied = untied.plan(DType::F32, &megatron(1)).unwrap();
        assert_eq!(untied.params()["lm_head.weight"].shape, [32, 12]);
    }

    #[test]
    fn shapes_follow_from_the_tokens() {
        let plan = config().plan(DType::F32, &megatron(2)).unwrap();
        let shapes = plan.shapes([2, 5]).unwrap();
        assert_eq!(shapes["h.0.self_attention.query"], [2, 6, 5, 2]);
        assert_eq!(shapes["h.0.self_attention.scores"], [2, 6, 5, 5]);
        assert_eq!(shapes["h.0.mlp.gelu"], [2, 5, 48]);
        assert_eq!(shapes["logits"], [2, 5, 32]);
        assert!(
            config()
                .plan(DType::F32, &megatron(5))
                .unwrap()
                .shapes([2, 5])
                .is_err()
        );
    }
}
