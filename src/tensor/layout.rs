//! How an array lies in the files that a framework wrote: the order of its axes, and how the files of
//! tensor-parallel ranks make one array.

use super::Tensor;
use serde::{Deserialize, Serialize};

/// Order of the axes in a file: batch, sequence, hidden, heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[batch, sequence, …]`: the order parity works in.
    Bsh,
    /// `[sequence, batch, …]`: inside Megatron's blocks.
    Sbh,
    /// `[batch, heads, …]`: attention scores and probabilities `[…, query, key]`, and queries, keys
    /// and values `[…, sequence, head_dim]`.
    Bnss,
    /// `[sequence, batch, heads, head_dim]`: queries, keys and values inside Megatron's attention.
    Sbnd,
    /// `[batch, sequence, heads, head_dim]`: queries and keys between transformers' projections and its attention.
    Bsnd,
}

/// How the files of tensor-parallel ranks make one array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// Every rank has all of it; one file is kept.
    Replicated,
    /// Every rank has a slice of this axis (of the files' own layout).
    Concat(usize),
}

impl Layout {
    /// The axis of the rows of the batch.
    pub(crate) fn batch_axis(self) -> usize {
        match self {
            Self::Bsh | Self::Bnss | Self::Bsnd => 0,
            Self::Sbh | Self::Sbnd => 1,
        }
    }

    /// The axis of the positions, of queries in scores and probabilities.
    pub(crate) fn sequence_axis(self) -> usize {
        match self {
            Self::Bsh | Self::Bsnd => 1,
            Self::Bnss => 2,
            Self::Sbh | Self::Sbnd => 0,
        }
    }

    /// The array in parity's own layout, or `None` if it lacks the axes of this one.
    pub(crate) fn to_batch_first(self, array: &Tensor) -> Option<Tensor> {
        match (self, array.shape().len()) {
            (Self::Bsh, 3) | (Self::Bnss, 4) => Some(array.clone()),
            (Self::Sbh, 3) => Some(array.permuted(&[1, 0, 2])),
            (Self::Bsnd, 4) => Some(array.permuted(&[0, 2, 1, 3])),
            (Self::Sbnd, 4) => Some(array.permuted(&[1, 2, 0, 3])),
            _ => None,
        }
    }
}
