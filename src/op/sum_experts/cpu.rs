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
