//! Weighted rows on the CPU.

use super::{Weigh, share};
use crate::error::Result;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;
use rayon::prelude::*;

impl CpuKernel for Weigh {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, Rounding::Once)
    }

    /// A product in fp32, one rounding.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        let [x, weights] = [arguments.widened(0)?, arguments.widened(1)?];
        let share = share(arguments.inputs[0].shape(), arguments.inputs[1].shape());
        let rows = x.par_chunks(share).zip(weights.par_iter());
        let weighted =
            rows.flat_map_iter(|(row, weight)| row.iter().map(move |x| T::from_f32(x * weight)));
        Ok(weighted.collect())
    }
}
