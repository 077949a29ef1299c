//! How far LayerNorm may be off.

use super::LayerNorm;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation};

impl Bounded for LayerNorm {
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        Ok(self.norm().error_bound(of))
    }
}
