//! How far a step's result may be off.

use super::Step;
use crate::error::{Error, Result};
use crate::op::{Confidence, ErrorBound, Operand};
use crate::tensor::Tensor;

impl Step {
    /// How far a correct implementation's result may be from the exact one. `output` is the result of
    /// any of them.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the arrays are not those of the step.
    pub fn error_bound(
        &self,
        inputs: &[Operand<'_>],
        params: &[Operand<'_>],
        output: &Tensor,
        confidence: Confidence,
    ) -> Result<ErrorBound> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.value.shape()).collect();
        if self.output_shape(&shapes)? != output.shape() || self.params.len() != params.len() {
            return Err(Error::Mismatch {
                at: self.id.to_string(),
                expected: format!("the result of {}", self.op),
                found: format!("{output:?}"),
            });
        }
        self.op
            .error_bound(self.numerics, inputs, params, output, confidence)
    }
}
