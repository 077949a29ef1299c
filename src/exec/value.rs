//! Values that steps read.

use crate::op::{ErrorBound, Operand};
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

impl Value<Tensor> {
    /// The value as error bounds of steps that read it see it.
    pub fn operand(&self) -> Operand<'_> {
        Operand {
            value: &self.array,
            error_bound: self.error_bound.as_ref(),
        }
    }
}
