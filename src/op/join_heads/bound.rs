//! How far heads of two parts may be off: as far as those they are copied from.

use super::JoinHeads;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation};

impl Bounded for JoinHeads {
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let shapes = [0, 1].map(|input| of.inputs[input].shape);
        let exact = [0, 1].map(|input| ErrorBound::zero(of.inputs[input].values.len()));
        let bounds = [0, 1].map(|input| of.inputs[input].error_bound.unwrap_or(&exact[input]));
        let both = |of: fn(&ErrorBound) -> &[f32]| Self::joined(bounds.map(of), shapes);
        Ok(ErrorBound {
            rounding: both(|bound| &bound.rounding),
            std: both(|bound| &bound.std),
        })
    }
}
