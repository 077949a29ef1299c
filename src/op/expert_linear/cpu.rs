//! Products with experts' weights on the CPU.

use super::ExpertLinear;
use crate::error::Result;
use crate::op::choice::{choice_of, places_of};
use crate::op::linear::each_sum;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;

impl CpuKernel for ExpertLinear {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics.in_own_order() == Numerics::product(numerics.out)
    }

    /// An expert at a time, of all rows that it was chosen for: sums in fp32 as of a linear layer, each rounded.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        let x = arguments.input::<T>(0)?;
        let experts = arguments.params.len();
        let choice = choice_of(arguments.inputs[1], experts)?;
        let sizes = self.sizes(arguments.inputs[1].shape(), arguments.params[0].shape());
        let (width, out) = (sizes.width, sizes.out);
        let mut result = vec![T::zeroed(); choice.len() * self.parts * out];
        if width == 0 || out == 0 {
            return Ok(result);
        }
        for (expert, places) in places_of(&choice, experts).into_iter().enumerate() {
            if places.is_empty() {
                continue;
            }
            let weight = arguments.param::<T>(expert)?;
            let rows = places.iter().map(|place| sizes.row(*place));
            let rows: Vec<T> = rows
                .flat_map(|row| &x[row * width..(row + 1) * width])
                .copied()
                .collect();
            let length = width / self.parts;
            for part in 0..self.parts {
                let sums = each_sum(
                    &cut(&rows, width, part * length, length),
                    &cut(weight, width, part * length, length),
                    length,
                    1,
                    T::zeroed(),
                    |_, _, sum| T::from_f32(sum[0]),
                );
                for (place, sums) in places.iter().zip(sums.chunks(out)) {
                    let at = sizes.result(*place, part, self.parts);
                    result[at..at + out].copy_from_slice(sums);
                }
            }
        }
        Ok(result)
    }
}

/// Some columns of all rows.
fn cut<T: Float>(
    rows: &[T],
    width: usize,
    from: usize,
    length: usize,
) -> std::borrow::Cow<'_, [T]> {
    if length == width {
        return rows.into();
    }
    let rows = rows.chunks(width);
    let cut: Vec<T> = rows
        .flat_map(|row| &row[from..from + length])
        .copied()
        .collect();
    cut.into()
}
