//! LayerNorm in fp64.

use super::LayerNorm;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for LayerNorm {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        self.norm().fp64(arguments)
    }
}
