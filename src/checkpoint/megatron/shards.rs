//! Tensors in shards, and joining them.

use crate::checkpoint::torch::{StateDict, TensorRecord};
use crate::compare::Replicas;
use crate::error::{BadInput, Error, Result};
use crate::tensor::{DType, Float, Strided, Tensor, Tiled, with_float};
use std::collections::BTreeSet;
use std::path::Path;

/// How a tensor is divided among tensor-parallel ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// Every rank has all of it.
    Replicated,
    /// Every rank has a range of an axis, in rank order.
    Axis(usize),
    /// Every rank has its rows of two matrices, one after the other: the gate's and the up
    /// projection's. Joined, axis 0 says which of the two it is: `[2, rows, …]`.
    Gated,
}

/// What is known of a tensor without reading it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The key that it is stored under.
    pub key: String,
    /// Its type; torch's name for one that parity does not know.
    pub dtype: Result<DType, String>,
    /// Shape of a rank's shard, or of the whole where the checkpoint keeps it as one.
    pub shape: Vec<usize>,
    /// Into how many pieces it is divided.
    pub pieces: usize,
    /// The first file that holds a piece.
    pub file: String,
}

impl Listed {
    pub(super) fn new(
        [name, key]: [&str; 2],
        record: &TensorRecord<'_>,
        pieces: usize,
        file: &Path,
    ) -> Self {
        Self {
            name: name.to_owned(),
            key: key.to_owned(),
            dtype: record.dtype().map_err(str::to_owned),
            shape: record.shape().to_vec(),
            pieces,
            file: file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        }
    }
}

/// Checks that all ranks have tensors of the same names.
pub(super) fn same_keys(ranks: &[StateDict]) -> Result<()> {
    let first: BTreeSet<&str> = ranks[0].keys().collect();
    for other in &ranks[1..] {
        let others = other.keys().collect();
        if let Some(key) = first.symmetric_difference(&others).next() {
            let found = if first.contains(key) {
                format!("none of the name {key}")
            } else {
                format!("{key}, which rank 0 lacks")
            };
            return Err(BadInput::new(other.path(), "the tensors of rank 0", found).into());
        }
    }
    Ok(())
}

/// A tensor as a format keeps it.
pub(super) enum Sharded {
    /// A tensor from each tensor-parallel rank, in rank order.
    Ranks(Vec<Strided>),
    /// The whole, put together from chunks that know their places.
    Whole(Tiled),
}

/// What a format can do.
pub(super) trait Source: Send + Sync {
    /// Every tensor of the model.
    fn list(&self) -> Vec<Listed>;

    /// A tensor by name; `None` if there is none.
    fn tensor(&self, name: &str) -> Result<Option<Sharded>>;
}

/// A tensor with its shards joined.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Its elements.
    pub tiled: Tiled,
    /// By how much ranks that should have the same values differ at most; `None` if they agree. Where
    /// they differ the tensor is their mean, taken in fp32.
    pub drift: Option<f64>,
}

impl Sharded {
    /// Joins the shards of `name`, which are divided as `partition` says.
    pub(super) fn joined(self, path: &Path, name: &str, partition: Partition) -> Result<Joined> {
        let whole = |tiled| Joined { tiled, drift: None };
        let joined = match (self, partition) {
            (Self::Whole(tiled), Partition::Gated) => {
                let rows = tiled.shape().first().copied().unwrap_or(0);
                tiled.split(0, (rows / 2).max(1)).map(whole)
            }
            (Self::Whole(tiled), _) => Ok(whole(tiled)),
            (Self::Ranks(parts), Partition::Axis(axis)) => Tiled::concat(parts, axis).map(whole),
            (Self::Ranks(parts), Partition::Gated) => gated(parts).map(whole),
            (Self::Ranks(parts), Partition::Replicated) => replicated(parts),
        };
        joined.map_err(|e| match e {
            Error::Mismatch {
                expected, found, ..
            } => BadInput::new(path, expected, found).at(name).into(),
            other => other,
        })
    }
}

fn gated(parts: Vec<Strided>) -> Result<Tiled> {
    let halves = parts.into_iter().map(|part| {
        let rows = part.shape().first().copied().unwrap_or(0);
        Tiled::one(part).split(0, (rows / 2).max(1))
    });
    let halves = halves.collect::<Result<Vec<_>>>()?;
    let parts = halves
        .into_iter()
        .flat_map(Tiled::into_tiles)
        .map(|tile| tile.part);
    Tiled::concat(parts.collect(), 1)
}

/// How far ranks' replicas of a weight may be apart, of its largest magnitude: training takes them apart in
/// real checkpoints, and no rounding bounds that.
const DRIFT: f64 = 0.5;

/// The first rank's tensor if all are equal, else their mean.
///
/// The mean is a sum in rank order and a division, both in fp32, rounded once to the storage type.
/// (In 16 bits, as transformers' script takes it, the mean of eight *equal* values already changes
/// half of them.)
fn replicated(parts: Vec<Strided>) -> Result<Joined> {
    let tensors = parts.into_iter().map(|part| Tiled::one(part).to_tensor());
    let tensors = tensors.collect::<Result<Vec<Tensor>>>()?;
    let [first, others @ ..] = tensors.as_slice() else {
        return Err(Error::Mismatch {
            at: "shards".into(),
            expected: "a tensor from every rank".into(),
            found: "none".into(),
        });
    };
    let odd = tensors
        .iter()
        .position(|other| other.dtype() != first.dtype() || other.shape() != first.shape());
    if let Some(rank) = odd {
        let said = |tensor: &Tensor| format!("{} {:?}", tensor.dtype(), tensor.shape());
        return Err(Error::Mismatch {
            at: "shards".into(),
            expected: format!("{} on every rank", said(first)),
            found: format!("{} on rank {rank}", said(&tensors[rank])),
        });
    }
    let mut drift = None;
    for (rank, other) in others.iter().enumerate() {
        if first.bits_equal(other) {
            continue;
        }
        let Replicas { apart, largest, .. } = Replicas::new(first, other)?;
        if apart > DRIFT * largest {
            return Err(Error::Mismatch {
                at: "shards".into(),
                expected: format!(
                    "replicas of one weight: rank 0's values, whose largest is {largest:.3e}, but for drift"
                ),
                found: format!("others on rank {}, up to {apart:.3e} apart", rank + 1),
            });
        }
        drift = Some(drift.unwrap_or(0.0_f64).max(apart));
    }
    let tiled = match drift {
        None => Tiled::one(first.clone()),
        Some(_) => Tiled::one(mean(&tensors)?),
    };
    Ok(Joined { tiled, drift })
}

fn mean(tensors: &[Tensor]) -> Result<Tensor> {
    let (dtype, shape) = (tensors[0].dtype(), tensors[0].shape());
    with_float!(dtype, T => {
        let slices = tensors.iter().map(Tensor::as_slice::<T>).collect::<Result<Vec<_>>>()?;
        let mean = |i: usize| {
            let sum: f32 = slices.iter().map(|slice| slice[i].to_f32()).sum();
            T::from_f32(sum / slices.len() as f32)
        };
        Tensor::from_vec(shape, (0..tensors[0].len()).map(mean).collect())
    }, else Err(Error::Mismatch {
        at: "shards".into(),
        expected: "the same integers on every rank".into(),
        found: "others".into(),
    }))
}
