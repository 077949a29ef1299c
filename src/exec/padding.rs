//! What fills up the shorter sequences of a batch.

use crate::error::{Error, Result};
use crate::op::{ErrorBound, Op};
use crate::tensor::{Tensor, with_element};
use bytemuck::Zeroable;

/// How many positions of each sequence of a batch are its own. Those after are padding: causal attention
/// lets no position look that far ahead, so what they hold changes nothing; it is 0 in every value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Padding {
    lengths: Vec<usize>,
}

impl Padding {
    /// Of sequences of these lengths.
    pub fn after(lengths: Vec<usize>) -> Self {
        Self { lengths }
    }

    /// How many positions of each sequence are its own.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// How many elements of a value of this operation are padding.
    pub fn elements_in(&self, op: &Op, shape: &[usize]) -> usize {
        let axes = op.position_axes(shape.len());
        let all: usize = shape.iter().product();
        let of_positions: usize = axes.iter().map(|axis| shape[*axis]).product();
        let others = all
            .checked_div(of_positions * self.lengths.len())
            .unwrap_or(0);
        let own = |length: &usize| length.pow(axes.len() as u32);
        all.saturating_sub(others * self.lengths.iter().map(own).sum::<usize>())
    }

    /// A value of this operation with 0 where there is padding.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if it is not of these sequences.
    pub(crate) fn blanked(&self, op: &Op, value: &Tensor) -> Result<Tensor> {
        with_element!(value.dtype(), T => {
            let mut values = value.as_slice::<T>()?.to_vec();
            self.blank(op, value.shape(), &mut values)?;
            Tensor::from_vec(value.shape(), values)
        })
    }

    /// The error bound of such a value.
    ///
    /// # Errors
    /// As [`Self::blanked`].
    pub(super) fn blanked_bound(
        &self,
        op: &Op,
        shape: &[usize],
        bound: &ErrorBound,
    ) -> Result<ErrorBound> {
        bound.moved(|part| {
            let mut part = part.to_vec();
            self.blank(op, shape, &mut part)?;
            Ok(part)
        })
    }

    fn blank<T: Clone + Zeroable>(&self, op: &Op, shape: &[usize], values: &mut [T]) -> Result<()> {
        if shape.first() != Some(&self.lengths.len()) {
            return Err(Error::Mismatch {
                at: "batch".into(),
                expected: format!("{} sequences", self.lengths.len()),
                found: format!("shape {shape:?}"),
            });
        }
        let of_sequence = (values.len() / self.lengths.len()).max(1);
        for axis in op.position_axes(shape.len()) {
            let inner: usize = shape[axis + 1..].iter().product();
            let block = (shape[*axis] * inner).max(1);
            for (length, values) in self.lengths.iter().zip(values.chunks_mut(of_sequence)) {
                for block in values.chunks_mut(block) {
                    block[length * inner..].fill(T::zeroed());
                }
            }
        }
        Ok(())
    }
}
