//! Parts of what frameworks compute at once.

use super::Heads;
use super::recipe::Relayout;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Tiled};

/// What of an array `[·, ·, columns]` a stage is: the columns that one of several fused projections
/// left, or all of them in another order. A rank's part is taken before ranks are joined, as every
/// rank has its columns of each projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The queries of `[groups, queries per key + 2, head_dim]`.
    Query,
    /// The keys of the same.
    Key,
    /// The values of the same.
    Value,
    /// All three of them, of as many heads each: `[heads, 3, head_dim]` to `[3, heads, head_dim]`.
    QueryKeyValue,
    /// The first of two halves.
    Gate,
    /// The second.
    Up,
}

impl Part {
    /// The axis of what [`Self::of`] leaves of which every rank has a slice.
    pub(crate) const fn axis(self) -> usize {
        match self {
            // The groups.
            Self::Query | Self::Key | Self::Value => 2,
            // After the axis of the three or of the two.
            Self::QueryKeyValue | Self::Gate | Self::Up => 3,
        }
    }

    /// The part of one rank's array, its columns in as many axes as they are made of.
    ///
    /// # Errors
    /// [`Mismatch`](crate::Error::Mismatch) if the columns are not made of these heads, or of two
    /// halves.
    pub(crate) fn of(self, array: &Tensor, heads: Heads) -> Result<Tensor> {
        use Relayout::{Keep, Permute, Split};
        const COLUMNS: usize = 2;
        if array.shape().len() != COLUMNS + 1 {
            return Err(Error::Mismatch {
                at: "array".into(),
                expected: "three axes, the last of fused columns".into(),
                found: format!("shape {:?}", array.shape()),
            });
        }
        let queries = heads.per_key();
        let within_group = |range| {
            let split = |inner| Split {
                axis: COLUMNS,
                inner,
            };
            let keep = Keep {
                axis: COLUMNS + 1,
                range,
            };
            vec![split(heads.dim), split(queries + 2), keep]
        };
        let half = |range| {
            let columns = array.shape()[COLUMNS];
            // What divides no odd number is refused below.
            let inner = if columns.is_multiple_of(2) {
                columns / 2
            } else {
                columns + 1
            };
            let split = Split {
                axis: COLUMNS,
                inner,
            };
            vec![
                split,
                Keep {
                    axis: COLUMNS,
                    range,
                },
            ]
        };
        let moves = match self {
            Self::Query => within_group(0..queries),
            Self::Key => within_group(queries..queries + 1),
            Self::Value => within_group(queries + 1..queries + 2),
            Self::QueryKeyValue => {
                let head = Split {
                    axis: COLUMNS,
                    inner: heads.dim,
                };
                let three = Split {
                    axis: COLUMNS,
                    inner: 3,
                };
                vec![head, three, Permute(vec![0, 1, 3, 2, 4])]
            }
            Self::Gate => half(0..1),
            Self::Up => half(1..2),
        };
        let whole = Tiled::one(array.clone());
        let part = moves
            .iter()
            .try_fold(whole, |part, step| step.apply(part))?;
        part.to_tensor()
    }

    /// What ranks' parts make when they are joined, with one axis for all columns again.
    ///
    /// # Errors
    /// None for what [`Self::of`] leaves.
    pub(crate) fn joined(array: Tensor) -> Result<Tensor> {
        let (outer, columns) = array.shape().split_at(2.min(array.shape().len()));
        let shape = [outer, &[columns.iter().product()]].concat();
        array.reshaped(&shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    /// One token whose columns count from 0.
    fn columns(range: std::ops::Range<i64>) -> Tensor {
        Tensor::from_vec(&[1, 1, range.clone().count()], range.collect()).unwrap()
    }

    /// The part of all ranks.
    fn joined(part: Part, ranks: &[Tensor], heads: Heads) -> Vec<i64> {
        let parts: Result<Vec<Tensor>> = ranks.iter().map(|rank| part.of(rank, heads)).collect();
        let all = Tensor::concat(&parts.unwrap(), part.axis()).unwrap();
        let all = Part::joined(all).unwrap();
        assert_eq!(all.shape()[..2], [1, 1]);
        all.as_slice::<i64>().unwrap().to_vec()
    }

    #[test]
    fn groups_have_queries_then_a_key_then_a_value() {
        // Two groups of two queries, a key and a value; heads of two entries.
        let heads = Heads {
            queries: 4,
            keys: 2,
            dim: 2,
        };
        let queries = [0, 1, 2, 3, 8, 9, 10, 11];
        for ranks in [vec![columns(0..16)], vec![columns(0..8), columns(8..16)]] {
            assert_eq!(joined(Part::Query, &ranks, heads), queries);
            assert_eq!(joined(Part::Key, &ranks, heads), [4, 5, 12, 13]);
            assert_eq!(joined(Part::Value, &ranks, heads), [6, 7, 14, 15]);
        }
    }

    #[test]
    fn heads_of_three_become_three_of_heads() {
        let heads = Heads {
            queries: 2,
            keys: 2,
            dim: 1,
        };
        for ranks in [vec![columns(0..6)], vec![columns(0..3), columns(3..6)]] {
            let all = joined(Part::QueryKeyValue, &ranks, heads);
            assert_eq!(all, [0, 3, 1, 4, 2, 5]);
        }
    }

    #[test]
    fn every_rank_has_its_rows_of_gate_and_up() {
        let heads = Heads {
            queries: 1,
            keys: 1,
            dim: 1,
        };
        let ranks = [columns(0..4), columns(4..8)];
        assert_eq!(joined(Part::Gate, &ranks, heads), [0, 1, 4, 5]);
        assert_eq!(joined(Part::Up, &ranks, heads), [2, 3, 6, 7]);
    }

    #[test]
    fn columns_of_something_else_are_refused() {
        let heads = Heads {
            queries: 4,
            keys: 2,
            dim: 3,
        };
        for part in [Part::Query, Part::QueryKeyValue, Part::Gate] {
            let found = part.of(&columns(0..13), heads);
            assert!(found.is_err(), "{part:?}");
            let flat = Tensor::from_vec(&[4], vec![0_i64; 4]).unwrap();
            assert!(part.of(&flat, heads).is_err(), "{part:?}");
        }
    }
}
