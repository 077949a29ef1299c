//! Norms on the CPU.

use super::Norm;
use crate::error::Result;
use crate::op::{Arguments, Rounding};
use crate::tensor::Float;
use multiversion::multiversion;
use rayon::prelude::*;

/// Independent sums of a row, folded pairwise at its end.
const LANES: usize = 8;

impl Norm {
    /// Evaluated in fp64 in two passes over a row, in [`LANES`] interleaved sums, and rounded once.
    /// With [`Rounding::EachOperation`] the normalized value is also rounded before it is multiplied
    /// by the weight, as transformers does in its RMSNorm.
    pub(in crate::op) fn cpu<T: Float>(
        self,
        arguments: &Arguments<'_>,
        rounding: Rounding,
    ) -> Result<Vec<T>> {
        let (x, weight) = (arguments.input(0)?, arguments.param(0)?);
        let bias = arguments.optional_param(1)?;
        Ok(self.compute(x, weight, bias, rounding))
    }

    fn compute<T: Float>(
        self,
        x: &[T],
        weight: &[T],
        bias: Option<&[T]>,
        rounding: Rounding,
    ) -> Vec<T> {
        let width = weight.len();
        let weight: Vec<f64> = weight.iter().map(|v| v.to_f64()).collect();
        let bias: Vec<f64> = match bias {
            Some(bias) => bias.iter().map(|v| v.to_f64()).collect(),
            // Not 0: −0 + 0 would be +0.
            None => vec![-0.0; width],
        };
        let mut out = vec![T::zeroed(); x.len()];
        if out.is_empty() {
            return out;
        }
        out.par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .for_each_init(
                || vec![0.0; width],
                |row, (out, x)| {
                    for (to, from) in row.iter_mut().zip(x) {
                        *to = from.to_f64();
                    }
                    normalize(row, self.eps, self.centred);
                    if rounding == Rounding::EachOperation {
                        for x in row.iter_mut() {
                            *x = T::nearest(*x).to_f64();
                        }
                    }
                    scale(row, &weight, &bias);
                    for (to, from) in out.iter_mut().zip(row) {
                        *to = T::nearest(*from);
                    }
                },
            );
        out
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn normalize(row: &mut [f64], eps: f64, centred: bool) {
    let count = row.len() as f64;
    let mean = if centred {
        lane_sum(row, |x| x) / count
    } else {
        0.0
    };
    let variance = lane_sum(row, |x| (x - mean) * (x - mean)) / count;
    let scale = 1.0 / (variance + eps).sqrt();
    for x in row.iter_mut() {
        *x = (*x - mean) * scale;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn scale(row: &mut [f64], weight: &[f64], bias: &[f64]) {
    for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
        *x = *x * weight + bias;
    }
}

/// Sum of `term` over a row: element `i` goes to lane `i % LANES`; lanes are folded pairwise.
#[inline(always)]
fn lane_sum(row: &[f64], term: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += term(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += term(*x);
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn layer_norm<T: Float>(x: &[T], weight: &[T], bias: &[T], eps: f64) -> Vec<T> {
        let norm = Norm { eps, centred: true };
        norm.compute(x, weight, Some(bias), Rounding::Once)
    }

    #[test]
    fn rms_norm_is_not_centred_and_may_round_before_the_weight() {
        let rms = Norm {
            eps: 0.0,
            centred: false,
        };
        // The mean square of [1, 7] is 25.
        let out = rms.compute(&[1.0_f32, 7.0], &[1.0, 2.0], None, Rounding::Once);
        approx::assert_abs_diff_eq!(out.as_slice(), [0.2, 2.8].as_slice(), epsilon = 1e-6);
        let row = |step: f32| -> Vec<bf16> {
            let values = (1..33).map(|index| bf16::from_f32(step * index as f32));
            values.collect()
        };
        let (x, weight) = (row(0.37), row(0.11));
        let [once, twice] = [Rounding::Once, Rounding::EachOperation]
            .map(|rounding| rms.compute(&x, &weight, None, rounding));
        assert_ne!(once, twice);
    }

    #[test]
    fn a_row_is_centred_scaled_and_shifted() {
        // Mean 2, variance 2/3, by hand: (1 − 2) / sqrt(2/3 + 1/12) = −1/sqrt(0.75).
        let out = layer_norm(
            &[1.0_f32, 2.0, 3.0],
            &[2.0, 2.0, 2.0],
            &[1.0, 1.0, 1.0],
            1.0 / 12.0,
        );
        let expected = (1.0 - 2.0 / 0.75_f64.sqrt()) as f32;
        assert_eq!(out, [expected, 1.0, 2.0 - expected]);
    }

    #[test]
    fn the_result_is_rounded_once() {
        // In fp64 1 + 2^-9 + 2^-30; through fp32 it would be a tie of bf16.
        let hair = bf16::from_f64(0.5_f64.powi(30));
        let one = bf16::from_f32(1.0);
        let out = layer_norm(&[hair, hair], &[one, one], &[one, one], 1.0);
        assert_eq!(out, [one, one]);
    }
}
