//! Choices on the CPU.

use super::{Route, RouterScores};
use crate::error::Result;
use crate::op::functions::exp;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::{DType, Float};
use rayon::prelude::*;

impl CpuKernel for Route {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(DType::F32, Rounding::Once)
    }

    /// Scores in fp32, and a rounded sum with the bias.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        let logits = arguments.widened(0)?;
        let bias = self.bias.then(|| arguments.widened_param(0)).transpose()?;
        let experts = arguments.inputs[0].row_len().max(1);
        let rows = logits.par_chunks(experts).flat_map_iter(|row| {
            let scores = row.iter().enumerate().map(|(expert, logit)| {
                let score = match self.scores {
                    RouterScores::Softmax => *logit,
                    RouterScores::Sigmoid => sigmoid(*logit),
                };
                let bias = bias.as_ref().map_or(0.0, |bias| bias[expert]);
                f64::from(score + bias)
            });
            let chosen = self.choose(&scores.collect::<Vec<f64>>()).experts;
            chosen.into_iter().map(|expert| T::from_f32(expert as f32))
        });
        Ok(rows.collect())
    }
}

/// The sigmoid in fp32: one exponential, one sum and one quotient, each rounded.
pub(in crate::op) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(f64::from(-x)) as f32)
}
