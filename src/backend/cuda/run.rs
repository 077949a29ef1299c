//! From a step to its kernels.

use super::array::{CudaArray, Layout};
use super::attention::Alibi;
use super::cuda::Cuda;
use super::elementwise::kind;
use super::failure::{driver, unsupported};
use super::launch::Arg;
use crate::backend::{Backend, Device};
use crate::error::{Error, Result};
use crate::op::{self, Numerics, Op, QkvLayout, Rounding, Summation};
use crate::plan::Step;
use crate::tensor::{DType, Tensor, with_element};
use bytemuck::Zeroable;
use std::sync::Arc;

impl Backend for Cuda {
    type Array = CudaArray;

    fn device(&self) -> Device {
        Device::Cuda
    }

    fn upload(&self, tensor: &Tensor) -> Result<CudaArray> {
        let mut block = self.ring.block(tensor.bytes().len())?;
        self.transfer.send(tensor.bytes(), &mut block)?;
        Ok(CudaArray {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            block: Arc::new(block),
            layout: Layout::Whole,
            host: Some(tensor.clone()),
        })
    }

    fn download(&self, array: &CudaArray) -> Result<Tensor> {
        if let Some(tensor) = &array.host {
            return Ok(tensor.clone());
        }
        let whole = self.whole(array)?;
        with_element!(array.dtype, T => {
            let mut data = vec![T::zeroed(); array.len()];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut data);
            let mut read = || {
                let from = whole.block.slice().slice(0..bytes.len());
                self.compute.memcpy_dtoh(&from, &mut *bytes)?;
                self.compute.synchronize()
            };
            read().map_err(driver("copy from the GPU"))?;
            Tensor::from_vec(&array.shape, data)
        })
    }

    fn run(&self, step: &Step, inputs: &[&CudaArray], params: &[&CudaArray]) -> Result<CudaArray> {
        check_numerics(step)?;
        step.check_params(params.iter().map(|param| param.shape()))?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let shape = step.output_shape(&shapes)?;
        check_types(step, inputs, params)?;
        self.compute_step(step, inputs, params, shape)
    }
}

impl Cuda {
    fn compute_step(
        &self,
        step: &Step,
        inputs: &[&CudaArray],
        params: &[&CudaArray],
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let x = inputs[0];
        let dtype = step.numerics.out;
        let each = Arg::I32((step.numerics.rounding == Rounding::EachOperation).into());
        match &step.op {
            Op::Embedding(op::Embedding) => self.embedding(x, params[0], shape, dtype),
            Op::LayerNorm(op::LayerNorm { eps }) => {
                self.layer_norm(step, x, params, shape, *eps as f32)
            }
            Op::RmsNorm(op::RmsNorm { eps }) => self.rms_norm(step, x, params, shape, *eps as f32),
            Op::Linear(op::Linear { bias, partials }) => {
                let bias = bias.then(|| params[1]);
                self.linear(step, x, params[0], bias, *partials, shape)
            }
            Op::SplitHeads(op::SplitHeads {
                part,
                layout: QkvLayout::PerHead,
                cached,
                ..
            }) => self.split_heads(x, *part, *cached, shape),
            Op::Rotary(rotary) => self.rotary(x, rotary, each, shape),
            Op::AttentionScores(op::AttentionScores {
                product_scale,
                alibi_scale,
                alibi_slopes,
                alibi_form,
            }) => {
                let alibi = Alibi {
                    scale: *alibi_scale,
                    slopes: alibi_slopes,
                    form: *alibi_form,
                };
                self.scores(x, inputs[1], *product_scale, &alibi, shape)
            }
            Op::Softmax(op::Softmax { scale, mask }) => {
                self.softmax(x, *scale, *mask, step.numerics.summation, shape)
            }
            Op::Context(op::Context) => self.context(x, inputs[1], shape),
            Op::AddBias(op::AddBias) => self.add_row(x, params[0], shape),
            Op::Activation(activation) => self.map("activation", x, &[kind(*activation), each]),
            Op::Gate(op::Gate { activation }) => {
                self.join("gate", [x, inputs[1]], &[kind(*activation), each])
            }
            Op::Add(op::Add) => self.join("add", [x, inputs[1]], &[]),
            Op::Scale(op::Scale { factor }) => self.map("scale", x, &[Arg::F32(*factor)]),
            Op::SoftCap(op::SoftCap { cap }) => self.map("soft_cap", x, &[Arg::F32(*cap), each]),
        }
    }
}

/// Refuses numerics that the kernels do not implement, so that a plan is never run otherwise than it
/// says.
fn check_numerics(step: &Step) -> Result<()> {
    let Numerics {
        out,
        rounding,
        summation,
        ..
    } = step.numerics;
    let implemented = match &step.op {
        Op::Embedding(op::Embedding) | Op::SplitHeads(_) => step.numerics,
        Op::Linear(_) | Op::Context(op::Context) | Op::AttentionScores(_) => Numerics::product(out),
        Op::LayerNorm(_) | Op::RmsNorm(_) | Op::Softmax(_) if summation != Summation::Backend => {
            Numerics::cuda_kernel(out, summation)
        }
        Op::LayerNorm(_) | Op::RmsNorm(_) | Op::Softmax(_) => {
            Numerics::cuda_kernel(out, Summation::TorchCuda)
        }
        Op::AddBias(op::AddBias)
        | Op::Add(op::Add)
        | Op::Rotary(_)
        | Op::Gate(_)
        | Op::Activation(_)
        | Op::Scale(_)
        | Op::SoftCap(_) => Numerics::elementwise(out, rounding),
    };
    let stored = out.is_runnable();
    if stored && step.numerics == implemented {
        return Ok(());
    }
    Err(unsupported(
        step,
        format!("{} in {:?}", step.op, step.numerics),
    ))
}

/// Refuses arrays of other types than the step's: kernels read what they are told to.
fn check_types(step: &Step, inputs: &[&CudaArray], params: &[&CudaArray]) -> Result<()> {
    let tokens = matches!(step.op, Op::Embedding(op::Embedding));
    let inputs = inputs.iter().map(|input| (input.dtype, tokens));
    let params = params.iter().map(|param| (param.dtype, false));
    let wrong = inputs.chain(params).find(|(dtype, tokens)| match tokens {
        true => !matches!(dtype, DType::I64 | DType::I32),
        false => *dtype != step.numerics.out,
    });
    match wrong {
        None => Ok(()),
        Some((dtype, tokens)) => Err(Error::Mismatch {
            at: step.id.to_string(),
            expected: match tokens {
                true => "token ids of int64 or int32".into(),
                false => format!("{} elements", step.numerics.out),
            },
            found: dtype.to_string(),
        }),
    }
}
