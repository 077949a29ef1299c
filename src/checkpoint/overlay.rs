//! Weights of which some are others.

use super::{Stored, Weights};
use crate::error::Result;
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// A source of weights with some of its tensors replaced, and some added, in memory.
pub struct Overlay {
    under: Box<dyn Weights>,
    over: BTreeMap<String, Tensor>,
}

impl Overlay {
    /// `over` in place of what `under` has of the same names.
    pub fn new(under: Box<dyn Weights>, over: BTreeMap<String, Tensor>) -> Self {
        Self { under, over }
    }
}

impl Weights for Overlay {
    fn names(&self) -> Vec<&str> {
        let mut names = self.under.names();
        names.extend(self.over.keys().map(String::as_str));
        names.sort_unstable();
        names.dedup();
        names
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        match self.over.get(name) {
            None => self.under.stored(name),
            Some(tensor) => Some(Stored {
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
                file: "memory".into(),
            }),
        }
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        match self.over.get(name) {
            None => self.under.load(name),
            Some(tensor) => Ok(tensor.clone()),
        }
    }
}
