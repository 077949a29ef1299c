//! How far heads may be off: as far as the projection they are copied from.

use super::SplitHeads;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation};
use ndarray::{ArrayViewD, IxDyn};

impl Bounded for SplitHeads {
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let Some(fused) = of.inputs[0].error_bound else {
            return Ok(ErrorBound::zero(of.output.values.len()));
        };
        let shape = IxDyn(of.inputs[0].shape);
        fused.moved(|all| {
            let all = ArrayViewD::from_shape(shape.clone(), all).expect("its shape");
            Ok(self.split(all))
        })
    }
}
