//! Heads of two parts in fp64.

use super::JoinHeads;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for JoinHeads {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let shapes = [0, 1].map(|input| arguments.inputs[input].shape());
        let [a, b] = [arguments.input::<f64>(0)?, arguments.input(1)?];
        Ok(Self::joined([a, b], shapes))
    }
}
