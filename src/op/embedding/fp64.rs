//! Embedding lookup in fp64.

use super::{Embedding, lookup};
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for Embedding {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let weight = arguments.params[0];
        lookup(arguments.inputs[0], arguments.param(0)?, weight.shape())
    }
}
