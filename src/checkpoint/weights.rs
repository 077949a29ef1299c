//! What every source of weights can do.

use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// What is known of a stored tensor without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Storage type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Name of the file that holds it, for messages.
    pub file: String,
}

/// A checkpoint in the converted model's names, without the model prefix.
pub trait Weights: Send + Sync {
    /// The names of all tensors, in order.
    fn names(&self) -> Vec<&str>;

    /// What is stored under a name.
    fn stored(&self, name: &str) -> Option<Stored>;

    /// Reads one tensor; mapped where the source can.
    ///
    /// # Errors
    /// If there is no such tensor or its bytes cannot be had.
    fn load(&self, name: &str) -> Result<Tensor>;
}

impl<W: Weights + ?Sized> Weights for &W {
    fn names(&self) -> Vec<&str> {
        (**self).names()
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        (**self).stored(name)
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        (**self).load(name)
    }
}
