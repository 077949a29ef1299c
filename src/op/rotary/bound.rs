//! How far rotated pairs may be off.

use super::Rotary;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, U};

impl Bounded for Rotary {
    /// `a·cos − b·sin`: in units of `u`, sine and cosine are off by 4 (CUDA: 2 ulp) and by what the
    /// angle is off by, products and sum by 1 each.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let &[_, _, positions, head_dim] = of.inputs[0].shape else {
            unreachable!("the step's shape was checked");
        };
        let each = of.eager_roundoff();
        let (x, join) = (&of.inputs[0], |a, b| of.confidence.join(a, b));
        Ok(of.rows(head_dim, |row, emit| {
            for place in self.dims..head_dim {
                let [rounding, std] = x.element(row * head_dim + place).1;
                emit(place, rounding, std);
            }
            for pair in 0..self.dims / 2 {
                let places = self.pair(pair);
                let [a, b] = places.map(|place| x.element(row * head_dim + place));
                let angle = self.angle(row % positions, pair);
                let (sin, cos) = (angle.sin(), angle.cos());
                let of_angle = self.angle_error(pair) * angle.abs();
                for (place, [p, q]) in places.into_iter().zip([[a, b], [b, a]]) {
                    // p·cos ∓ q·sin
                    let turned = |of_p: f64, of_q: f64| [of_p * cos.abs(), of_q * sin.abs()];
                    let sizes = turned(p.0.abs(), q.0.abs());
                    let slope = (p.0 * sin).abs() + (q.0 * cos).abs();
                    let rounding: f64 = turned(p.1[0], q.1[0]).iter().sum();
                    let stds = turned(p.1[1], q.1[1]);
                    let functions = 5.0 * join(sizes[0], sizes[1]);
                    let own = U * join(join(of_angle * slope, functions), sizes[0]);
                    let std = join(join(stds[0], stds[1]), own);
                    // Sine, cosine and both products are rounded.
                    emit(place, rounding + each * 2.0 * (sizes[0] + sizes[1]), std);
                }
            }
        }))
    }
}
