//! Weights of chosen experts on the CPU.

use super::RouterWeights;
use crate::error::Result;
use crate::op::choice::choice_of;
use crate::op::functions::exp;
use crate::op::route::sigmoid;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding, RouterScores};
use crate::tensor::Float;
use rayon::prelude::*;

impl CpuKernel for RouterWeights {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, Rounding::Once)
    }

    /// Exponentials, quotients and sums in fp32; a softmax's sum in fp64, ascending, and rounded.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        let logits = arguments.widened(0)?;
        let experts = arguments.inputs[0].row_len();
        let chosen = arguments.inputs[1].row_len();
        let choice = choice_of(arguments.inputs[1], experts)?;
        if choice.is_empty() {
            return Ok(Vec::new());
        }
        let rows = logits
            .par_chunks(experts)
            .zip(choice.par_chunks(chosen))
            .flat_map_iter(|(logits, choice)| {
                self.weights(logits, choice).into_iter().map(T::from_f32)
            });
        Ok(rows.collect())
    }
}

impl RouterWeights {
    fn weights(&self, logits: &[f32], choice: &[usize]) -> Vec<f32> {
        let picked: Vec<f32> = choice.iter().map(|expert| logits[*expert]).collect();
        let mut weights = match (self.scores, self.of_chosen) {
            (RouterScores::Softmax, true) => softmax(&picked, &picked),
            (RouterScores::Softmax, false) => softmax(&picked, logits),
            (RouterScores::Sigmoid, _) => picked.iter().copied().map(sigmoid).collect(),
        };
        if self.normalized && !self.of_chosen {
            let sum = weights.iter().sum::<f32>() + self.epsilon;
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        weights
            .iter_mut()
            .for_each(|weight| *weight *= self.scaling);
        weights
    }
}

/// The probabilities of some of all logits.
fn softmax(some: &[f32], all: &[f32]) -> Vec<f32> {
    let max = all.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponential = |logit: &f32| exp(f64::from(logit - max)) as f32;
    let sum: f64 = all.iter().map(|logit| f64::from(exponential(logit))).sum();
    some.iter()
        .map(|logit| exponential(logit) / sum as f32)
        .collect()
}
