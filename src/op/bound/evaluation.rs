//! From error bounds of operands to those of a result.

use super::error_bound::Storage;
use super::operand::{Operand, Wide};
use super::{Confidence, ErrorBound};
use crate::error::Result;
use crate::op::tensor_core::MmaUnit;
use crate::op::{Numerics, Rounding, Summation};
use crate::tensor::Tensor;
use rayon::prelude::*;

/// An operation that was carried out.
pub(crate) struct Evaluation<'a> {
    pub(in crate::op) inputs: Vec<Wide<'a>>,
    pub(in crate::op) params: Vec<Wide<'a>>,
    pub(in crate::op) output: Wide<'a>,
    pub(in crate::op) confidence: Confidence,
    numerics: Numerics,
}

impl<'a> Evaluation<'a> {
    pub(in crate::op) fn new(
        numerics: Numerics,
        inputs: &[Operand<'a>],
        params: &[Operand<'a>],
        output: &'a Tensor,
        confidence: Confidence,
    ) -> Result<Self> {
        Ok(Self {
            inputs: inputs.iter().map(Wide::new).collect::<Result<_>>()?,
            params: params.iter().map(Wide::new).collect::<Result<_>>()?,
            output: Wide::new(&Operand::given(output))?,
            confidence,
            numerics,
        })
    }

    /// The unit that computed the products, if it is a tensor core.
    pub(in crate::op) fn tensor_core(&self) -> Option<MmaUnit> {
        match self.numerics.summation {
            Summation::TensorCore(unit) => Some(unit),
            _ => None,
        }
    }

    /// Unit roundoff of the type that the result is stored in.
    pub(in crate::op) fn storage_roundoff(&self) -> f64 {
        self.numerics.out.unit_roundoff().unwrap_or(0.0)
    }

    /// Unit roundoff of the type that every single operation is rounded to; 0 if none is.
    pub(in crate::op) fn eager_roundoff(&self) -> f64 {
        match self.numerics.rounding {
            Rounding::Once => 0.0,
            Rounding::EachOperation => self.storage_roundoff(),
        }
    }

    /// `of(index)` gives rounding and standard deviation of an element before it is stored.
    pub(in crate::op) fn each(&self, of: impl Fn(usize) -> [f64; 2] + Sync) -> ErrorBound {
        const CHUNK: usize = 1 << 14;
        self.grid(CHUNK, |chunk, offset, _| of(chunk * CHUNK + offset))
    }

    /// `of(row, column, value)` gives rounding and standard deviation of an element before it is
    /// stored.
    pub(in crate::op) fn grid(
        &self,
        width: usize,
        of: impl Fn(usize, usize, f64) -> [f64; 2] + Sync,
    ) -> ErrorBound {
        self.filled(width, |row, to| {
            for column in 0..to.values.len() {
                let [rounding, std] = of(row, column, to.values[column].into());
                to.put(column, rounding, std);
            }
        })
    }

    /// `of(row, emit)` emits offset, rounding and standard deviation of the elements of a row before
    /// they are stored; what it leaves out is exactly 0.
    pub(in crate::op) fn rows(
        &self,
        width: usize,
        of: impl Fn(usize, &mut dyn FnMut(usize, f64, f64)) + Sync,
    ) -> ErrorBound {
        self.filled(width, |row, to| {
            of(row, &mut |offset, rounding, std| {
                to.put(offset, rounding, std)
            });
        })
    }

    /// Fills rows in parallel.
    fn filled(&self, width: usize, fill: impl Fn(usize, &mut Elements<'_>) + Sync) -> ErrorBound {
        let mut all = ErrorBound::zero(self.output.values.len());
        if all.is_empty() {
            return all;
        }
        let storage = Storage::new(self.numerics.out);
        all.rounding
            .par_chunks_mut(width)
            .zip(all.std.par_chunks_mut(width))
            .zip(self.output.values.par_chunks(width))
            .enumerate()
            .for_each(|(row, ((roundings, stds), values))| {
                let mut elements = Elements {
                    storage,
                    values,
                    roundings,
                    stds,
                };
                fill(row, &mut elements);
            });
        all
    }
}

/// Elements of a result, whose error bounds are filled in.
struct Elements<'a> {
    storage: Storage,
    values: &'a [f32],
    roundings: &'a mut [f32],
    stds: &'a mut [f32],
}

impl Elements<'_> {
    /// Takes what an element may be off by before it is stored.
    #[inline(always)]
    fn put(&mut self, offset: usize, rounding: f64, std: f64) {
        let stored = self.storage.rounding(self.values[offset].into());
        self.roundings[offset] = (rounding + stored) as f32;
        self.stds[offset] = std as f32;
    }
}
