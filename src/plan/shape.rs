//! The shapes a step takes and gives.

use super::{Plan, StageId, Step};
use crate::error::{Error, Result};
use std::collections::HashMap;

impl Step {
    /// Shape of the result on inputs of these shapes.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the operation does not apply to them.
    pub fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let params: Vec<&[usize]> = self.params.iter().map(|p| p.shape.as_slice()).collect();
        let shape = self.op.shape(inputs, &params);
        shape.ok_or_else(|| Error::Mismatch {
            at: self.id.to_string(),
            expected: format!("shapes that {} applies to", self.op),
            found: format!("inputs {inputs:?} and parameters {params:?}"),
        })
    }

    /// Checks that tensors have the shapes of the step's parameters.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if one has another shape, or there are more or fewer.
    pub fn check_params<'a>(&self, found: impl Iterator<Item = &'a [usize]>) -> Result<()> {
        let wanted = self.params.iter().map(|param| param.shape.as_slice());
        let found: Vec<&[usize]> = found.collect();
        if wanted.eq(found.iter().copied()) {
            return Ok(());
        }
        Err(Error::Mismatch {
            at: self.id.to_string(),
            expected: format!("the parameters {:?}", self.params),
            found: format!("shapes {found:?}"),
        })
    }
}

impl Plan {
    /// The shape of every value, when the tokens are `[batch, positions]`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] at the first step that does not fit the ones before it.
    pub fn shapes(&self, tokens: [usize; 2]) -> Result<HashMap<StageId, Vec<usize>>> {
        let starts = [StageId::TOKENS, StageId::POSITIONS].map(StageId::from);
        let mut shapes = HashMap::from(starts.map(|id| (id, tokens.to_vec())));
        for step in self.steps() {
            let inputs: Vec<&[usize]> =
                step.inputs.iter().map(|id| shapes[id].as_slice()).collect();
            let shape = step.output_shape(&inputs)?;
            shapes.insert(step.id.clone(), shape);
        }
        Ok(shapes)
    }
}
