//! Products with experts' weights in fp64.

use super::ExpertLinear;
use crate::error::Result;
use crate::op::choice::choice_of;
use crate::op::{Arguments, Fp64Kernel};
use rayon::prelude::*;

impl Fp64Kernel for ExpertLinear {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let x = arguments.input::<f64>(0)?;
        let experts = arguments.params.len();
        let choice = choice_of(arguments.inputs[1], experts)?;
        let sizes = self.sizes(arguments.inputs[1].shape(), arguments.params[0].shape());
        let weights = (0..experts).map(|expert| arguments.param::<f64>(expert));
        let weights = weights.collect::<Result<Vec<_>>>()?;
        let length = sizes.width / self.parts;
        let mut result = vec![0.0; choice.len() * self.parts * sizes.out];
        if result.is_empty() {
            return Ok(result);
        }
        let of_token = self.parts * sizes.chosen * sizes.out;
        result
            .par_chunks_mut(of_token)
            .enumerate()
            .for_each(|(token, result)| {
                let first = token * sizes.chosen;
                for place in first..first + sizes.chosen {
                    let row = sizes.row(place);
                    let x = &x[row * sizes.width..(row + 1) * sizes.width];
                    for part in 0..self.parts {
                        let range = part * length..(part + 1) * length;
                        let at = sizes.result(place, part, self.parts) - token * of_token;
                        let weight = weights[choice[place]].chunks(sizes.width);
                        for (to, weight) in result[at..].iter_mut().zip(weight) {
                            let terms = x[range.clone()].iter().zip(&weight[range.clone()]);
                            *to = terms.map(|(x, w)| x * w).sum();
                        }
                    }
                }
            });
        Ok(result)
    }
}
