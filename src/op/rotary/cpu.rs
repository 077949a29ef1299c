//! Rotary position embeddings on the CPU.

use super::Rotary;
use crate::error::Result;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;
use rayon::prelude::*;

impl CpuKernel for Rotary {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    /// Products and sums in fp32, rounded once; or with [`Rounding::EachOperation`] both products and
    /// the sum are rounded to the storage type.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>> {
        let &[_, heads, positions, head_dim] = arguments.inputs[0].shape() else {
            unreachable!("the step's shape was checked");
        };
        let mut out = arguments.input::<T>(0)?.to_vec();
        if out.is_empty() || self.dims == 0 {
            return Ok(out);
        }
        let [cos, sin] = [arguments.input::<T>(1)?, arguments.input(2)?];
        let round = |value: f32| match rounding {
            Rounding::Once => value,
            Rounding::EachOperation => T::from_f32(value).to_f32(),
        };
        out.par_chunks_mut(head_dim)
            .enumerate()
            .for_each(|(row, out)| {
                let token = row / (heads * positions) * positions + row % positions;
                let table = token * self.dims..(token + 1) * self.dims;
                let [cos, sin] = [&cos[table.clone()], &sin[table]];
                for pair in 0..self.dims / 2 {
                    let [first, second] = self.pair(pair);
                    let [a, b] = [out[first].to_f32(), out[second].to_f32()];
                    let [one, other] = self.columns(pair);
                    let turned = |along: f32, across: f32, column: usize| {
                        let [cos, sin] = [cos[column].to_f32(), sin[column].to_f32()];
                        T::from_f32(round(along * cos) + round(across * sin))
                    };
                    out[first] = turned(a, -b, one);
                    out[second] = turned(b, a, other);
                }
            });
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::RotaryPairs;
    use crate::tensor::Tensor;

    #[test]
    fn a_quarter_turn_moves_entries_to_their_partners() {
        let quarter = Rotary {
            dims: 4,
            pairs: RotaryPairs::Halves,
        };
        let x = [9.0_f32, 9.0, 9.0, 9.0, 7.0, 1.0, 2.0, 3.0, 4.0, 8.0];
        let of =
            |shape: &[usize], values: &[f32]| Tensor::from_vec(shape, values.to_vec()).unwrap();
        let (input, table) = (of(&[1, 1, 2, 5], &x), [1, 2, 4]);
        // Not at all at position 0, and by a quarter at position 1.
        let cos = of(&table, &[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let sin = of(&table, &[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        let arguments = Arguments {
            inputs: &[&input, &cos, &sin],
            params: &[],
        };
        let turned: Vec<f32> = quarter.cpu(&arguments, Rounding::Once).unwrap();
        assert_eq!(turned[..5], x[..5]);
        assert_eq!(turned[5..], [-3.0, -4.0, 1.0, 2.0, 8.0]);
        let interleaved = Rotary {
            pairs: RotaryPairs::Interleaved,
            ..quarter
        };
        let turned: Vec<f32> = interleaved.cpu(&arguments, Rounding::Once).unwrap();
        assert_eq!(turned[5..], [-2.0, 1.0, -4.0, 3.0, 8.0]);
    }
}
