//! How far rotated pairs may be off.

use super::Rotary;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, U};

impl Bounded for Rotary {
    /// `a·cos ∓ b·sin`: what the operands are off by, times each other; in units of `u`, products and
    /// sum by 1 each where they may be contracted.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let &[_, heads, positions, head_dim] = of.inputs[0].shape else {
            unreachable!("the step's shape was checked");
        };
        let each = of.eager_roundoff();
        let (x, join) = (&of.inputs[0], |a, b| of.confidence.join(a, b));
        Ok(of.rows(head_dim.max(1), |row, emit| {
            for place in self.dims..head_dim {
                let [rounding, std] = x.element(row * head_dim + place).1;
                emit(place, rounding, std);
            }
            let token = row / (heads * positions) * positions + row % positions;
            for pair in 0..self.dims / 2 {
                let places = self.pair(pair);
                let [a, b] = places.map(|place| x.element(row * head_dim + place));
                let columns = self.columns(pair).map(|column| token * self.dims + column);
                let turned = [(a, b), (b, a)].into_iter().zip(columns);
                for (place, ((p, q), column)) in places.into_iter().zip(turned) {
                    let [cos, sin] = [1, 2].map(|input| of.inputs[input].element(column));
                    let (mut rounding, mut std, mut size) = (0.0, 0.0, 0.0);
                    for ((value, of_value), (turn, of_turn)) in [(p, cos), (q, sin)] {
                        let product = (value * turn).abs();
                        rounding += of_value[0] * turn.abs() + of_turn[0] * value.abs();
                        let stds = join(of_value[1] * turn.abs(), of_turn[1] * value.abs());
                        std = join(std, join(stds, U * product));
                        size += product;
                    }
                    emit(place, rounding + each * size, join(std, U * size));
                }
            }
        }))
    }
}
