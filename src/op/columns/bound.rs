//! How far columns may be off: as far as the projection they are copied from.

use super::Columns;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation};

impl Bounded for Columns {
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        match of.inputs[0].error_bound {
            Some(bound) => bound.moved(|all| Ok(self.taken(all, of.inputs[0].shape))),
            None => Ok(ErrorBound::zero(of.output.values.len())),
        }
    }
}
