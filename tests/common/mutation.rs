//! Conversion bugs, made on purpose: a candidate is opened and then damaged in memory.

use parity::arch::ModelConfig;
use parity::checkpoint::{Stored, Weights};
use parity::diff::Candidate;
use parity::error::Result;
use parity::op::{self, Activation, HeadPart, Mask, Op, Rounding};
use parity::plan::Step;
use parity::tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// A bug, where it has to show first, and what has to be said of it.
pub struct Mutation {
    pub name: &'static str,
    /// The first stage whose recorded value it changes.
    pub stage: &'static str,
    /// Part of the finding that names the bug.
    pub cause: &'static str,
    /// Whether it is one in fp32, too: roundings between operations are not.
    pub in_fp32: bool,
    pub apply: fn(&mut Candidate),
}

/// Every bug.
pub fn all() -> Vec<Mutation> {
    let mutation = |name, stage, cause, apply| Mutation {
        name,
        stage,
        cause,
        in_fp32: true,
        apply,
    };
    let half_only = |name, stage, cause, apply| Mutation {
        in_fp32: false,
        ..mutation(name, stage, cause, apply)
    };
    vec![
        mutation(
            "embedding rows shifted by one token",
            "word_embeddings",
            "rows of the embedding lie 1 later",
            |c| {
                weight(c, "word_embeddings.weight", |x| {
                    x.rows(|row, rows| (row + rows - 1) % rows)
                });
            },
        ),
        mutation(
            "embedding scaled by the root of the hidden size",
            "word_embeddings",
            "are the model's over the root of the hidden size",
            |c| {
                weight(c, "word_embeddings.weight", |x| x.map(|x| 8.0 * x));
            },
        ),
        mutation(
            "vocabulary shards of 2 ranks in reverse order",
            "word_embeddings",
            "weight shards of 2 ranks are joined in reverse order",
            |c| {
                weight(c, "word_embeddings.weight", |x| {
                    x.rows(|row, rows| (row + rows / 2) % rows)
                });
            },
        ),
        mutation(
            "epsilon of the embedding norm 1e-3",
            "word_embeddings_layernorm",
            "epsilon is 1e-5, the model's 1e-3",
            |c| {
                step(c, "word_embeddings_layernorm", |step| {
                    step.op = Op::LayerNorm(op::LayerNorm { eps: 1e-3 })
                });
            },
        ),
        mutation(
            "epsilon of the config 1e-6",
            "word_embeddings_layernorm",
            "is computed as layer norm (eps 1e-6)",
            |c| {
                let ModelConfig::Bloom(bloom) = &mut c.model else {
                    return;
                };
                bloom.layer_norm_epsilon = 1e-6;
            },
        ),
        mutation(
            "epsilon of every norm but the first 1e-6",
            "h.0.input_layernorm",
            "epsilon is 1e-5, the model's 1e-6",
            |c| {
                rewrite(c, |step| match &mut step.op {
                    Op::LayerNorm(op::LayerNorm { eps })
                        if step.stage.as_str() != "word_embeddings_layernorm" =>
                    {
                        *eps = 1e-6
                    }
                    _ => {}
                });
            },
        ),
        mutation(
            "epsilon of the last norm 1e-12",
            "ln_f",
            "the model's 1e-12",
            |c| {
                step(c, "ln_f", |step| {
                    step.op = Op::LayerNorm(op::LayerNorm { eps: 1e-12 })
                });
            },
        ),
        mutation(
            "RMS norm instead of layer norm",
            "h.1.input_layernorm",
            "the reference's norm is a layer norm",
            |c| {
                step(c, "h.1.input_layernorm", |step| {
                    if let Op::LayerNorm(op::LayerNorm { eps }) = step.op {
                        step.op = Op::RmsNorm(op::RmsNorm { eps });
                    }
                });
            },
        ),
        mutation(
            "norm weight stored less one",
            "h.0.input_layernorm",
            "stored as gamma − 1",
            |c| {
                weight(c, "h.0.input_layernorm.weight", |x| x.map(|x| x - 1.0));
            },
        ),
        mutation(
            "last norm left at init",
            "ln_f",
            "all ones and zeros",
            |c| {
                weight(c, "ln_f.weight", |x| x.map(|_| 1.0));
                weight(c, "ln_f.bias", |x| x.map(|_| 0.0));
            },
        ),
        mutation(
            "last norm's weight left at ones",
            "ln_f",
            "left at init",
            |c| {
                weight(c, "ln_f.weight", |x| x.map(|_| 1.0));
            },
        ),
        mutation("last norm's bias left at zeros", "ln_f", "all zeros", |c| {
            weight(c, "ln_f.bias", |x| x.map(|_| 0.0));
        }),
        mutation(
            "the two norms of a block swapped",
            "h.0.input_layernorm",
            "those of h.*.post_attention_layernorm",
            |c| {
                for part in ["weight", "bias"] {
                    swap(
                        c,
                        &format!("h.0.input_layernorm.{part}"),
                        &format!("h.0.post_attention_layernorm.{part}"),
                    );
                }
            },
        ),
        mutation(
            "qkv rows [3, heads, d]",
            "h.0.self_attention.query_key_value",
            "weight and bias rows are ordered [3, heads, d]",
            |c| {
                for part in ["weight", "bias"] {
                    weight(
                        c,
                        &format!("h.0.self_attention.query_key_value.{part}"),
                        |x| x.rows(per_part),
                    );
                }
            },
        ),
        mutation(
            "qkv weight rows [3, heads, d], bias right",
            "h.1.self_attention.query_key_value",
            "weight rows are ordered [3, heads, d]",
            |c| {
                weight(c, "h.1.self_attention.query_key_value.weight", |x| {
                    x.rows(per_part)
                });
            },
        ),
        mutation(
            "qkv bias rows [3, heads, d], weight right",
            "h.0.self_attention.query_key_value",
            "bias rows are ordered [3, heads, d]",
            |c| {
                weight(c, "h.0.self_attention.query_key_value.bias", |x| {
                    x.rows(per_part)
                });
            },
        ),
        mutation(
            "qkv reordered although in order",
            "h.0.self_attention.query_key_value",
            "although they had that order already",
            |c| {
                for part in ["weight", "bias"] {
                    weight(
                        c,
                        &format!("h.0.self_attention.query_key_value.{part}"),
                        |x| {
                            x.rows(|row, _| {
                                let (head, part, at) = (row / 24, row / 8 % 3, row % 8);
                                part * 64 + head * 8 + at
                            })
                        },
                    );
                }
            },
        ),
        mutation(
            "qkv of 2 query groups",
            "h.0.self_attention.query_key_value",
            "[2, 3, heads/2, d]",
            |c| {
                for part in ["weight", "bias"] {
                    weight(
                        c,
                        &format!("h.0.self_attention.query_key_value.{part}"),
                        |x| {
                            x.rows(|row, _| {
                                let (group, part, head, at) =
                                    (row / 96, row / 32 % 3, row / 8 % 4, row % 8);
                                ((group * 4 + head) * 3 + part) * 8 + at
                            })
                        },
                    );
                }
            },
        ),
        mutation(
            "keys and values swapped",
            "h.1.self_attention.query_key_value",
            "of keys and values are swapped",
            |c| {
                for part in ["weight", "bias"] {
                    weight(
                        c,
                        &format!("h.1.self_attention.query_key_value.{part}"),
                        |x| {
                            x.rows(|row, _| {
                                let (head, part, at) = (row / 24, row / 8 % 3, row % 8);
                                head * 24 + [0, 2, 1][part] * 8 + at
                            })
                        },
                    );
                }
            },
        ),
        mutation(
            "queries and keys swapped where heads are split",
            "h.0.self_attention.scores",
            "queries and keys are swapped",
            |c| {
                rewrite(c, |step| {
                    if let Op::SplitHeads(op::SplitHeads { part, .. }) = &mut step.op {
                        *part = match part {
                            HeadPart::Query => HeadPart::Key,
                            HeadPart::Key => HeadPart::Query,
                            HeadPart::Value => HeadPart::Value,
                        };
                    }
                });
            },
        ),
        mutation(
            "qkv bias missing",
            "h.1.self_attention.query_key_value",
            "all zeros",
            |c| {
                weight(c, "h.1.self_attention.query_key_value.bias", |x| {
                    x.map(|_| 0.0)
                });
            },
        ),
        mutation(
            "qkv weight through fp8 (e5m2)",
            "h.0.self_attention.query_key_value",
            "rounded through fp8 (e5m2)",
            |c| {
                weight(c, "h.0.self_attention.query_key_value.weight", |x| {
                    x.eight_bit(2)
                });
            },
        ),
        mutation(
            "attention scores not scaled",
            "h.0.self_attention.scores",
            "products are over the root of the head dimension",
            |c| {
                scores(c, |scale, _| *scale *= 8_f32.sqrt());
            },
        ),
        mutation(
            "attention scores scaled twice",
            "h.0.self_attention.scores",
            "products are times the root of the head dimension",
            |c| {
                scores(c, |scale, _| *scale /= 8_f32.sqrt());
            },
        ),
        mutation(
            "scores divided by the layer's number from 1",
            "h.1.self_attention.scores",
            "times the layer's number from 1",
            |c| {
                rewrite(c, |step| {
                    let layer = step.stage.layer();
                    if let (
                        Op::AttentionScores(op::AttentionScores {
                            product_scale,
                            alibi_scale,
                            ..
                        }),
                        Some(1),
                    ) = (&mut step.op, layer)
                    {
                        *product_scale /= 2.0;
                        *alibi_scale /= 2.0;
                    }
                });
            },
        ),
        mutation(
            "ALiBi left out",
            "h.0.self_attention.scores",
            "adds an ALiBi bias, the model does not",
            |c| {
                scores(c, |_, alibi| *alibi = 0.0);
            },
        ),
        mutation(
            "ALiBi scaled with the product",
            "h.0.self_attention.scores",
            "adds the ALiBi bias unscaled",
            |c| {
                scores(c, |_, alibi| *alibi = 1.0 / 8_f32.sqrt());
            },
        ),
        mutation(
            "ALiBi slopes in reverse order",
            "h.0.self_attention.scores",
            "in reverse order of heads",
            |c| {
                rewrite(c, |step| {
                    if let Op::AttentionScores(op::AttentionScores { alibi_slopes, .. }) =
                        &mut step.op
                    {
                        alibi_slopes.reverse();
                    }
                });
            },
        ),
        mutation(
            "no mask",
            "h.0.self_attention.probs",
            "mask is causal",
            |c| {
                mask(c, Mask::Full);
            },
        ),
        mutation(
            "mask off by one",
            "h.0.self_attention.probs",
            "mask is causal",
            |c| {
                mask(c, Mask::Shifted(1));
            },
        ),
        half_only(
            "softmax in half precision",
            "h.0.self_attention.probs",
            "softmax is in fp32",
            |c| {
                rewrite(c, |step| {
                    if let Op::Softmax(_) = step.op {
                        step.numerics.rounding = Rounding::EachOperation;
                    }
                });
            },
        ),
        mutation(
            "dense transposed",
            "h.1.self_attention.dense",
            "stored [in, out]",
            |c| {
                weight(c, "h.1.self_attention.dense.weight", |x| {
                    x.axes([64, 64, 1], [1, 0, 2])
                });
            },
        ),
        mutation(
            "dense shards of 2 ranks swapped",
            "h.0.self_attention.dense",
            "in reverse order along the inputs",
            |c| {
                weight(c, "h.0.self_attention.dense.weight", |x| {
                    x.columns_by(|column| (column + 32) % 64)
                });
            },
        ),
        mutation(
            "dense shards of 4 ranks joined along the outputs",
            "h.0.self_attention.dense",
            "4 ranks are joined along the outputs",
            |c| {
                weight(c, "h.0.self_attention.dense.weight", |x| {
                    x.axes([64, 4, 16], [1, 0, 2])
                });
            },
        ),
        mutation(
            "dense bias missing",
            "h.0.self_attention",
            "all zeros",
            |c| {
                weight(c, "h.0.self_attention.dense.bias", |x| x.map(|_| 0.0));
            },
        ),
        mutation(
            "residual taken after the norm",
            "h.0.self_attention",
            "residual before the norm",
            |c| {
                let ModelConfig::Bloom(bloom) = &mut c.model else {
                    return;
                };
                bloom.apply_residual_connection_post_layernorm = true;
            },
        ),
        mutation(
            "weights of the next layer",
            "h.0.mlp.dense_h_to_4h",
            "those of the next layer",
            |c| {
                for part in ["weight", "bias"] {
                    swap(
                        c,
                        &format!("h.0.mlp.dense_h_to_4h.{part}"),
                        &format!("h.1.mlp.dense_h_to_4h.{part}"),
                    );
                }
            },
        ),
        mutation(
            "a layer's weights written over the next",
            "h.1.self_attention.dense",
            "bit for bit",
            |c| {
                let first = c
                    .weights
                    .load("h.0.self_attention.dense.weight")
                    .expect("a weight");
                set(c, "h.1.self_attention.dense.weight", first);
            },
        ),
        mutation(
            "dense_h_to_4h stored [in, out]",
            "h.0.mlp.dense_h_to_4h",
            "stored [in, out]",
            |c| {
                weight(c, "h.0.mlp.dense_h_to_4h.weight", |x| {
                    x.axes([256, 64, 1], [1, 0, 2])
                });
            },
        ),
        mutation(
            "dense_h_to_4h shards of 4 ranks in reverse order",
            "h.1.mlp.dense_h_to_4h",
            "4 ranks are joined in reverse order",
            |c| {
                weight(c, "h.1.mlp.dense_h_to_4h.weight", |x| {
                    x.rows(|row, _| (3 - row / 64) * 64 + row % 64)
                });
            },
        ),
        mutation(
            "dense_h_to_4h through fp8 (e4m3)",
            "h.0.mlp.dense_h_to_4h",
            "rounded through fp8 (e4m3)",
            |c| {
                weight(c, "h.0.mlp.dense_h_to_4h.weight", |x| x.eight_bit(3));
            },
        ),
        mutation(
            "dense_h_to_4h bias missing",
            "h.0.mlp.gelu",
            "all zeros",
            |c| {
                weight(c, "h.0.mlp.dense_h_to_4h.bias", |x| x.map(|_| 0.0));
            },
        ),
        mutation(
            "erf GELU",
            "h.0.mlp.gelu",
            "gelu (bloom), not gelu (erf)",
            |c| activation(c, Activation::Gelu),
        ),
        mutation(
            "quick GELU",
            "h.0.mlp.gelu",
            "gelu (bloom), not quick gelu",
            |c| activation(c, Activation::QuickGelu),
        ),
        mutation("SiLU", "h.0.mlp.gelu", "gelu (bloom), not silu", |c| {
            activation(c, Activation::Silu)
        }),
        half_only(
            "fused GELU",
            "h.0.mlp.gelu",
            "rounded after every operation",
            |c| {
                rewrite(c, |step| {
                    if let Op::Activation(_) = step.op {
                        step.numerics.rounding = Rounding::Once;
                    }
                });
            },
        ),
        mutation(
            "dense_4h_to_h shards of 4 ranks joined along the outputs",
            "h.0.mlp.dense_4h_to_h",
            "4 ranks are joined along the outputs",
            |c| {
                weight(c, "h.0.mlp.dense_4h_to_h.weight", |x| {
                    x.axes([64, 4, 64], [1, 0, 2])
                });
            },
        ),
        half_only(
            "dense_4h_to_h summed over 4 ranks",
            "h.0.mlp.dense_4h_to_h",
            "the reference computes one sum",
            |c| {
                rewrite(c, |step| {
                    let last = step.stage.as_str().ends_with("dense_4h_to_h");
                    if let (Op::Linear(op::Linear { partials, .. }), true) = (&mut step.op, last) {
                        *partials = 4;
                    }
                });
            },
        ),
        mutation(
            "dense_4h_to_h bias doubled",
            "h.1",
            "the bias is twice the reference's",
            |c| {
                weight(c, "h.1.mlp.dense_4h_to_h.bias", |x| x.map(|x| 2.0 * x));
            },
        ),
        mutation(
            "stale head",
            "logits",
            "head is word_embeddings.weight",
            |c| {
                let mut noise = noise();
                head(c, |x| x.map(|x| x * (1.0 + 0.05 * noise())));
            },
        ),
        mutation(
            "logits multiplied by 0.5",
            "logits",
            "head is word_embeddings.weight",
            |c| {
                head(c, |x| x.map(|x| 0.5 * x));
            },
        ),
    ]
}

/// A weight of the reference in fp64.
struct Edit {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Edit {
    fn map(self, of: impl FnMut(f64) -> f64) -> Self {
        Self {
            values: self.values.into_iter().map(of).collect(),
            ..self
        }
    }

    /// Row `from(row, rows)` comes to be `row`.
    fn rows(self, from: impl Fn(usize, usize) -> usize) -> Self {
        let rows = self.shape[0];
        let width = self.values.len() / rows;
        let values = (0..rows).flat_map(|row| {
            let from = from(row, rows) * width;
            self.values[from..from + width].to_vec()
        });
        Self {
            values: values.collect(),
            ..self
        }
    }

    fn columns_by(self, from: impl Fn(usize) -> usize) -> Self {
        let width = self.shape[1];
        let rows = self.values.chunks(width);
        let values = rows.flat_map(|row| {
            (0..width)
                .map(|column| row[from(column)])
                .collect::<Vec<_>>()
        });
        Self {
            values: values.collect(),
            shape: self.shape.clone(),
        }
    }

    /// Viewed as an array of these extents, its axes in another order.
    fn axes(self, extents: [usize; 3], order: [usize; 3]) -> Self {
        let viewed = Tensor::from_vec(&extents, self.values).expect("its elements");
        let permuted = viewed.permuted(&order);
        Self {
            values: permuted.as_slice::<f64>().expect("fp64").to_vec(),
            ..self
        }
    }

    /// Rounded to an 8-bit float with so many bits of mantissa, scaled so that the largest value is
    /// the type's: 448 of e4m3, 57344 of e5m2.
    fn eight_bit(self, mantissa: i32) -> Self {
        let (largest, least) = match mantissa {
            3 => (448.0, -6),
            _ => (57344.0, -14),
        };
        let scale = self.values.iter().fold(0.0_f64, |max, x| max.max(x.abs())) / largest;
        self.map(|x| {
            let scaled = x / scale;
            let exponent = (scaled.abs().log2().floor() as i32).max(least);
            let step = 2_f64.powi(exponent - mantissa);
            (scaled / step).round_ties_even() * step * scale
        })
    }
}

/// Row of [heads, 3, d] that row of [3, heads, d] is: 8 heads of 8.
fn per_part(row: usize, _: usize) -> usize {
    let (part, head, at) = (row / 64, row / 8 % 8, row % 8);
    (head * 3 + part) * 8 + at
}

fn noise() -> impl FnMut() -> f64 {
    let mut state = 1_u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / f64::from(u32::MAX) - 0.5
    }
}

fn weight(candidate: &mut Candidate, name: &str, edit: impl FnOnce(Edit) -> Edit) {
    let old = candidate.weights.load(name).expect("a weight");
    set(candidate, name, edited(&old, edit));
}

fn edited(old: &Tensor, edit: impl FnOnce(Edit) -> Edit) -> Tensor {
    let wide = old.widened().expect("numbers");
    let edit = edit(Edit {
        shape: old.shape().to_vec(),
        values: wide.as_slice::<f64>().expect("fp64").to_vec(),
    });
    let values = edit.values.iter().copied();
    match old.dtype() {
        DType::Bf16 => Tensor::from_vec(old.shape(), values.map(half::bf16::from_f64).collect()),
        _ => Tensor::from_vec(old.shape(), values.map(|x| x as f32).collect()),
    }
    .expect("as many elements")
}

fn swap(candidate: &mut Candidate, a: &str, b: &str) {
    let [of_a, of_b] = [a, b].map(|name| candidate.weights.load(name).expect("a weight"));
    set(candidate, a, of_b);
    set(candidate, b, of_a);
}

fn head(candidate: &mut Candidate, edit: impl FnOnce(Edit) -> Edit) {
    let tied = candidate
        .weights
        .load("word_embeddings.weight")
        .expect("a weight");
    set(candidate, "lm_head.weight", edited(&tied, edit));
    step(candidate, "logits", |step| {
        step.params[0].name = "lm_head.weight".into()
    });
}

fn set(candidate: &mut Candidate, name: &str, tensor: Tensor) {
    struct Nothing;
    impl Weights for Nothing {
        fn names(&self) -> Vec<&str> {
            Vec::new()
        }
        fn stored(&self, _: &str) -> Option<Stored> {
            None
        }
        fn load(&self, _: &str) -> Result<Tensor> {
            unreachable!("replaced at once")
        }
    }
    let inner = std::mem::replace(&mut candidate.weights, Box::new(Nothing));
    candidate.weights = Box::new(Overlay {
        inner,
        changed: BTreeMap::from([(name.to_owned(), tensor)]),
    });
}

/// Weights of which some are others.
struct Overlay {
    inner: Box<dyn Weights>,
    changed: BTreeMap<String, Tensor>,
}

impl Weights for Overlay {
    fn names(&self) -> Vec<&str> {
        let mut names = self.inner.names();
        names.extend(self.changed.keys().map(String::as_str));
        names.sort_unstable();
        names.dedup();
        names
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        match self.changed.get(name) {
            None => self.inner.stored(name),
            Some(tensor) => Some(Stored {
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
                file: "memory".into(),
            }),
        }
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        match self.changed.get(name) {
            None => self.inner.load(name),
            Some(tensor) => Ok(tensor.clone()),
        }
    }
}

fn rewrite(candidate: &mut Candidate, edit: impl Fn(&mut Step) + Send + Sync + 'static) {
    candidate.rewriting = Some(Box::new(edit));
}

fn step(
    candidate: &mut Candidate,
    stage: &'static str,
    edit: impl Fn(&mut Step) + Send + Sync + 'static,
) {
    rewrite(candidate, move |step| {
        if step.stage.as_str() == stage {
            edit(step);
        }
    });
}

fn scores(candidate: &mut Candidate, edit: impl Fn(&mut f32, &mut f32) + Send + Sync + 'static) {
    rewrite(candidate, move |step| {
        if let Op::AttentionScores(op::AttentionScores {
            product_scale,
            alibi_scale,
            ..
        }) = &mut step.op
        {
            edit(product_scale, alibi_scale);
        }
    });
}

fn mask(candidate: &mut Candidate, other: Mask) {
    rewrite(candidate, move |step| {
        if let Op::Softmax(op::Softmax { mask, .. }) = &mut step.op {
            *mask = other;
        }
    });
}

fn activation(candidate: &mut Candidate, other: Activation) {
    rewrite(candidate, move |step| {
        if let Op::Activation(activation) = &mut step.op {
            *activation = other;
        }
    });
}
