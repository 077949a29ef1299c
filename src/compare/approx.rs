//! The `approx` traits for arrays, for tests of other crates.
//!
//! Unlike `approx`'s own for slices, these follow this crate's policy: equal NaNs and equal
//! infinities agree, arrays of two shapes are never equal, and the relative criterion is the
//! Frobenius norm of the whole.

use super::{Metrics, Spec, compare};
use crate::tensor::Tensor;
use approx::{AbsDiffEq, RelativeEq, UlpsEq};

impl AbsDiffEq for Tensor {
    type Epsilon = f64;

    fn default_epsilon() -> f64 {
        0.0
    }

    fn abs_diff_eq(&self, other: &Self, epsilon: f64) -> bool {
        agree(self, other, |metrics| {
            metrics.max_abs_difference() <= epsilon
        })
    }
}

impl RelativeEq for Tensor {
    fn default_max_relative() -> f64 {
        // What correct fp32 conversions need, ten times over.
        2e-6
    }

    fn relative_eq(&self, other: &Self, epsilon: f64, max_relative: f64) -> bool {
        agree(self, other, |metrics| {
            metrics.max_abs_difference() <= epsilon || metrics.relative_frobenius <= max_relative
        })
    }
}

impl UlpsEq for Tensor {
    fn default_max_ulps() -> u32 {
        4
    }

    fn ulps_eq(&self, other: &Self, epsilon: f64, max_ulps: u32) -> bool {
        agree(self, other, |metrics| {
            metrics.max_abs_difference() <= epsilon
                || metrics.max_ulp.is_some_and(|ulp| ulp <= max_ulps.into())
        })
    }
}

fn agree(a: &Tensor, b: &Tensor, holds: impl Fn(&Metrics) -> bool) -> bool {
    let metrics = compare(a, b, &Spec::default());
    metrics.is_ok_and(|metrics| metrics.non_finite.disagreements == 0 && holds(&metrics))
}

#[cfg(test)]
mod tests {
    use crate::tensor::Tensor;

    fn row(values: &[f32]) -> Tensor {
        Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
    }

    #[test]
    fn the_macros_work_on_arrays() {
        let (a, b) = (
            row(&[1.0, f32::INFINITY]),
            row(&[1.0 + f32::EPSILON, f32::INFINITY]),
        );
        approx::assert_abs_diff_eq!(a, b, epsilon = 1e-6);
        approx::assert_relative_eq!(a, b, max_relative = 1e-6);
        approx::assert_ulps_eq!(a, b, max_ulps = 1);
        approx::assert_abs_diff_ne!(a, b);
        approx::assert_abs_diff_ne!(a, row(&[1.0]), epsilon = 1.0);
        approx::assert_abs_diff_ne!(row(&[f32::NAN]), row(&[0.0]), epsilon = f64::INFINITY);
    }
}
