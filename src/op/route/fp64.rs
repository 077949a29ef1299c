//! Choices by exact scores.

use super::{Route, RouterScores};
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for Route {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let logits = arguments.input::<f64>(0)?;
        let bias = arguments.optional_param::<f64>(0)?;
        let experts = arguments.inputs[0].row_len().max(1);
        let rows = logits.chunks(experts).flat_map(|row| {
            let chosen = self.choose(&self.scores(row, bias)).experts;
            chosen.into_iter().map(|expert| expert as f64)
        });
        Ok(rows.collect())
    }
}

impl Route {
    /// What a token's choice is made by.
    pub(crate) fn scores(&self, logits: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
        let scores = logits.iter().enumerate().map(|(expert, logit)| {
            let score = match self.scores {
                RouterScores::Softmax => *logit,
                RouterScores::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
            };
            score + bias.map_or(0.0, |bias| bias[expert])
        });
        scores.collect()
    }
}
