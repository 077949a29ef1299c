//! The sequences of a batch, taken out of the rows that they were padded or packed into.

use crate::error::{Error, Result};
use crate::exec::Padding;
use crate::tensor::{Tensor, with_element};
use bytemuck::Zeroable;
use std::fmt;

/// Where a batch's sequences lie in its rows.
///
/// A run of padded or packed rows is one of its sequences, each a row of its own from position 0 on: what
/// the mask hides from a position has no part in its value. So values are moved there, and plans run plain
/// causal attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// The row of every sequence, and its columns.
    places: Vec<(usize, Vec<usize>)>,
    /// Rows and columns of the batch.
    of: [usize; 2],
    padding: Padding,
}

impl Sequences {
    /// Of a mask `[rows, columns]`: 0 where there is padding, else the number in its row of the sequence
    /// that a token is of. `None` if every row is one whole sequence.
    pub(super) fn new(mask: &[i64], of: [usize; 2]) -> Option<Self> {
        let mut places: Vec<(usize, Vec<usize>)> = Vec::new();
        for (row, mask) in mask.chunks(of[1].max(1)).enumerate() {
            let mut numbers: Vec<i64> = mask.iter().copied().filter(|n| *n > 0).collect();
            numbers.sort_unstable();
            numbers.dedup();
            for number in numbers {
                let columns = (0..mask.len()).filter(|column| mask[*column] == number);
                places.push((row, columns.collect()));
            }
        }
        let lengths: Vec<usize> = places.iter().map(|(_, columns)| columns.len()).collect();
        let is_plain = places.len() == of[0] && lengths.iter().all(|length| *length == of[1]);
        (!is_plain).then(|| Self {
            places,
            of,
            padding: Padding::after(lengths),
        })
    }

    /// What fills up the shorter ones.
    pub fn padding(&self) -> &Padding {
        &self.padding
    }

    /// How many there are, and the length of the longest.
    pub fn extents(&self) -> [usize; 2] {
        let longest = self.padding.lengths().iter().copied().max();
        [self.places.len(), longest.unwrap_or(0)]
    }

    /// How many tokens are of no sequence.
    pub fn left_out(&self) -> usize {
        let own: usize = self.padding.lengths().iter().sum();
        self.of[0] * self.of[1] - own
    }

    /// Whether every sequence has its tokens in the columns of their positions.
    pub fn is_left_aligned(&self) -> bool {
        let places = self.places.iter();
        let mut columns = places.map(|(_, columns)| columns);
        columns.all(|columns| columns.iter().copied().eq(0..columns.len()))
    }

    /// Where an element of a value lies in what was recorded; `axes` follow positions.
    pub fn recorded_place(&self, position: &mut [usize], axes: &[usize]) {
        let Some((row, columns)) = position.first().and_then(|at| self.places.get(*at)) else {
            return;
        };
        position[0] = *row;
        for axis in axes {
            if let Some(at) = position.get_mut(*axis) {
                *at = columns.get(*at).copied().unwrap_or(*at);
            }
        }
    }

    /// A value with its sequences one a row, what is not of them left out and 0 after the shorter ones;
    /// `axes` follow positions.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if it is not of this batch.
    pub(super) fn taken_from(&self, value: &Tensor, axes: &[usize]) -> Result<Tensor> {
        let shape = value.shape();
        let fits = shape.first() == Some(&self.of[0])
            && axes
                .iter()
                .all(|axis| shape.get(*axis) == Some(&self.of[1]));
        if !fits {
            return Err(Error::Mismatch {
                at: "batch".into(),
                expected: format!("{} rows of {} positions", self.of[0], self.of[1]),
                found: format!("shape {shape:?}"),
            });
        }
        let longest = self.extents()[1];
        let sequences = self.places.iter().map(|(row, columns)| {
            let row = value.slice(0, *row..row + 1)?;
            axes.iter()
                .try_fold(row, |row, axis| picked(&row, *axis, columns, longest))
        });
        Tensor::concat(&sequences.collect::<Result<Vec<_>>>()?, 0)
    }
}

impl fmt::Display for Sequences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [count, longest] = self.extents();
        let [rows, columns] = self.of;
        write!(
            f,
            "{count} sequences of up to {longest} tokens in {rows} rows"
        )?;
        match self.left_out() {
            0 => Ok(()),
            padding => write!(
                f,
                ": {padding} of {} tokens are padding, not compared",
                rows * columns
            ),
        }
    }
}

/// Entries of an axis, and zeros after them.
fn picked(value: &Tensor, axis: usize, places: &[usize], count: usize) -> Result<Tensor> {
    let mut shape = value.shape().to_vec();
    let inner: usize = shape[axis + 1..].iter().product();
    let block = (shape[axis] * inner).max(1);
    shape[axis] = count;
    with_element!(value.dtype(), T => {
        let mut picked: Vec<T> = Vec::with_capacity(shape.iter().product());
        for block in value.as_slice::<T>()?.chunks(block) {
            for place in places {
                picked.extend_from_slice(&block[place * inner..(place + 1) * inner]);
            }
            picked.resize(picked.len() + (count - places.len()) * inner, Zeroable::zeroed());
        }
        Tensor::from_vec(&shape, picked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_rows_are_sequences_already() {
        assert_eq!(Sequences::new(&[1; 6], [2, 3]), None);
    }

    #[test]
    fn padding_and_packing_are_undone() {
        let mask = [0, 0, 1, 1, 1, 1, 2, 0];
        let sequences = Sequences::new(&mask, [2, 4]).unwrap();
        assert_eq!(sequences.extents(), [3, 2]);
        assert_eq!(sequences.left_out(), 3);
        assert_eq!(sequences.padding().lengths(), [2, 2, 1]);
        assert!(!sequences.is_left_aligned());
        let value = Tensor::from_vec(&[2, 4, 1], (0..8_i64).collect()).unwrap();
        let taken = sequences.taken_from(&value, &[1]).unwrap();
        assert_eq!(taken.as_slice::<i64>().unwrap(), [2, 3, 4, 5, 6, 0]);
        let mut place = [2, 0, 5];
        sequences.recorded_place(&mut place, &[1]);
        assert_eq!(place, [1, 2, 5]);
        assert!(sequences.taken_from(&value, &[2]).is_err());
    }

    proptest! {
        /// Every token that is not padding is in one sequence, at the place it is said to come from.
        #[test]
        fn no_token_is_lost(mask in proptest::collection::vec(0_i64..3, 12)) {
            let value = Tensor::from_vec(&[3, 4], (1..13_i64).collect()).unwrap();
            let Some(sequences) = Sequences::new(&mask, [3, 4]) else {
                return Ok(());
            };
            prop_assume!(mask.iter().any(|number| *number > 0));
            let taken = sequences.taken_from(&value, &[1]).unwrap();
            let mut seen = Vec::new();
            for (index, token) in taken.as_slice::<i64>().unwrap().iter().enumerate() {
                if *token == 0 {
                    continue;
                }
                let mut place = taken.position(index);
                sequences.recorded_place(&mut place, &[1]);
                prop_assert_eq!(*token as usize, 1 + place[0] * 4 + place[1]);
                seen.push(*token);
            }
            seen.sort_unstable();
            let own = (1..13_i64).filter(|token| mask[*token as usize - 1] > 0);
            prop_assert_eq!(seen, own.collect::<Vec<_>>());
        }
    }
}
