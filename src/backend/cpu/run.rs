//! From a step to its kernel.

use super::norm::Norm;
use super::{attention, elementwise, embedding, linear, rotary, softmax};
use crate::backend::{Backend, Device};
use crate::error::{Error, Result};
use crate::op::{self, Numerics, Op};
use crate::plan::Step;
use crate::tensor::{Float, Tensor, with_float};

/// The CPU backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Backend for Cpu {
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
        check_numerics(step)?;
        step.check_params(params.iter().map(|param| param.shape()))?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let shape = step.output_shape(&shapes)?;
        let dtype = step.numerics.out;
        with_float!(dtype, T => {
            let data = compute::<T>(step, inputs, params)?;
            Tensor::from_vec(&shape, data)
        }, else Err(unsupported(step, format!("results stored as {dtype}"))))
    }
}

fn compute<T: Float>(step: &Step, inputs: &[&Tensor], params: &[&Tensor]) -> Result<Vec<T>> {
    let x = inputs[0];
    let param = |index: usize| params[index].as_slice::<T>();
    let rounding = step.numerics.rounding;
    Ok(match &step.op {
        Op::Embedding(op::Embedding) => embedding::gather(x, params[0])?,
        Op::LayerNorm(op::LayerNorm { eps }) | Op::RmsNorm(op::RmsNorm { eps }) => {
            let norm = Norm {
                eps: *eps,
                centred: matches!(step.op, Op::LayerNorm(_)),
                rounding,
            };
            let bias = (params.len() > 1).then(|| param(1)).transpose()?;
            norm.compute(x.as_slice::<T>()?, param(0)?, bias)
        }
        Op::Linear(op::Linear { bias, partials }) => {
            let bias = bias.then(|| param(1)).transpose()?;
            linear::linear(x.as_slice::<T>()?, param(0)?, bias, x.row_len(), *partials)
        }
        Op::SplitHeads(op::SplitHeads {
            part,
            layout,
            heads,
            ..
        }) => attention::split_heads(x.view::<T>()?, *part, *layout, *heads),
        Op::AttentionScores(op::AttentionScores {
            product_scale,
            alibi_scale,
            alibi_slopes,
            alibi_form,
        }) => {
            let scores = attention::Scores {
                product_scale: *product_scale,
                alibi_scale: *alibi_scale,
                alibi_slopes,
                alibi_form: *alibi_form,
                rounding,
            };
            scores.compute(x.as_slice::<T>()?, inputs[1].as_slice()?, x.shape())
        }
        Op::Softmax(op::Softmax { scale, mask }) => {
            softmax::softmax(x.as_slice::<T>()?, x.row_len(), *scale, *mask, rounding)
        }
        Op::Context(op::Context) => {
            attention::context(x.as_slice::<T>()?, inputs[1].as_slice()?, inputs[1].shape())
        }
        Op::AddBias(op::AddBias) => elementwise::add_row(x.as_slice::<T>()?, param(0)?),
        Op::Activation(activation) => elementwise::map(x.as_slice::<T>()?, activation, rounding),
        Op::Rotary(rotary) => rotary::rotary(x.as_slice::<T>()?, x.shape(), rotary, rounding),
        Op::Gate(op::Gate { activation }) => {
            let (gate, up) = (x.as_slice::<T>()?, inputs[1].as_slice()?);
            elementwise::gate(gate, up, *activation, rounding)
        }
        Op::Add(op::Add) => elementwise::add(x.as_slice::<T>()?, inputs[1].as_slice()?),
        Op::Scale(scale) => elementwise::map(x.as_slice::<T>()?, scale, rounding),
        Op::SoftCap(soft_cap) => elementwise::map(x.as_slice::<T>()?, soft_cap, rounding),
    })
}

/// Refuses numerics that the kernels do not implement, so that a plan is never run otherwise than
/// it says.
fn check_numerics(step: &Step) -> Result<()> {
    let Numerics { out, rounding, .. } = step.numerics;
    let each = |numerics: Numerics| Numerics {
        rounding,
        ..numerics
    };
    let implemented = match &step.op {
        Op::Embedding(op::Embedding) | Op::SplitHeads(_) => return Ok(()),
        Op::Linear(_) | Op::Context(op::Context) => Numerics::product(out),
        Op::AttentionScores(_) => each(Numerics::product(out)),
        Op::LayerNorm(_) => Numerics::norm(out),
        Op::RmsNorm(_) => each(Numerics::norm(out)),
        Op::Softmax(_) => each(Numerics::softmax(out)),
        Op::AddBias(op::AddBias)
        | Op::Add(op::Add)
        | Op::Rotary(_)
        | Op::Gate(_)
        | Op::Activation(_)
        | Op::Scale(_)
        | Op::SoftCap(_) => Numerics::elementwise(out, rounding),
    };
    if step.numerics == implemented {
        return Ok(());
    }
    Err(unsupported(
        step,
        format!("{} in {:?}", step.op, step.numerics),
    ))
}

fn unsupported(step: &Step, what: String) -> Error {
    Error::Unsupported {
        step: step.id.to_string(),
        backend: "cpu",
        what,
    }
}
