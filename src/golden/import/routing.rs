//! Mixtures of experts: which tokens an expert was chosen for, and whose rows its arrays are.
//!
//! Frameworks write a choice down as numbers or as a map, and the rows of an expert's tokens in an order of their own;
//! with expert parallelism a rank has some of the experts, and their tokens of all ranks. Here a choice is of every
//! token as many numbers, ascending, and what experts gave lies side by side in that order.

use crate::arch::{ChoiceForm, Heads, Hook, Part};
use crate::error::{BadInput, Error, Result};
use crate::golden::golden::integers;
use crate::tensor::{Join, Layout, Tensor, with_element};
use std::collections::BTreeMap;
use std::path::Path;

/// The choice of one router.
pub(super) struct Routing {
    /// Batch and sequence.
    tokens: [usize; 2],
    /// How many experts every token has.
    chosen: usize,
    /// Of every token, batch first: the numbers of its experts, ascending.
    choice: Vec<usize>,
    /// Of each of them the column that it has in the framework's arrays.
    columns: Vec<usize>,
}

/// What one expert recorded.
pub(super) struct OfExpert {
    /// A row for each of its tokens, in the framework's order.
    pub(super) rows: Tensor,
    /// Which tokens those are, batch first; `None` if they ascend in the layout's order.
    pub(super) places: Option<Vec<usize>>,
    /// The layout that the framework works in.
    pub(super) layout: Layout,
    /// How many ranks brought tokens of their own, one after the other: equal parts of the batch.
    pub(super) ranks: usize,
}

impl Routing {
    /// Of an array `[batch, sequence, columns]` of numbers or of a map, of a router that chooses so many.
    pub(super) fn new(
        form: ChoiceForm,
        array: &Tensor,
        chosen: usize,
        file: &Path,
    ) -> Result<Self> {
        let fault = |expected: String, found: String| -> Error {
            BadInput::new(file, expected, found).into()
        };
        let &[batch, sequence, columns] = array.shape() else {
            let expected = "a row for every token".to_owned();
            return Err(fault(expected, format!("shape {:?}", array.shape())));
        };
        let values: Vec<f64> = match integers(array) {
            Ok(values) => values.into_iter().map(|value| value as f64).collect(),
            Err(_) => array.widened()?.as_slice::<f64>()?.to_vec(),
        };
        let mut choice = Vec::with_capacity(batch * sequence * chosen);
        let mut places = Vec::with_capacity(batch * sequence * chosen);
        for row in values.chunks(columns.max(1)) {
            let mut own: Vec<(usize, usize)> = match form {
                ChoiceForm::Numbers => {
                    let numbers = row.iter().enumerate();
                    numbers
                        .map(|(column, number)| (*number as usize, column))
                        .collect()
                }
                ChoiceForm::Map => {
                    let chosen = row.iter().enumerate().filter(|(_, chosen)| **chosen != 0.0);
                    chosen.map(|(expert, _)| (expert, expert)).collect()
                }
            };
            own.sort_unstable();
            let twice = own.windows(2).any(|pair| pair[0].0 == pair[1].0);
            let whole = form == ChoiceForm::Map
                || row
                    .iter()
                    .all(|number| number.fract() == 0.0 && *number >= 0.0);
            if own.len() != chosen || twice || !whole {
                let expected = format!("{chosen} experts of every token, as the settings say");
                let token = choice.len() / chosen.max(1);
                return Err(fault(expected, format!("{} of token {token}", own.len())));
            }
            choice.extend(own.iter().map(|(expert, _)| *expert));
            places.extend(own.iter().map(|(_, column)| *column));
        }
        Ok(Self {
            tokens: [batch, sequence],
            chosen,
            choice,
            columns: places,
        })
    }

    /// The choice as a value `[batch, sequence, chosen]`.
    pub(super) fn choice(&self) -> Result<Tensor> {
        let numbers = self.choice.iter().map(|expert| *expert as f32);
        let [batch, sequence] = self.tokens;
        Tensor::from_vec(&[batch, sequence, self.chosen], numbers.collect())
    }

    /// The weights of the chosen, of an array with the columns that the choice's has.
    pub(super) fn weights(&self, array: &Tensor, file: &Path) -> Result<Tensor> {
        let [batch, sequence] = self.tokens;
        let width = array.row_len();
        let fits = array.shape()[..array.shape().len() - 1] == self.tokens
            && self.columns.iter().all(|column| *column < width);
        if !fits {
            let expected = format!("weights of tokens {:?}, as the choice has", self.tokens);
            let found = format!("shape {:?}", array.shape());
            return Err(BadInput::new(file, expected, found).into());
        }
        with_element!(array.dtype(), T => {
            let values = array.as_slice::<T>()?;
            let picked = self.columns.iter().enumerate();
            let picked = picked.map(|(place, column)| values[place / self.chosen * width + column]);
            Tensor::from_vec(&[batch, sequence, self.chosen], picked.collect())
        })
    }

    /// What all experts gave, side by side `[batch, sequence, chosen · width]`; `None` if an expert that was chosen
    /// is not among them.
    pub(super) fn side_by_side(
        &self,
        experts: &BTreeMap<usize, OfExpert>,
        file: &Path,
    ) -> Result<Option<Tensor>> {
        let Some(first) = experts.values().next() else {
            return Ok(None);
        };
        let (dtype, width) = (first.rows.dtype(), first.rows.row_len());
        let [batch, sequence] = self.tokens;
        let shape = [batch, sequence, self.chosen * width];
        let mut of_experts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, expert) in self.choice.iter().enumerate() {
            of_experts.entry(*expert).or_default().push(place);
        }
        if !of_experts.keys().all(|expert| experts.contains_key(expert)) {
            return Ok(None);
        }
        with_element!(dtype, T => {
            let mut all: Vec<T> = vec![bytemuck::Zeroable::zeroed(); shape.iter().product()];
            for (expert, places) in &of_experts {
                let own = &experts[expert];
                let rows = own.rows.as_slice::<T>().map_err(|e| e.in_file(file))?;
                let order = self.order(places, own);
                let fault = |found: String| -> Error {
                    let expected = format!(
                        "a row of {width} for each of the {} tokens that expert {expert} was chosen for",
                        places.len()
                    );
                    BadInput::new(file, expected, found).into()
                };
                let Some(order) = order else {
                    return Err(fault("rows of other tokens".into()));
                };
                // Ranks that share the experts may each have brought their copy of the tokens.
                let copies = (rows.len() / width.max(1)).checked_div(order.len()).unwrap_or(0);
                if own.rows.row_len() != width || copies == 0 || rows.len() != copies * order.len() * width {
                    return Err(fault(format!("shape {:?}", own.rows.shape())));
                }
                let (one, others) = rows.split_at(order.len() * width);
                let is_copy = |other: &[T]| bytemuck::cast_slice::<T, u8>(other) == bytemuck::cast_slice::<T, u8>(one);
                if !others.chunks(one.len().max(1)).all(is_copy) {
                    return Err(fault(format!("{copies} unlike rows of each")));
                }
                for (row, place) in one.chunks(width.max(1)).zip(order) {
                    all[place * width..(place + 1) * width].copy_from_slice(row);
                }
            }
            Tensor::from_vec(&shape, all).map(Some)
        })
    }

    /// An expert's places in the choice, in the order of its rows; `None` if these are of other tokens.
    fn order(&self, places: &[usize], own: &OfExpert) -> Option<Vec<usize>> {
        let [batch, sequence] = self.tokens;
        let token = |place: usize| place / self.chosen;
        let Some(tokens) = &own.places else {
            let mut order = places.to_vec();
            if own.layout.sequence_axis() == 0 {
                let of_rank = (batch / own.ranks).max(1);
                order.sort_by_key(|place| {
                    let (row, position) = (token(*place) / sequence, token(*place) % sequence);
                    (row / of_rank, position, row % of_rank)
                });
            }
            return Some(order);
        };
        let by_token: BTreeMap<usize, usize> =
            places.iter().map(|place| (token(*place), *place)).collect();
        let order: Option<Vec<usize>> = tokens
            .iter()
            .map(|token| by_token.get(token).copied())
            .collect();
        order.filter(|order| order.len() == places.len())
    }
}

/// Rows of an expert, of what ranks that share it recorded.
pub(super) fn rows_of(shards: &[Tensor], hook: &Hook, heads: Heads) -> Result<Tensor> {
    let parts = shards.iter().map(|shard| {
        let [rows, columns] = [0, 1].map(|axis| shard.shape().get(axis).copied().unwrap_or(0));
        // A part is of three axes.
        let shard = shard.clone().reshaped(&[1, rows, columns])?;
        hook.part
            .map_or(Ok(shard.clone()), |part| part.of(&shard, heads))
    });
    let parts = parts.collect::<Result<Vec<Tensor>>>()?;
    let joined = match (hook.part, hook.join) {
        (Some(part), _) => Part::joined(Tensor::concat(&parts, part.axis())?)?,
        (None, Join::Concat(axis)) => Tensor::concat(&parts, axis)?,
        (None, Join::Replicated) => parts[0].clone(),
    };
    let shape = joined.shape();
    let shape = [shape[1], shape[2..].iter().product()];
    joined.reshaped(&shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<T: crate::tensor::Element>(shape: &[usize], values: Vec<T>) -> Tensor {
        Tensor::from_vec(shape, values).unwrap()
    }

    fn of(form: ChoiceForm, array: &Tensor) -> Result<Routing> {
        Routing::new(form, array, 2, Path::new("choice.npy"))
    }

    fn expert(
        rows: Vec<f32>,
        places: Option<Vec<usize>>,
        layout: Layout,
        ranks: usize,
    ) -> OfExpert {
        OfExpert {
            rows: tensor(&[rows.len(), 1], rows),
            places,
            layout,
            ranks,
        }
    }

    /// Two sequences of two tokens, two of three experts each.
    fn numbers() -> Tensor {
        tensor(&[2, 2, 2], vec![2_i64, 0, 1, 0, 0, 1, 2, 1])
    }

    #[test]
    fn numbers_and_maps_are_one_choice() {
        let map = vec![
            1.0_f32, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0,
        ];
        let map = of(ChoiceForm::Map, &tensor(&[2, 2, 3], map)).unwrap();
        let numbers = of(ChoiceForm::Numbers, &numbers()).unwrap();
        let expected = [0.0, 2.0, 0.0, 1.0, 0.0, 1.0, 1.0, 2.0];
        for routing in [&map, &numbers] {
            assert_eq!(
                routing.choice().unwrap().as_slice::<f32>().unwrap(),
                expected
            );
        }
        // Weights lie as the choice did.
        let weights = tensor(&[2, 2, 2], vec![0.6_f32, 0.4, 0.7, 0.3, 0.8, 0.2, 0.9, 0.1]);
        let weights = numbers.weights(&weights, Path::new("w.npy")).unwrap();
        let expected = [0.4, 0.6, 0.3, 0.7, 0.8, 0.2, 0.1, 0.9];
        assert_eq!(weights.as_slice::<f32>().unwrap(), expected);
    }

    #[test]
    fn rows_are_placed_in_the_order_of_any_framework() {
        let routing = of(ChoiceForm::Numbers, &numbers()).unwrap();
        // Tokens by sequence: expert 0 has tokens 0, 1 and 2, expert 1 tokens 1, 2 and 3, expert 2 tokens 0 and 3.
        let value = |expert: usize, token: usize| (10 * expert + token) as f32;
        let expected: Vec<f32> = [
            (0, 0),
            (2, 0),
            (0, 1),
            (1, 1),
            (0, 2),
            (1, 2),
            (1, 3),
            (2, 3),
        ]
        .map(|(expert, token)| value(expert, token))
        .to_vec();
        let tokens = [vec![0, 1, 2], vec![1, 2, 3], vec![0, 3]];
        let placed = |order: &dyn Fn(&[usize]) -> Vec<usize>, is_said, layout, ranks| {
            let experts = tokens.iter().enumerate().map(|(number, tokens)| {
                let tokens = order(tokens);
                let rows = tokens.iter().map(|token| value(number, *token)).collect();
                let places: Option<Vec<usize>> = bool::then(is_said, || tokens);
                (number, expert(rows, places, layout, ranks))
            });
            let all = routing.side_by_side(&experts.collect(), Path::new("e.npy"));
            all.unwrap().unwrap().as_slice::<f32>().unwrap().to_vec()
        };
        let reversed = |tokens: &[usize]| tokens.iter().rev().copied().collect();
        assert_eq!(placed(&reversed, true, Layout::Bsh, 1), expected);
        // Of positions first: 0, 2, 1, 3.
        let by_position = |tokens: &[usize]| {
            let mut tokens = tokens.to_vec();
            tokens.sort_by_key(|token| (token % 2, token / 2));
            tokens
        };
        assert_eq!(placed(&by_position, false, Layout::Sbh, 1), expected);
        // Of two ranks with a sequence each, rank by rank.
        assert_eq!(
            placed(&|tokens| tokens.to_vec(), false, Layout::Sbh, 2),
            expected
        );
    }

    #[test]
    fn what_contradicts_a_choice_is_refused() {
        let one = tensor(&[1, 1, 2], vec![1_i64, 1]);
        let error = of(ChoiceForm::Numbers, &one).err().unwrap().to_string();
        assert!(error.contains("2 experts of every token"), "{error}");
        let three = tensor(&[1, 1, 3], vec![1_u8, 1, 1]);
        assert!(of(ChoiceForm::Map, &three).is_err());
        let routing = of(ChoiceForm::Numbers, &numbers()).unwrap();
        let lengths = [3, 3, 1];
        let experts = |lengths: [usize; 3]| {
            let experts = lengths.into_iter().enumerate();
            experts
                .map(|(number, rows)| (number, expert(vec![0.0; rows], None, Layout::Bsh, 1)))
                .collect::<BTreeMap<_, _>>()
        };
        let error = routing.side_by_side(&experts(lengths), Path::new("e.npy"));
        let error = error.err().unwrap().to_string();
        assert!(
            error.contains("each of the 2 tokens that expert 2"),
            "{error}"
        );
        // An expert that was chosen and not dumped leaves the stage out.
        let mut some = experts([3, 3, 2]);
        some.remove(&1);
        assert!(
            routing
                .side_by_side(&some, Path::new("e.npy"))
                .unwrap()
                .is_none()
        );
    }
}
