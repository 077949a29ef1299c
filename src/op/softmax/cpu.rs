//! Masked softmax on the CPU.

use super::{Mask, Softmax};
use crate::error::Result;
use crate::op::functions::exp;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;
use rayon::prelude::*;

impl CpuKernel for Softmax {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::softmax(numerics.out).with_rounding(numerics.rounding)
    }

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>> {
        let keys = arguments.inputs[0].row_len();
        let scores = arguments.input(0)?;
        Ok(softmax(scores, keys, self.scale, self.mask, rounding))
    }
}

/// Softmax over rows of `keys` scores times `scale`. Row `i` is query `i % keys` of a square
/// matrix, which sees the keys that `mask` lets it. The others are not filled with a large negative
/// number but left out, which gives the same bits: its exponential is 0 in fp32.
///
/// `exp(scale·x − max)` is rounded to fp32 and summed in ascending order in fp64; the quotient by
/// the fp32 sum is fp32; one rounding to the storage type. With [`Rounding::EachOperation`] the
/// scaled scores, their distances to the maximum, the exponentials and the sum are rounded to it,
/// too.
fn softmax<T: Float>(
    scores: &[T],
    keys: usize,
    scale: f32,
    mask: Mask,
    rounding: Rounding,
) -> Vec<T> {
    let round = |x: f32| match rounding {
        Rounding::Once => x,
        Rounding::EachOperation => T::from_f32(x).to_f32(),
    };
    let mut out = vec![T::zeroed(); scores.len()];
    if out.is_empty() {
        return out;
    }
    out.par_chunks_mut(keys)
        .zip(scores.par_chunks(keys))
        .enumerate()
        .for_each_init(
            || vec![0.0_f32; keys],
            |row, (index, (out, scores))| {
                let row = &mut row[..mask.seen(index % keys, keys)];
                for (to, from) in row.iter_mut().zip(scores) {
                    *to = round(scale * from.to_f32());
                }
                let max = row.iter().copied().fold(f32::NEG_INFINITY, propagating_max);
                for x in row.iter_mut() {
                    *x = round(exp(f64::from(round(*x - max))) as f32);
                }
                let sum = round(row.iter().map(|x| f64::from(*x)).sum::<f64>() as f32);
                for (to, from) in out.iter_mut().zip(row) {
                    *to = T::from_f32(*from / sum);
                }
            },
        );
    out
}

/// The larger one; NaN if either is (`f32::max` would drop it and hide a broken row).
fn propagating_max(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_keys_have_probability_zero() {
        let ln3 = 3_f32.ln();
        let out = softmax(
            &[5.0_f32, 9.0, 0.0, ln3],
            2,
            1.0,
            Mask::Causal,
            Rounding::Once,
        );
        assert_eq!(out[..2], [1.0, 0.0]);
        approx::assert_abs_diff_eq!(out[2], 0.25, epsilon = 1e-7);
        approx::assert_abs_diff_eq!(out[3], 0.75, epsilon = 1e-7);
    }

    #[test]
    fn scores_are_scaled_and_huge_ones_do_not_overflow() {
        let scaled = softmax(
            &[0.0_f32, 0.0, 1.0, 2.0],
            2,
            3.0,
            Mask::Causal,
            Rounding::Once,
        );
        let plain = softmax(
            &[0.0_f32, 0.0, 3.0, 6.0],
            2,
            1.0,
            Mask::Causal,
            Rounding::Once,
        );
        assert_eq!(scaled, plain);
        let huge = softmax(
            &[0.0_f32, 0.0, 3e38, 3e38],
            2,
            1.0,
            Mask::Causal,
            Rounding::Once,
        );
        assert_eq!(huge[2..], [0.5, 0.5]);
    }

    #[test]
    fn a_nan_spoils_its_whole_row_and_no_other() {
        let out = softmax(
            &[1.0_f32, 0.0, f32::NAN, 1.0],
            2,
            1.0,
            Mask::Causal,
            Rounding::Once,
        );
        assert_eq!(out[..2], [1.0, 0.0]);
        assert!(out[2].is_nan() && out[3].is_nan());
    }

    #[test]
    fn masks_say_which_keys_take_part() {
        let of = |mask| softmax(&[0.0_f32; 9], 3, 1.0, mask, Rounding::Once);
        let [third, half] = [1.0 / 3.0, 0.5];
        assert_eq!(of(Mask::Full), [third; 9]);
        let later = [half, half, 0.0, third, third, third, third, third, third];
        assert_eq!(of(Mask::Shifted(1)), later);
        let earlier = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, half, half, 0.0];
        assert_eq!(of(Mask::Shifted(-1)), earlier);
        assert_eq!(of(Mask::Shifted(0)), of(Mask::Causal));
    }

    #[test]
    fn rounding_every_operation_is_not_rounding_once() {
        let scores: Vec<half::bf16> = (0..64)
            .map(|i| half::bf16::from_f32(i as f32 * 0.37))
            .collect();
        let of = |rounding| softmax(&scores, 8, 0.7, Mask::Causal, rounding);
        assert_ne!(of(Rounding::Once), of(Rounding::EachOperation));
    }
}
