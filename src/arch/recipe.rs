//! What a conversion does, as data.

use crate::checkpoint::megatron::Partition;
use crate::error::Result;
use crate::tensor::Tiled;
use serde_json::{Map, Value};
use std::ops::Range;

/// How a model of transformers is made of a Megatron checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// The settings of `config.json`, without the storage type.
    pub config: Map<String, Value>,
    /// Every tensor, in the order of the model.
    pub tensors: Vec<TensorRecipe>,
    /// Tensors that a checkpoint may have a second time, made as the ones of their targets' names: they have to
    /// be equal.
    pub copies: Vec<TensorRecipe>,
    /// What a user should know about the conversion.
    pub notes: Vec<String>,
}

/// How one tensor is made.
#[derive(Clone, Debug)]
pub struct TensorRecipe {
    /// Its name in transformers' model, in full.
    pub target: String,
    /// Megatron's name of the tensor it is made of.
    pub source: String,
    /// How ranks divide the source.
    pub partition: Partition,
    /// Shape of the source with its shards joined.
    pub joined: Vec<usize>,
    /// What is done to the axes, in order.
    pub relayout: Vec<Relayout>,
    /// Shape of the result: the axes that are left, neighbours joined where the model has one axis.
    pub shape: Vec<usize>,
    /// Whether the source holds a norm's weight less one.
    pub zero_centred: bool,
    /// Whether it keeps its type, whatever type the model is written in.
    pub keeps_type: bool,
}

/// A move of axes. None touches an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relayout {
    /// An axis becomes two, the second of this extent.
    Split {
        /// Which one.
        axis: usize,
        /// Extent of the second.
        inner: usize,
    },
    /// Only a range of an axis is kept.
    Keep {
        /// Which one.
        axis: usize,
        /// What is kept of it.
        range: Range<usize>,
    },
    /// Axis `i` of the result is the axis given at `i`.
    Permute(Vec<usize>),
}

impl Relayout {
    /// Applies the move.
    ///
    /// # Errors
    /// [`Mismatch`](crate::Error::Mismatch) if the array lacks the axes it asks for.
    pub(crate) fn apply(&self, tiled: Tiled) -> Result<Tiled> {
        match self {
            Self::Split { axis, inner } => tiled.split(*axis, *inner),
            Self::Keep { axis, range } => tiled.narrowed(*axis, range.clone()),
            Self::Permute(axes) => Ok(tiled.permuted(axes)),
        }
    }
}

impl TensorRecipe {
    /// A tensor that is its source, shards joined.
    pub(super) fn plain(
        target: impl Into<String>,
        source: impl Into<String>,
        partition: Partition,
        shape: &[usize],
    ) -> Self {
        Self {
            target: target.into(),
            source: source.into(),
            partition,
            joined: shape.to_vec(),
            relayout: Vec::new(),
            shape: shape.to_vec(),
            zero_centred: false,
            keeps_type: false,
        }
    }

    /// The same of a source that holds a norm's weight less one, if it does.
    pub(super) fn less_one(self, zero_centred: bool) -> Self {
        Self {
            zero_centred,
            ..self
        }
    }

    /// The same, in its own type.
    pub(super) fn of_its_type(self) -> Self {
        Self {
            keeps_type: true,
            ..self
        }
    }

    /// The same, of another shape by these moves.
    pub(super) fn by(self, relayout: Vec<Relayout>, shape: &[usize]) -> Self {
        Self {
            relayout,
            shape: shape.to_vec(),
            ..self
        }
    }

    /// Only the first rows: a vocabulary without its padding.
    pub(super) fn first_rows(self, rows: usize) -> Self {
        if self.joined[0] == rows {
            return self;
        }
        let mut shape = self.joined.clone();
        shape[0] = rows;
        let keep = Relayout::Keep {
            axis: 0,
            range: 0..rows,
        };
        self.by(vec![keep], &shape)
    }

    /// A matrix as a `Conv1D` has it: `[in, out]`.
    pub(super) fn transposed(self) -> Self {
        let shape = [self.joined[1], self.joined[0]];
        self.by(vec![Relayout::Permute(vec![1, 0])], &shape)
    }
}

/// The entries of a JSON object.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
