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
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let mut axes = op.position_axes(shape.len()).iter();
        let is_long_enough = axes.all(|axis| shape.get(*axis).is_some_and(|all| *all >= longest));
        if shape.first() != Some(&self.lengths.len()) || !is_long_enough {
            return Err(Error::Mismatch {
                at: "batch".into(),
                expected: format!(
                    "{} sequences of up to {longest} positions",
                    self.lengths.len()
                ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Context, Mask, Scale, Softmax};

    fn blanked(op: impl Into<Op>, shape: &[usize], lengths: &[usize]) -> Result<Vec<f32>> {
        let count = shape.iter().product();
        let ones = Tensor::from_vec(shape, vec![1.0_f32; count])?;
        let padding = Padding::after(lengths.to_vec());
        let op = op.into();
        let value = padding.blanked(&op, &ones)?;
        let zeros = value.as_slice::<f32>()?.iter().filter(|x| **x == 0.0);
        assert_eq!(zeros.count(), padding.elements_in(&op, shape));
        Ok(value.as_slice::<f32>()?.to_vec())
    }

    #[test]
    fn scores_have_padding_in_their_keys_too_and_heads_have_not() {
        let softmax = Softmax {
            scale: 1.0,
            mask: Mask::Causal,
        };
        let probs = blanked(softmax, &[1, 1, 3, 3], &[2]).unwrap();
        assert_eq!(probs, [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        // Fewer entries of a head than positions.
        let heads = blanked(Scale { factor: 2.0 }, &[1, 1, 4, 2], &[3]).unwrap();
        assert_eq!(heads, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        let context = blanked(Context, &[2, 2, 2], &[2, 1]).unwrap();
        assert_eq!(context, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn values_of_other_sequences_are_refused() {
        for (shape, lengths) in [([2, 3, 4], [2_usize].as_slice()), ([1, 3, 4], &[4])] {
            assert!(blanked(Context, &shape, lengths).is_err());
        }
    }
}
