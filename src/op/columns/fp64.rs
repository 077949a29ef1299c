//! Columns in fp64.

use super::Columns;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for Columns {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        Ok(self.taken(arguments.input::<f64>(0)?, arguments.inputs[0].shape()))
    }
}
