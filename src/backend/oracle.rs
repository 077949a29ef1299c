//! The same plan in fp64: what every framework approximates.
//!
//! Inputs and parameters are widened exactly; every operation and every sum is fp64, and nothing is
//! rounded to a storage type, wherever the plan rounds. Sums are in `matrixmultiply`'s order, or
//! ascending. An error is of the order of 2^-53 times the terms of a sum: what is left of the
//! difference to an fp32 or half-precision result is that result's own error.

use super::formula::{self, Real};
use super::{Backend, Device};
use crate::error::{Error, Result};
use crate::op::{self, AlibiForm, HeadPart, Mask, Op, QkvLayout, Rotary};
use crate::plan::Step;
use crate::tensor::Tensor;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, Ix1, Ix2, Ix4};
use rayon::prelude::*;

/// The fp64 backend; results are fp64 whatever the plan stores.
#[derive(Clone, Copy, Debug, Default)]
pub struct Oracle;

impl Backend for Oracle {
    type Array = Tensor;

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn upload(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    fn download(&self, array: &Tensor) -> Result<Tensor> {
        Ok(array.clone())
    }

    fn run(&self, step: &Step, inputs: &[&Tensor], params: &[&Tensor]) -> Result<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let shape = step.output_shape(&shapes)?;
        let wide = |tensors: &[&Tensor]| -> Result<Vec<Tensor>> {
            tensors.iter().map(|tensor| tensor.widened()).collect()
        };
        if let Op::Embedding(op::Embedding) = step.op {
            // Token ids stay what they are.
            let rows = super::cpu::gather::<f64>(inputs[0], &params[0].widened()?)?;
            return Tensor::from_vec(&shape, rows);
        }
        let (inputs, params) = (wide(inputs)?, wide(params)?);
        let data = Evaluation {
            step,
            inputs: &inputs,
            params: &params,
        }
        .compute()?;
        Tensor::from_vec(&shape, data)
    }
}

struct Evaluation<'a> {
    step: &'a Step,
    inputs: &'a [Tensor],
    params: &'a [Tensor],
}

impl Evaluation<'_> {
    fn compute(&self) -> Result<Vec<f64>> {
        let x = self.inputs[0].as_slice::<f64>()?;
        Ok(match &self.step.op {
            Op::Embedding(op::Embedding) => unreachable!("copied by the caller"),
            Op::LayerNorm(op::LayerNorm { eps }) => self.norm(*eps, true)?,
            Op::RmsNorm(op::RmsNorm { eps }) => self.norm(*eps, false)?,
            Op::Linear(_) => self.linear()?,
            Op::SplitHeads(op::SplitHeads {
                part,
                layout,
                heads,
                ..
            }) => self.split_heads(*part, *layout, *heads)?,
            Op::AttentionScores(op::AttentionScores {
                product_scale,
                alibi_scale,
                alibi_slopes,
                alibi_form,
            }) => {
                let scales = [f64::from(*product_scale), f64::from(*alibi_scale)];
                self.scores(scales, alibi_slopes, *alibi_form)?
            }
            Op::Softmax(op::Softmax { scale, mask }) => {
                softmax(x, self.inputs[0].row_len(), (*scale).into(), *mask)
            }
            Op::Context(op::Context) => self.context()?,
            Op::AddBias(op::AddBias) => {
                let bias = self.params[0].as_slice::<f64>()?.iter().cycle();
                x.iter().zip(bias).map(|(x, bias)| x + bias).collect()
            }
            Op::Activation(activation) => map(x, |x| formula::activation(*activation, x)),
            Op::Rotary(rotary) => self.rotary(rotary)?,
            Op::Gate(op::Gate { activation }) => {
                let up = self.inputs[1].as_slice::<f64>()?;
                let pairs = x.iter().zip(up);
                let gated = pairs.map(|(gate, up)| formula::activation(*activation, *gate) * up);
                gated.collect()
            }
            Op::Add(op::Add) => {
                let other = self.inputs[1].as_slice::<f64>()?;
                x.iter().zip(other).map(|(a, b)| a + b).collect()
            }
            Op::Scale(op::Scale { factor }) => map(x, |x| f64::from(*factor) * x),
            Op::SoftCap(op::SoftCap { cap }) => map(x, |x| formula::soft_cap(*cap, x)),
        })
    }

    fn norm(&self, eps: f64, centred: bool) -> Result<Vec<f64>> {
        let x = self.inputs[0].as_slice::<f64>()?;
        let weight = self.params[0].as_slice::<f64>()?;
        let bias = self
            .params
            .get(1)
            .map(Tensor::as_slice::<f64>)
            .transpose()?;
        let count = weight.len() as f64;
        let mut out = vec![0.0; x.len()];
        if out.is_empty() {
            return Ok(out);
        }
        out.par_chunks_mut(weight.len())
            .zip(x.par_chunks(weight.len()))
            .for_each(|(out, x)| {
                let mean = match centred {
                    true => x.iter().sum::<f64>() / count,
                    false => 0.0,
                };
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                let scale = 1.0 / (variance + eps).sqrt();
                for (index, (out, x)) in out.iter_mut().zip(x).enumerate() {
                    let shift = bias.map_or(0.0, |bias| bias[index]);
                    *out = (x - mean) * scale * weight[index] + shift;
                }
            });
        Ok(out)
    }

    fn linear(&self) -> Result<Vec<f64>> {
        let k = self.inputs[0].row_len();
        let [x, weight] = [&self.inputs[0], &self.params[0]].map(|tensor| {
            let rows = tensor.len().checked_div(k).unwrap_or(0);
            let view = tensor.view::<f64>()?;
            Ok::<_, Error>(view.into_shape_with_order((rows, k)).expect("whole rows"))
        });
        let (x, weight) = (x?, weight?);
        let mut out = Array2::zeros((x.nrows(), weight.nrows()));
        // Panels of the weight in parallel; the order of every sum depends on `k` alone.
        out.axis_chunks_iter_mut(Axis(1), 64)
            .into_par_iter()
            .zip(weight.axis_chunks_iter(Axis(0), 64))
            .for_each(|(mut out, panel)| general_mat_mul(1.0, &x, &panel.t(), 0.0, &mut out));
        if let Some(bias) = self.params.get(1) {
            out += &bias
                .view::<f64>()?
                .into_dimensionality::<Ix1>()
                .expect("the step's shape was checked");
        }
        Ok(out.into_raw_vec_and_offset().0)
    }

    fn split_heads(&self, part: HeadPart, layout: QkvLayout, heads: usize) -> Result<Vec<f64>> {
        let fused = self.inputs[0].view::<f64>()?;
        Ok(super::cpu::split_heads(fused, part, layout, heads))
    }

    fn rotary(&self, rotary: &Rotary) -> Result<Vec<f64>> {
        let x = &self.inputs[0];
        let (positions, head_dim) = (x.shape()[2], x.shape()[3]);
        let mut out = x.as_slice::<f64>()?.to_vec();
        for (row, out) in out.chunks_mut(head_dim.max(1)).enumerate() {
            for pair in 0..rotary.dims / 2 {
                let angle = rotary.angle(row % positions, pair);
                let (sin, cos) = (libm::sin(angle), libm::cos(angle));
                let [first, second] = rotary.pair(pair);
                let [a, b] = [out[first], out[second]];
                out[first] = a * cos - b * sin;
                out[second] = b * cos + a * sin;
            }
        }
        Ok(out)
    }

    fn scores(&self, scales: [f64; 2], slopes: &[f32], form: AlibiForm) -> Result<Vec<f64>> {
        let of_heads = |tensor: &Tensor| matrices(tensor);
        let (query, key) = (of_heads(&self.inputs[0])?, of_heads(&self.inputs[1])?);
        let heads: Vec<Vec<f64>> = (0..query.len())
            .into_par_iter()
            .map(|index| {
                let slope = f64::from(slopes[index % slopes.len()]);
                let mut out = product(query[index].view(), key[index].t());
                for ((row, column), out) in out.indexed_iter_mut() {
                    let distance = match form {
                        AlibiForm::KeyPosition => column as f64,
                        AlibiForm::Distance => column as f64 - row as f64,
                    };
                    *out = scales[0] * *out + scales[1] * slope * distance;
                }
                out.into_raw_vec_and_offset().0
            })
            .collect();
        Ok(heads.concat())
    }

    /// Heads side by side: `[b, n, s, d]` becomes `[b, s, n·d]`.
    fn context(&self) -> Result<Vec<f64>> {
        let (probs, value) = (matrices(&self.inputs[0])?, matrices(&self.inputs[1])?);
        let heads: Vec<Vec<f64>> = (0..value.len())
            .into_par_iter()
            .map(|index| product(probs[index].view(), value[index].view()))
            .map(|head| head.into_raw_vec_and_offset().0)
            .collect();
        let by_head = Tensor::from_vec(self.inputs[1].shape(), heads.concat())?;
        Ok(by_head.permuted(&[0, 2, 1, 3]).as_slice::<f64>()?.to_vec())
    }
}

/// The matrices of the last two axes of `[b, n, s, d]`.
fn matrices(tensor: &Tensor) -> Result<Vec<Array2<f64>>> {
    let view = tensor.view::<f64>()?;
    let view = view
        .into_dimensionality::<Ix4>()
        .expect("the step's shape was checked");
    let heads = view.outer_iter().flat_map(|batch| {
        let heads = batch.outer_iter().map(|head| head.to_owned());
        heads.collect::<Vec<_>>()
    });
    Ok(heads.collect())
}

fn product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut out = Array2::zeros(Ix2(a.nrows(), b.ncols()));
    general_mat_mul(1.0, &a, &b, 0.0, &mut out);
    out
}

fn softmax(scores: &[f64], keys: usize, scale: f64, mask: Mask) -> Vec<f64> {
    let mut out = vec![0.0; scores.len()];
    if out.is_empty() {
        return out;
    }
    out.par_chunks_mut(keys)
        .zip(scores.par_chunks(keys))
        .enumerate()
        .for_each(|(index, (out, scores))| {
            let seen = mask.seen(index % keys, keys);
            let max = scores[..seen]
                .iter()
                .fold(f64::NEG_INFINITY, |max, score| max.max(scale * score));
            let mut sum = 0.0;
            for (out, score) in out.iter_mut().zip(&scores[..seen]) {
                *out = Real::exp(scale * score - max);
                sum += *out;
            }
            for out in &mut out[..seen] {
                *out /= sum;
            }
        });
    out
}

fn map(x: &[f64], function: impl Fn(f64) -> f64 + Sync) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    out.par_iter_mut()
        .zip(x)
        .for_each(|(out, x)| *out = function(*x));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{BloomConfig, ModelConfig};
    use crate::backend::Cpu;
    use crate::compare::{Spec, compare};
    use crate::plan::{Arithmetic, StageId};
    use crate::tensor::DType;
    use std::collections::HashMap;

    /// Every step of a model: the CPU's fp32 is the oracle's value to fp32 roundoff.
    #[test]
    fn every_step_is_what_the_cpu_approximates() {
        let config = ModelConfig::Bloom(BloomConfig {
            hidden_size: 24,
            n_layer: 2,
            n_head: 3,
            vocab_size: 17,
            layer_norm_epsilon: 1e-5,
            apply_residual_connection_post_layernorm: false,
            tie_word_embeddings: true,
        });
        let plan = config.plan(DType::F32, &Arithmetic::default()).unwrap();
        let mut state = 7_u32;
        let mut draw = |shape: &[usize]| {
            let values = (0..shape.iter().product()).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            });
            Tensor::from_vec(shape, values.collect::<Vec<f32>>()).unwrap()
        };
        let params = plan.params();
        let weights: HashMap<&str, Tensor> = params
            .iter()
            .map(|(name, param)| (*name, draw(&param.shape)))
            .collect();
        let tokens = Tensor::from_vec(&[2, 5], (0..10_i64).collect()).unwrap();
        let mut values = HashMap::from([(StageId::from(StageId::TOKENS), tokens)]);
        for step in plan.steps() {
            let inputs: Vec<&Tensor> = step.inputs.iter().map(|id| &values[id]).collect();
            let params: Vec<&Tensor> = step
                .params
                .iter()
                .map(|p| &weights[p.name.as_str()])
                .collect();
            let exact = Oracle.run(step, &inputs, &params).unwrap();
            let found = Cpu.run(step, &inputs, &params).unwrap();
            let metrics = compare(&exact, &found, &Spec::default()).unwrap();
            assert!(
                metrics.relative_frobenius < 3e-7,
                "{}: {metrics:?}",
                step.id
            );
            assert!(
                step.op.locality().is_copy()
                    || metrics.unequal > 0
                    || step.op == Op::Embedding(op::Embedding)
            );
            values.insert(step.id.clone(), found);
        }
    }
}
