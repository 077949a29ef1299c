//! Heads in fp64.

use super::SplitHeads;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for SplitHeads {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        Ok(self.split(arguments.inputs[0].view()?))
    }
}
