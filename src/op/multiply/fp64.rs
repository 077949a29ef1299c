//! Products in fp64.

use super::Multiply;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for Multiply {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let [a, b] = [arguments.input::<f64>(0)?, arguments.input::<f64>(1)?];
        Ok(a.iter().zip(b).map(|(a, b)| a * b).collect())
    }
}
