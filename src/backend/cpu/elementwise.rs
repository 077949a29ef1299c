//! Adds and activations. Every element is computed for itself, in fp32.

use super::functions::tanh;
use crate::plan::{Activation, Rounding};
use crate::tensor::Float;
use rayon::prelude::*;

/// Elements a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// `a + b`, rounded once.
pub(super) fn add<T: Float>(a: &[T], b: &[T]) -> Vec<T> {
    let mut out = vec![T::zeroed(); a.len()];
    out.par_chunks_mut(CHUNK)
        .zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)))
        .for_each(|(out, (a, b))| {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = T::from_f32(a.to_f32() + b.to_f32());
            }
        });
    out
}

/// `x + row` for every row of `x`, rounded once.
pub(super) fn add_row<T: Float>(x: &[T], row: &[T]) -> Vec<T> {
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

/// An activation function of every element, rounded where `rounding` says.
pub(super) fn activation<T: Float>(x: &[T], activation: Activation, rounding: Rounding) -> Vec<T> {
    let Activation::BloomGelu = activation;
    match rounding {
        Rounding::EachOperation => map(x, |x| bloom_gelu(x, |v| T::from_f32(v).to_f32())),
        Rounding::Once => map(x, |x| bloom_gelu(x, |v| v)),
    }
}

fn map<T: Float>(x: &[T], function: impl Fn(f32) -> f32 + Sync) -> Vec<T> {
    let mut out = vec![T::zeroed(); x.len()];
    out.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(out, x)| {
            for (out, x) in out.iter_mut().zip(x) {
                *out = T::from_f32(function(x.to_f32()));
            }
        });
    out
}

/// The operations in the order of `bloom_gelu_forward`, each passed through `round`. The constants
/// stay fp32.
#[inline(always)]
#[expect(
    clippy::excessive_precision,
    reason = "the constant as the frameworks write it"
)]
fn bloom_gelu(x: f32, round: impl Fn(f32) -> f32) -> f32 {
    let half = round(x * 0.5);
    let scaled = round(0.797_884_56 * x);
    let cubic = round(round(0.044_715 * x) * x);
    let inner = round(scaled * round(1.0 + cubic));
    round(half * round(1.0 + round(tanh(inner))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn gelu_has_its_known_values() {
        let out = activation(
            &[0.0_f32, 1.0, -1.0, 10.0],
            Activation::BloomGelu,
            Rounding::Once,
        );
        // The tanh form at ±1: 0.841192 and −0.158808.
        approx::assert_abs_diff_eq!(
            out.as_slice(),
            [0.0, 0.841_192, -0.158_808, 10.0].as_slice(),
            epsilon = 1e-6
        );
    }

    #[test]
    fn rounding_every_operation_is_not_rounding_once() {
        let x: Vec<bf16> = (0..200)
            .map(|i| bf16::from_f32(i as f32 * 0.01 - 1.0))
            .collect();
        let once = activation(&x, Activation::BloomGelu, Rounding::Once);
        let each = activation(&x, Activation::BloomGelu, Rounding::EachOperation);
        assert_ne!(once, each);
    }

    #[test]
    fn adds_are_rounded_to_the_storage_type() {
        let [one, hair] = [1.0, 0.5_f32.powi(9)].map(bf16::from_f32);
        assert_eq!(add(&[one], &[hair]), [one]);
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
