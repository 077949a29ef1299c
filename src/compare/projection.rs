//! Random projections: statistics that see where values are.

use crate::error::Result;
use crate::tensor::{Element, Tensor, with_element};
use rayon::prelude::*;

/// The projection of every token on one random direction: `Σ wⱼ·xⱼ` over the last axis, in ascending order in
/// fp64, where `wⱼ = √3·uⱼ` and the `uⱼ` are uniform in [-1, 1).
///
/// The weights have unit variance, so that a difference has the square it has itself, in the mean (Johnson
/// and Lindenstrauss 1984): elements that have changed places show here, and in no mean and no extreme.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// What the weights are drawn from.
    pub seed: u64,
    /// One value a token.
    pub values: Vec<f64>,
}

impl Projection {
    /// The seed of what is written today.
    pub const SEED: u64 = 20_261_126;

    /// Of every row of an array.
    ///
    /// # Errors
    /// None for values.
    pub fn new(tensor: &Tensor, seed: u64) -> Result<Self> {
        let width = tensor.row_len().max(1);
        let weights = weights(seed, width);
        let values = with_element!(tensor.dtype(), T => {
            let rows = tensor.as_slice::<T>()?.par_chunks(width);
            let project = |row: &[T]| -> f64 {
                row.iter().zip(&weights).map(|(value, weight)| value.to_f64() * weight).sum()
            };
            rows.map(project).collect()
        });
        Ok(Self { seed, values })
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014) from a seed on, 53 bits of each.
fn weights(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let uniform = ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
        3_f64.sqrt() * uniform
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of SplitMix64 from 1234567, as its reference implementation prints them.
    #[test]
    fn weights_are_splitmix() {
        let first = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973];
        let expected =
            first.map(|bits| 3_f64.sqrt() * ((bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0));
        assert_eq!(weights(1_234_567, 2), expected);
    }

    #[test]
    fn weights_have_unit_variance() {
        let all = weights(Projection::SEED, 100_000);
        let mean = all.iter().sum::<f64>() / 1e5;
        let square = all.iter().map(|w| w * w).sum::<f64>() / 1e5;
        assert!(
            mean.abs() < 0.01 && (square - 1.0).abs() < 0.01,
            "{mean} {square}"
        );
    }

    #[test]
    fn what_has_changed_places_shows() {
        let of = |values: &[f32]| {
            let tensor = Tensor::from_vec(&[1, values.len()], values.to_vec()).unwrap();
            Projection::new(&tensor, Projection::SEED).unwrap().values[0]
        };
        assert!((of(&[1.0, 2.0, 3.0]) - of(&[2.0, 1.0, 3.0])).abs() > 1e-3);
    }
}
