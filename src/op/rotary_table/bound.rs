//! How far cosines and sines may be off.

use super::{Frequencies, RotaryTable};
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, U};

impl Bounded for RotaryTable {
    /// In units of `u`: the angle is off by 1 for its own rounding and by what its frequency may be off;
    /// the function by 4 (CUDA: 2 ulp), its product with the attention factor by 1.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let (frequencies, positions) = self.read(of.inputs[0].tensor)?;
        let (factor, pairs) = (f64::from(self.factor()), frequencies.len().max(1));
        let join = |a, b| of.confidence.join(a, b);
        Ok(of.grid(self.frequencies.dims.max(1), |row, column, value| {
            let angle = f64::from(positions[row]) * f64::from(frequencies[column % pairs]);
            let of_angle = (1.0 + Frequencies::ERROR) * angle.abs() * self.function.slope(angle);
            let of_function = join(4.0, if factor == 1.0 { 0.0 } else { 1.0 }) * value.abs();
            [0.0, U * join(factor * of_angle, of_function)]
        }))
    }
}
