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
