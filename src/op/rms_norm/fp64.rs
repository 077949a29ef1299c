//! RMSNorm in fp64.

use super::RmsNorm;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for RmsNorm {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        self.norm().fp64(arguments)
    }
}
