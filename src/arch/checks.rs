//! What every architecture's sizes have to be.

use crate::error::{BadInput, Result};
use std::fmt::Display;
use std::path::Path;

/// Most blocks believed: a plan is built before any weight is looked at.
const MAX_LAYERS: usize = 2_000;
/// Most heads believed; every block may have a slope for each.
const MAX_HEADS: usize = 4_096;

/// Checks of a config's values, with errors that name the key.
pub(crate) struct Checks<'a> {
    file: &'a Path,
}

impl<'a> Checks<'a> {
    /// Checks of values that come from `file`.
    pub(super) fn new(file: &'a Path) -> Self {
        Self { file }
    }

    /// A size. Four times a size must still be a size.
    pub(super) fn size(&self, key: &str, size: usize) -> Result<()> {
        let usable = (1..=u32::MAX as usize).contains(&size);
        self.holds(usable, key, "a size of at least 1 and below 2^32", size)
    }

    /// A number of blocks.
    pub(super) fn layers(&self, key: &str, layers: usize) -> Result<()> {
        let expected = format!("at most {MAX_LAYERS} blocks");
        self.holds(layers <= MAX_LAYERS, key, expected, layers)
    }

    /// A number of heads, which is a size already.
    pub(super) fn heads(&self, key: &str, heads: usize) -> Result<()> {
        let expected = format!("at most {MAX_HEADS} heads");
        self.holds(heads <= MAX_HEADS, key, expected, heads)
    }

    /// A divisor of another size.
    pub(super) fn divides(&self, key: &str, divisor: usize, of: (&str, usize)) -> Result<()> {
        let (of, size) = of;
        let expected = format!("a divisor of {of} {size}");
        self.holds(size.is_multiple_of(divisor), key, expected, divisor)
    }

    /// What is added to a variance.
    pub(super) fn epsilon(&self, key: &str, epsilon: f64) -> Result<()> {
        let usable = epsilon >= 0.0 && epsilon.is_finite();
        self.holds(usable, key, "a number not below 0", epsilon)
    }

    fn holds(
        &self,
        holds: bool,
        key: &str,
        expected: impl Into<String>,
        found: impl Display,
    ) -> Result<()> {
        if holds {
            return Ok(());
        }
        let fault = BadInput::new(self.file, expected, found.to_string());
        Err(fault.at(key).into())
    }
}
