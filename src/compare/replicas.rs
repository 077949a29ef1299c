//! How far values may be apart that ought to be the same.

use super::largest_difference;
use crate::error::Result;
use crate::tensor::{Element, Tensor, with_element};

/// Units in the last place of an array's largest magnitude.
///
/// Replicas are computed by the same kernels from the same values; where they differ at all, sums were
/// added in another order, which moves a rounded result by about one unit, and the residual stream
/// carries that on as a random walk: 16 units after 256 roundings, the four of a block in 64 blocks.
/// Other values than replicas' are apart by more than the largest magnitude: 128 units at least.
pub(crate) const DRIFT_ULPS: f64 = 16.0;

/// Two arrays that ought to be one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Replicas {
    /// Their largest difference; infinite if one is no number.
    pub(crate) apart: f64,
    /// The largest finite magnitude of the first.
    pub(crate) largest: f64,
    /// How far rounding can have taken them apart.
    pub(crate) drift: f64,
}

impl Replicas {
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) if their shapes differ.
    pub(crate) fn new(first: &Tensor, other: &Tensor) -> Result<Self> {
        let largest = with_element!(first.dtype(), T => {
            let magnitudes = first.as_slice::<T>()?.iter().map(|value| value.to_f64().abs());
            magnitudes.filter(|value| value.is_finite()).fold(0.0, f64::max)
        });
        let ulp = first
            .dtype()
            .float()
            .map_or(0.0, |float| float.ulp(largest));
        Ok(Self {
            apart: largest_difference(first, other)?,
            largest,
            drift: DRIFT_ULPS * ulp,
        })
    }

    /// Whether they are apart by no more than rounding.
    pub(crate) fn are_one(&self) -> bool {
        self.apart <= self.drift
    }
}
