//! Weighted rows in fp64.

use super::{Weigh, share};
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for Weigh {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let [x, weights] = [arguments.input::<f64>(0)?, arguments.input::<f64>(1)?];
        let share = share(arguments.inputs[0].shape(), arguments.inputs[1].shape());
        let rows = x.chunks(share).zip(weights);
        Ok(rows
            .flat_map(|(row, weight)| row.iter().map(move |x| x * weight))
            .collect())
    }
}
