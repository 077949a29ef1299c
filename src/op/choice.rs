//! Choices of experts as values: numbers of experts, of every token as many.

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The numbers in a choice `[b, s, k]` among `experts`.
///
/// # Errors
/// [`Error::Mismatch`] if one is no number of an expert.
pub(crate) fn choice_of(choice: &Tensor, experts: usize) -> Result<Vec<usize>> {
    let number = |value: f64| {
        let is_number = value >= 0.0 && value < experts as f64 && value.fract() == 0.0;
        is_number
            .then_some(value as usize)
            .ok_or_else(|| Error::Mismatch {
                at: "choice".into(),
                expected: format!("numbers of {experts} experts"),
                found: value.to_string(),
            })
    };
    match choice.dtype() {
        DType::F64 => choice
            .as_slice::<f64>()?
            .iter()
            .copied()
            .map(number)
            .collect(),
        _ => {
            let values = choice.as_slice::<f32>()?.iter();
            values.map(|value| number((*value).into())).collect()
        }
    }
}

/// For every expert the places in a choice that it has, ascending.
pub(super) fn places_of(choice: &[usize], experts: usize) -> Vec<Vec<usize>> {
    let mut places = vec![Vec::new(); experts];
    for (place, expert) in choice.iter().enumerate() {
        places[*expert].push(place);
    }
    places
}
