//! Sums of experts on the CPU.

use super::SumExperts;
use crate::error::Result;
use crate::op::choice::choice_of;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;
use rayon::prelude::*;

impl CpuKernel for SumExperts {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    /// In fp32 in the order of the choice, rounded after every addition or once a rank; ranks' sums in fp32,
    /// rounded once.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>> {
        let x = arguments.widened(0)?;
        let choice = choice_of(arguments.inputs[1], self.experts)?;
        let chosen = arguments.inputs[1].row_len();
        let width = arguments.inputs[0].row_len();
        if x.is_empty() || choice.is_empty() {
            return Ok(Vec::new());
        }
        let round = |value: f32| T::from_f32(value).to_f32();
        let columns = width / (chosen * self.parts);
        let tokens = x.par_chunks(width).zip(choice.par_chunks(chosen));
        let sums = tokens.flat_map_iter(|(x, choice)| {
            let terms = self.terms(choice);
            (0..columns).map(move |column| {
                let of_rank = |terms: &Vec<usize>| {
                    let values = terms.iter().map(|term| x[term * columns + column]);
                    round(values.fold(0.0, |sum, value| match rounding {
                        Rounding::EachOperation => round(sum + value),
                        Rounding::Once => sum + value,
                    }))
                };
                let sums = terms.of_ranks.iter().map(of_rank);
                T::from_f32(sums.sum::<f32>())
            })
        });
        Ok(sums.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;
    use half::bf16;

    #[test]
    fn sums_are_rounded_where_the_framework_rounds() {
        // 1 + 2^-9 rounds to 1: one after the other the small ones are lost, in one sum they are half an ulp and more.
        let small = 0.5_f32.powi(9);
        let x = [1.0, small, small, small].map(bf16::from_f32);
        let x = Tensor::from_vec(&[1, 1, 4], x.to_vec()).unwrap();
        let choice = Tensor::from_vec(&[1, 1, 4], vec![0.0_f32, 1.0, 2.0, 3.0]).unwrap();
        let of = |rounding, ranks| {
            let op = SumExperts {
                parts: 1,
                ranks,
                experts: 4,
            };
            let arguments = Arguments {
                inputs: &[&x, &choice],
                params: &[],
            };
            let sum: Vec<bf16> = op.cpu(&arguments, rounding).unwrap();
            sum[0].to_f32()
        };
        assert_eq!(of(Rounding::EachOperation, 1), 1.0);
        assert_eq!(of(Rounding::Once, 1), 1.0 + 0.5_f32.powi(7));
        // The first rank's sum is rounded to 1, the second's is 2^-8: half an ulp of 1, to even.
        assert_eq!(of(Rounding::Once, 2), 1.0);
    }
}
