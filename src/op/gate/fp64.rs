//! Gated layers in fp64.

use super::Gate;
use crate::error::Result;
use crate::op::formula::Formula;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for Gate {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let [gate, up] = [arguments.input::<f64>(0)?, arguments.input::<f64>(1)?];
        let pairs = gate.iter().zip(up);
        let gated = pairs.map(|(gate, up)| self.activation.evaluate(*gate) * up);
        Ok(gated.collect())
    }
}
