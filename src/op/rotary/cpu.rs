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

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>> {
        let shape = arguments.inputs[0].shape();
        Ok(rotary(arguments.input(0)?, shape, self, rounding))
    }
}

/// x of shape `[b, n, s, d]`. Angles, sines and cosines are fp32 (the functions evaluated in fp64 by
/// a software library, the same on every machine); `a·cos − b·sin` and `b·cos + a·sin` in fp32,
/// rounded once; or with [`Rounding::EachOperation`] sine, cosine, both products and the sum are
/// rounded to the storage type.
fn rotary<T: Float>(x: &[T], shape: &[usize], rotary: &Rotary, rounding: Rounding) -> Vec<T> {
    let &[_, _, positions, head_dim] = shape else {
        unreachable!("the step's shape was checked");
    };
    let mut out = x.to_vec();
    if out.is_empty() {
        return out;
    }
    let round = |value: f32| match rounding {
        Rounding::Once => value,
        Rounding::EachOperation => T::from_f32(value).to_f32(),
    };
    out.par_chunks_mut(head_dim)
        .enumerate()
        .for_each(|(row, out)| {
            for pair in 0..rotary.dims / 2 {
                let angle = f64::from(rotary.angle_f32(row % positions, pair));
                let [sin, cos] = [libm::sin(angle), libm::cos(angle)].map(|x| round(x as f32));
                let [first, second] = rotary.pair(pair);
                let [a, b] = [out[first].to_f32(), out[second].to_f32()];
                out[first] = T::from_f32(round(a * cos) - round(b * sin));
                out[second] = T::from_f32(round(b * cos) + round(a * sin));
            }
        });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::RotaryPairs;

    #[test]
    fn a_quarter_turn_moves_entries_to_their_partners() {
        let quarter = Rotary {
            theta: 1.0,
            scaling: 1.0 / std::f64::consts::FRAC_PI_2,
            offset: 0,
            dims: 4,
            pairs: RotaryPairs::Halves,
        };
        let x = [9.0_f32, 9.0, 9.0, 9.0, 7.0, 1.0, 2.0, 3.0, 4.0, 8.0];
        let turned = rotary(&x, &[1, 1, 2, 5], &quarter, Rounding::Once);
        // Position 0 and what is not rotated stay.
        assert_eq!(turned[..5], x[..5]);
        approx::assert_abs_diff_eq!(turned[5..], [-3.0, -4.0, 1.0, 2.0, 8.0], epsilon = 1e-6);
        let interleaved = Rotary {
            pairs: RotaryPairs::Interleaved,
            ..quarter
        };
        let turned = rotary(&x, &[1, 1, 2, 5], &interleaved, Rounding::Once);
        approx::assert_abs_diff_eq!(turned[5..], [-2.0, 1.0, -4.0, 3.0, 8.0], epsilon = 1e-6);
    }
}
