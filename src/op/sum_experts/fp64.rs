//! Sums of experts in fp64.

use super::SumExperts;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for SumExperts {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let x = arguments.input::<f64>(0)?;
        let terms = arguments.inputs[1].row_len() * self.parts;
        let width = arguments.inputs[0].row_len();
        if x.is_empty() || terms == 0 {
            return Ok(Vec::new());
        }
        let columns = width / terms;
        let tokens = x.chunks(width).flat_map(|x| {
            (0..columns).map(move |column| (0..terms).map(|term| x[term * columns + column]).sum())
        });
        Ok(tokens.collect())
    }
}
