//! Values that steps read.

use crate::error::Result;
use crate::op::{Confidence, ErrorBound, Operand};
use crate::plan::Step;
use crate::tensor::Tensor;

/// An array that steps read, wherever it is, and how far it may be from exact.
#[derive(Clone, Debug)]
pub struct Value<A> {
    /// The array.
    pub array: A,
    /// `None` if it is given, the same on both sides, or if nobody asks.
    pub error_bound: Option<ErrorBound>,
}

impl<A> Value<A> {
    /// A value that both sides start from.
    pub fn given(array: A) -> Self {
        Self {
            array,
            error_bound: None,
        }
    }
}

impl<A> Value<A> {
    /// A step's own result, as later steps see it; `output` is what was computed, in this machine's
    /// memory. What only moves elements rounds nothing again.
    ///
    /// # Errors
    /// None for floating values.
    pub fn computed(
        step: &Step,
        array: A,
        output: &Tensor,
        error_bound: Option<ErrorBound>,
        confidence: Confidence,
    ) -> Result<Self> {
        let rounds = !step.op.locality().is_copy();
        let error_bound = match error_bound {
            Some(error_bound) if rounds => Some(error_bound.rounded(output, confidence)?),
            error_bound => error_bound,
        };
        Ok(Self { array, error_bound })
    }
}

impl Value<Tensor> {
    /// The value as error bounds of steps that read it see it.
    pub fn operand(&self) -> Operand<'_> {
        Operand {
            value: &self.array,
            error_bound: self.error_bound.as_ref(),
        }
    }
}
