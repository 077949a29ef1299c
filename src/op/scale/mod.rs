//! Values times a constant.

mod cuda;

use super::formula::{Formula, Real};
use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, elementwise};
use serde::Serialize;
use std::fmt;

/// x → same shape: `factor · x`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scale {
    /// What every element is multiplied by.
    pub factor: f32,
}

impl Formula for Scale {
    #[inline(always)]
    fn evaluate<R: Real>(&self, x: R) -> R {
        R::constant(self.factor) * x
    }
}

impl Operation for Scale {
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

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}·x", self.factor)
    }
}
