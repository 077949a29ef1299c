//! How far an embedding may be off: as far as the rows that are looked up.

use super::{Embedding, lookup};
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation};

impl Bounded for Embedding {
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let (tokens, weight) = (of.inputs[0].tensor, &of.params[0]);
        match weight.error_bound {
            None => Ok(ErrorBound::zero(of.output.values.len())),
            Some(rows) => rows.moved(|all| lookup(tokens, all, weight.shape)),
        }
    }
}
