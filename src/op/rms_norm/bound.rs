//! How far RMSNorm may be off.

use super::RmsNorm;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation};

impl Bounded for RmsNorm {
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        Ok(self.norm().error_bound(of))
    }
}
