//! Comparing where the arrays are.

use super::{Metrics, Spec, compare};
use crate::backend::{Backend, Cpu};
use crate::error::Result;
use crate::tensor::Tensor;

/// A backend on whose arrays can be compared where they are.
pub trait Measure: Backend {
    /// Compares two arrays as [`compare`] does, with the same result to the bit.
    ///
    /// # Errors
    /// As [`compare`], and if the device fails.
    fn measure(
        &self,
        reference: &Self::Array,
        candidate: &Self::Array,
        spec: &Spec<'_>,
    ) -> Result<Measuring>;
}

/// A comparison that may still be in flight.
pub enum Measuring {
    /// It is done, with this result.
    Done(Box<Metrics>),
    /// Waits for it and reads its result.
    InFlight(Box<dyn FnOnce() -> Result<Metrics>>),
}

impl Measuring {
    /// A comparison that is done.
    pub fn done(metrics: Metrics) -> Self {
        Self::Done(Box::new(metrics))
    }

    /// What was measured; waits for it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn finish(self) -> Result<Metrics> {
        match self {
            Self::Done(metrics) => Ok(*metrics),
            Self::InFlight(finish) => finish(),
        }
    }
}

impl Measure for Cpu {
    fn measure(
        &self,
        reference: &Tensor,
        candidate: &Tensor,
        spec: &Spec<'_>,
    ) -> Result<Measuring> {
        compare(reference, candidate, spec).map(Measuring::done)
    }
}
