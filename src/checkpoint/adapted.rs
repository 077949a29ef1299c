//! Weights as a plan wants them.

use super::{Stored, Weights};
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// A source of weights that are changed as they are loaded: stored with their axes in another order,
/// cut to a vocabulary without its padding, cast to another type.
pub struct Adapted<'a> {
    under: Box<dyn Weights + 'a>,
    transposed: BTreeSet<String>,
    first_rows: BTreeMap<String, usize>,
    dtype: Option<DType>,
    kept: BTreeSet<String>,
}

impl<'a> Adapted<'a> {
    /// The weights as they are.
    pub fn new(under: Box<dyn Weights + 'a>) -> Self {
        Self {
            under,
            transposed: BTreeSet::new(),
            first_rows: BTreeMap::new(),
            dtype: None,
            kept: BTreeSet::new(),
        }
    }

    /// With the axes of these matrices swapped.
    #[must_use]
    pub fn transposed(self, transposed: BTreeSet<String>) -> Self {
        Self { transposed, ..self }
    }

    /// With only the first rows of these tensors.
    #[must_use]
    pub fn first_rows(self, first_rows: BTreeMap<String, usize>) -> Self {
        Self { first_rows, ..self }
    }

    /// With every tensor rounded to this type, as `from_pretrained(dtype=…)` does.
    #[must_use]
    pub fn cast(self, dtype: DType) -> Self {
        let dtype = Some(dtype);
        Self { dtype, ..self }
    }

    /// But these, which keep their own.
    #[must_use]
    pub fn keeping(self, kept: BTreeSet<String>) -> Self {
        Self { kept, ..self }
    }

    /// The type that a tensor is rounded to.
    fn cast_to(&self, name: &str) -> Option<DType> {
        self.dtype.filter(|_| !self.kept.contains(name))
    }
}

impl Weights for Adapted<'_> {
    fn names(&self) -> Vec<&str> {
        self.under.names()
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        let mut stored = self.under.stored(name)?;
        if self.transposed.contains(name) {
            stored.shape.reverse();
        }
        if let (Some(rows), Some(extent)) = (self.first_rows.get(name), stored.shape.first_mut()) {
            *extent = (*extent).min(*rows);
        }
        if let Some(dtype) = self
            .cast_to(name)
            .filter(|_| stored.dtype.float().is_some())
        {
            stored.dtype = dtype;
        }
        Some(stored)
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        let mut tensor = self.under.load(name)?;
        if self.transposed.contains(name) {
            let axes: Vec<usize> = (0..tensor.shape().len()).rev().collect();
            tensor = tensor.permuted(&axes);
        }
        if let Some(rows) = self.first_rows.get(name)
            && tensor.shape().first().is_some_and(|extent| extent > rows)
        {
            tensor = tensor.first(0, *rows)?;
        }
        match self
            .cast_to(name)
            .filter(|_| tensor.dtype().float().is_some())
        {
            Some(dtype) => tensor.cast(dtype),
            None => Ok(tensor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Overlay;
    use half::bf16;

    struct Nothing;

    impl Weights for Nothing {
        fn names(&self) -> Vec<&str> {
            Vec::new()
        }
        fn stored(&self, _: &str) -> Option<Stored> {
            None
        }
        fn load(&self, name: &str) -> Result<Tensor> {
            Err(crate::error::BadInput::new("memory", name, "nothing").into())
        }
    }

    #[test]
    fn weights_are_changed_as_they_are_loaded() {
        let matrix = Tensor::from_vec(&[2, 3], vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let under = Overlay::new(Box::new(Nothing), [("w".to_owned(), matrix)].into());
        let adapted = Adapted::new(Box::new(under))
            .transposed(["w".to_owned()].into())
            .first_rows([("w".to_owned(), 2)].into())
            .cast(DType::Bf16);
        let stored = adapted.stored("w").unwrap();
        assert_eq!(
            (stored.shape.as_slice(), stored.dtype),
            ([2, 2].as_slice(), DType::Bf16)
        );
        let loaded = adapted.load("w").unwrap();
        assert_eq!(loaded.shape(), [2, 2]);
        let expected = [1.0, 4.0, 2.0, 5.0].map(bf16::from_f32);
        assert_eq!(loaded.as_slice::<bf16>().unwrap(), expected);
    }
}
