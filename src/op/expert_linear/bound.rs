//! How far products with experts' weights may be off.

use super::ExpertLinear;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, Sums};
use crate::op::choice::{choice_of, places_of};

impl Bounded for ExpertLinear {
    /// Sums of products, an expert at a time.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let (x, choice) = (&of.inputs[0], &of.inputs[1]);
        let experts = of.params.len();
        let sizes = self.sizes(choice.shape, of.params[0].shape);
        let choice = choice_of(choice.tensor, experts)?;
        let mut of_places = vec![[0.0_f64; 2]; choice.len() * self.parts * sizes.out];
        let length = sizes.width / self.parts;
        for (expert, places) in places_of(&choice, experts).into_iter().enumerate() {
            if places.is_empty() {
                continue;
            }
            let rows: Vec<usize> = places.iter().map(|place| sizes.row(*place)).collect();
            let rows = x.gathered(&rows, sizes.width);
            for part in 0..self.parts {
                let columns = part * length..(part + 1) * length;
                let weight = of.params[expert].matrix(0, [sizes.out, sizes.width]);
                let sums = Sums::new(
                    rows.matrix(places.len()).columns(columns.clone()),
                    weight.columns(columns),
                    of.confidence,
                    of.tensor_core(),
                );
                for (row, place) in places.iter().enumerate() {
                    let at = sizes.result(*place, part, self.parts);
                    for column in 0..sizes.out {
                        let y = of.output.values[at + column].into();
                        of_places[at + column] = sums.at([row, column], y, length);
                    }
                }
            }
        }
        Ok(of.each(|index| of_places[index]))
    }
}
