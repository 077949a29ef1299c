//! Steps in fp64: what every framework approximates.
//!
//! Inputs and parameters are widened exactly; every operation and every sum is fp64, and nothing is
//! rounded to a storage type, wherever the plan rounds. Sums are in `matrixmultiply`'s order, or
//! ascending. An error is of the order of 2^-53 times the terms of a sum: what is left of the
//! difference to an fp32 or half-precision result is that result's own error.

use super::{Backend, Device};
use crate::error::Result;
use crate::memory;
use crate::op::Arguments;
use crate::plan::Step;
use crate::tensor::Tensor;

/// The fp64 backend; results are fp64 whatever the plan stores.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fp64;

impl Backend for Fp64 {
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
        let bytes = memory::bytes_of(&shape, size_of::<f64>());
        memory::allow(step.id.as_str(), "its values in fp64", bytes)?;
        let operation = step.op.operation();
        let widened = |tensors: &[&Tensor]| -> Result<Vec<Tensor>> {
            tensors.iter().map(|tensor| tensor.widened()).collect()
        };
        let params = widened(params)?;
        let params: Vec<&Tensor> = params.iter().collect();
        let data = if operation.reads_tokens() {
            operation.fp64(&Arguments {
                inputs,
                params: &params,
            })?
        } else {
            let inputs = widened(inputs)?;
            let inputs: Vec<&Tensor> = inputs.iter().collect();
            operation.fp64(&Arguments {
                inputs: &inputs,
                params: &params,
            })?
        };
        Tensor::from_vec(&shape, data)
    }
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

    /// Every step of a model: the CPU's fp32 is the exact value to fp32 roundoff.
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
            let exact = Fp64.run(step, &inputs, &params).unwrap();
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
                    || step.op.operation().reads_tokens()
            );
            values.insert(step.id.clone(), found);
        }
    }
}
