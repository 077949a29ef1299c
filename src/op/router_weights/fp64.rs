//! Weights of chosen experts in fp64.

use super::RouterWeights;
use crate::error::Result;
use crate::op::choice::choice_of;
use crate::op::{Arguments, Fp64Kernel, RouterScores};

impl Fp64Kernel for RouterWeights {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let logits = arguments.input::<f64>(0)?;
        let experts = arguments.inputs[0].row_len();
        let chosen = arguments.inputs[1].row_len();
        let choice = choice_of(arguments.inputs[1], experts)?;
        if choice.is_empty() {
            return Ok(Vec::new());
        }
        let rows = logits.chunks(experts).zip(choice.chunks(chosen));
        Ok(rows
            .flat_map(|(logits, choice)| self.exact(logits, choice))
            .collect())
    }
}

impl RouterWeights {
    /// The weights of a token's chosen experts.
    pub(super) fn exact(&self, logits: &[f64], choice: &[usize]) -> Vec<f64> {
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let score = |logit: f64| match self.scores {
            RouterScores::Softmax => (logit - max).exp(),
            RouterScores::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
        };
        let mut weights: Vec<f64> = choice.iter().map(|expert| score(logits[*expert])).collect();
        let sum = if self.normalized || self.of_chosen {
            weights.iter().sum::<f64>() + f64::from(self.epsilon)
        } else if self.scores == RouterScores::Softmax {
            logits.iter().map(|logit| score(*logit)).sum()
        } else {
            1.0
        };
        let scaling = f64::from(self.scaling);
        weights
            .iter_mut()
            .for_each(|weight| *weight *= scaling / sum);
        weights
    }
}
