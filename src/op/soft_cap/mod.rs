//! Values bounded by a hyperbolic tangent.

mod cuda;

use super::formula::{Formula, Real};
use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, elementwise};
use serde::Serialize;
use std::fmt;

/// x → same shape: `cap · tanh(x / cap)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SoftCap {
    /// The bound that no element exceeds.
    pub cap: f32,
}

impl Formula for SoftCap {
    #[inline(always)]
    fn evaluate<R: Real>(&self, x: R) -> R {
        soft_cap(R::constant(self.cap), x)
    }
}

/// The formula, of a bound that need not be a constant.
#[inline(always)]
fn soft_cap<R: Real>(cap: R, x: R) -> R {
    cap * (x / cap).tanh()
}

impl Operation for SoftCap {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        elementwise::<1>(inputs, params)
    }

    fn locality(&self) -> Locality {
        Locality::Element
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, _: DividedBy) -> String {
        format!("{self:?};")
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for SoftCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "soft cap {}", self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_cap_has_its_known_value() {
        let capped = SoftCap { cap: 2.0 }.evaluate(1.0_f64);
        approx::assert_abs_diff_eq!(capped, 0.924_234, epsilon = 1e-6);
    }
}
