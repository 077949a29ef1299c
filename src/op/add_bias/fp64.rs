//! Biases in fp64.

use super::AddBias;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for AddBias {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let bias = arguments.param::<f64>(0)?.iter().cycle();
        let x = arguments.input::<f64>(0)?.iter();
        Ok(x.zip(bias).map(|(x, bias)| x + bias).collect())
    }
}
