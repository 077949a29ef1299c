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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Linear, Partials};
    use crate::tensor::Tensor;
    use proptest::prelude::*;

    fn drawn(shape: &[usize], seed: u32) -> Tensor {
        let mut state = seed;
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        });
        Tensor::from_vec(shape, values.collect::<Vec<f32>>()).unwrap()
    }

    proptest! {
        /// What an expert gives a token has the bits that a linear layer of its own would give it, whoever else was
        /// routed to it; a sum in parts has those of the parts.
        #[test]
        fn an_expert_is_a_linear_layer(tokens in 1_usize..9, parts in 1_usize..3, seed: u32) {
            let (experts, chosen, width, out) = (4, 2, 6 * parts, 5);
            let x = drawn(&[1, tokens, width], seed);
            let weights: Vec<Tensor> =
                (0..experts).map(|number| drawn(&[out, width], seed ^ (number as u32 + 1))).collect();
            let choice: Vec<f32> = (0..tokens)
                .flat_map(|token| {
                    let first = (seed as usize >> (token % 16)) % (experts - 1);
                    [first as f32, (first + 1) as f32]
                })
                .collect();
            let choice = Tensor::from_vec(&[1, tokens, chosen], choice).unwrap();
            let params: Vec<&Tensor> = weights.iter().collect();
            let op = ExpertLinear { of_choices: false, parts };
            let arguments = Arguments { inputs: &[&x, &choice], params: &params };
            let found: Vec<f32> = op.cpu(&arguments, Rounding::Once).unwrap();
            let numbers = choice_of(&choice, experts).unwrap();
            for (place, expert) in numbers.into_iter().enumerate() {
                let (token, number) = (place / chosen, place % chosen);
                let row = x.slice(1, token..token + 1).unwrap();
                for part in 0..parts {
                    let range = part * 6..(part + 1) * 6;
                    let row = row.slice(2, range.clone()).unwrap();
                    let weight = weights[expert].slice(1, range).unwrap();
                    let alone = Linear { bias: false, partials: Partials::ONE };
                    let arguments = Arguments { inputs: &[&row], params: &[&weight] };
                    let alone: Vec<f32> = alone.cpu(&arguments, Rounding::Once).unwrap();
                    let at = ((token * parts + part) * chosen + number) * out;
                    prop_assert_eq!(&found[at..at + out], &alone);
                }
            }
        }
    }
}
