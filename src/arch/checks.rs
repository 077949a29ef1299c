//! What every architecture's sizes have to be.

use crate::error::{BadInput, Result};
use crate::op::{Frequencies, RopeScaling};
use std::fmt::Display;
use std::path::Path;

/// Most blocks believed: a plan is built before any weight is looked at.
const MAX_LAYERS: usize = 2_000;
/// Most heads believed; every block may have a slope for each.
const MAX_HEADS: usize = 4_096;
/// Most experts of a block believed; published models have 512.
const MAX_EXPERTS: usize = 4_096;

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

    /// A number of experts; every one has tensors in every block.
    pub(super) fn experts(&self, key: &str, experts: usize) -> Result<()> {
        let expected = format!("at least 1 and at most {MAX_EXPERTS} experts");
        self.holds((1..=MAX_EXPERTS).contains(&experts), key, expected, experts)
    }

    /// No more than another number.
    pub(super) fn at_most(&self, key: &str, found: usize, most: usize) -> Result<()> {
        self.holds(found <= most, key, format!("at most {most}"), found)
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

    /// Rotary frequencies of heads with this many entries.
    pub(super) fn rope(&self, rope: &Frequencies, head_dim: usize) -> Result<()> {
        let fits = rope.dims.is_multiple_of(2) && (2..=head_dim).contains(&rope.dims);
        let expected = format!("an even number of the {head_dim} entries of a head");
        self.holds(fits, "rope.dims", expected, rope.dims)?;
        self.positive("rope.theta", rope.theta)?;
        match rope.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => self.positive("rope.scaling.factor", factor),
            RopeScaling::Dynamic { factor, positions } => {
                // The base's exponent has `dims − 2` below it.
                let expected = "more than two rotated entries, as dynamic scaling needs";
                self.holds(rope.dims > 2, "rope.dims", expected, rope.dims)?;
                self.size("rope.scaling.positions", positions)?;
                self.positive("rope.scaling.factor", factor)
            }
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                positions,
            } => {
                self.size("rope.scaling.positions", positions)?;
                self.positive("rope.scaling.factor", factor)?;
                self.positive("rope.scaling.low", low)?;
                let expected = format!("a number above the low factor {low}");
                let above = high > low && high.is_finite();
                self.holds(above, "rope.scaling.high", expected, high)
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                positions,
                attention,
                ..
            } => {
                self.size("rope.scaling.positions", positions)?;
                self.positive("rope.scaling.factor", factor)?;
                self.positive("rope.scaling.beta_fast", beta_fast)?;
                self.positive("rope.scaling.beta_slow", beta_slow)?;
                self.positive("rope.scaling.attention", attention)
            }
        }
    }

    /// A number above 0.
    pub(super) fn positive(&self, key: &str, number: f64) -> Result<()> {
        // Frameworks compute with it in fp32.
        let narrow = number as f32;
        let usable = narrow > 0.0 && narrow.is_finite();
        self.holds(usable, key, "a number above 0 that fp32 holds", number)
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
