//! What an operation is applied to.

use crate::error::Result;
use crate::tensor::{Element, Float, Tensor, with_float};
use std::borrow::Cow;

/// Inputs and parameters, in the order the operation names them. Their shapes were checked.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a> {
    pub(crate) inputs: &'a [&'a Tensor],
    pub(crate) params: &'a [&'a Tensor],
}

impl<'a> Arguments<'a> {
    /// The elements of an input.
    pub(crate) fn input<T: Element>(&self, index: usize) -> Result<&'a [T]> {
        self.inputs[index].as_slice()
    }

    /// The elements of an input of any floating type, in fp32.
    pub(crate) fn widened(&self, index: usize) -> Result<Cow<'a, [f32]>> {
        widened(self.inputs[index])
    }

    /// The elements of a parameter of any floating type, in fp32.
    pub(crate) fn widened_param(&self, index: usize) -> Result<Cow<'a, [f32]>> {
        widened(self.params[index])
    }

    /// The elements of a parameter.
    pub(crate) fn param<T: Element>(&self, index: usize) -> Result<&'a [T]> {
        self.params[index].as_slice()
    }

    /// The elements of an optional parameter: a bias.
    pub(crate) fn optional_param<T: Element>(&self, index: usize) -> Result<Option<&'a [T]>> {
        let param = self.params.get(index);
        param.map(|param| param.as_slice()).transpose()
    }
}

fn widened(tensor: &Tensor) -> Result<Cow<'_, [f32]>> {
    with_float!(tensor.dtype(), T => Ok(T::widened(tensor.as_slice::<T>()?)), else Ok(tensor.as_slice::<f32>()?.into()))
}
