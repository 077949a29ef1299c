//! Biases on the CPU.

use super::AddBias;
use crate::error::Result;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;
use rayon::prelude::*;

impl CpuKernel for AddBias {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        Ok(add_row(arguments.input(0)?, arguments.param(0)?))
    }
}

/// `x + row` for every row of `x`, rounded once.
fn add_row<T: Float>(x: &[T], row: &[T]) -> Vec<T> {
    let mut out = vec![T::zeroed(); x.len()];
    if out.is_empty() {
        return out;
    }
    out.par_chunks_mut(row.len())
        .zip(x.par_chunks(row.len()))
        .for_each(|(out, x)| {
            for ((out, x), add) in out.iter_mut().zip(x).zip(row) {
                *out = T::from_f32(x.to_f32() + add.to_f32());
            }
        });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn the_sum_is_rounded_to_the_storage_type() {
        let [one, hair] = [1.0, 0.5_f32.powi(9)].map(bf16::from_f32);
        assert_eq!(
            add_row(&[one, hair, hair, one], &[hair, one]),
            [
                one,
                one,
                bf16::from_f32(0.5_f32.powi(8)),
                bf16::from_f32(2.0)
            ]
        );
    }
}
