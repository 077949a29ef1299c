//! Arrays of numpy, alone and in archives.

use super::order::natural;
use super::{Dump, Dumped, stem};
use crate::error::Result;
use crate::tensor::{DType, Tensor, npy, npz};
use half::bf16;
use std::path::Path;
use std::sync::Arc;

/// What elements of two bytes without a meaning of their own are: numpy has no bfloat16.
const DECLARED: Option<DType> = Some(DType::Bf16);

pub(super) fn array(path: &Path) -> Result<Dump> {
    let file = path.to_owned();
    let tensor = Dumped::new(stem(path), move || {
        understood(|declared| npy::read(&file, declared))
    });
    Ok(Dump::new(path, "array", vec![tensor]))
}

pub(super) fn archive(path: &Path) -> Result<Dump> {
    let archive = Arc::new(npz::Archive::open(path)?);
    let mut names: Vec<String> = archive.names().map(str::to_owned).collect();
    names.sort_by_key(|name| natural(name));
    let tensors = names.into_iter().map(|name| {
        let archive = Arc::clone(&archive);
        Dumped::new(name.clone(), move || {
            understood(|declared| archive.read(&name, declared))
        })
    });
    Ok(Dump::new(path, "archive", tensors.collect()))
}

/// An array whose elements of two bytes are bf16's bits if they look like numbers that a model computes, else the
/// integers that they are: token ids are saved as `u2`, and so is bf16.
fn understood(read: impl Fn(Option<DType>) -> Result<Tensor>) -> Result<Tensor> {
    match read(None) {
        Ok(tensor) if tensor.dtype() != DType::I16 => return Ok(tensor),
        Ok(integers) => {
            let bits = read(DECLARED)?;
            return Ok(if holds_numbers(&bits)? {
                bits
            } else {
                integers
            });
        }
        Err(_) => {}
    }
    // `V2` or `u2`, or what the error says.
    let bits = read(DECLARED)?;
    if bits.dtype() != DType::Bf16 || holds_numbers(&bits)? {
        return Ok(bits);
    }
    let integers = bits.as_slice::<bf16>()?.iter();
    let integers = integers.map(|element| i32::from(element.to_bits()));
    Tensor::from_vec(bits.shape(), integers.collect())
}

/// Whether nearly all of the elements that are not 0 are of a size that activations have.
fn holds_numbers(bits: &Tensor) -> Result<bool> {
    /// Of small integers' bits nearly none is a number in between.
    const SIZES: std::ops::Range<f32> = 1e-8..1e6;
    const MOST: f64 = 0.9;
    let all = bits.as_slice::<bf16>()?;
    let others = all.iter().filter(|element| element.to_bits() != 0);
    let (mut count, mut usual) = (0_usize, 0_usize);
    for element in others {
        let size = element.to_f32().abs();
        count += 1;
        // A mask's values are the type's least, or infinite.
        usual += usize::from(SIZES.contains(&size) || size >= f32::from(bf16::MAX));
    }
    Ok(usual as f64 >= MOST * count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood_as(bits: &[u16]) -> DType {
        let read = |declared: Option<DType>| match declared {
            None => Tensor::from_vec(&[bits.len()], bits.iter().map(|x| *x as i16).collect()),
            Some(_) => {
                let elements = bits.iter().map(|x| bf16::from_bits(*x));
                Tensor::from_vec(&[bits.len()], elements.collect())
            }
        };
        understood(read).expect("an array").dtype()
    }

    #[test]
    fn token_ids_are_integers_and_activations_are_bf16() {
        let ids: Vec<u16> = (0..50).map(|index| index * 977 % 32000).collect();
        assert_eq!(understood_as(&ids), DType::I16);
        assert_eq!(understood_as(&[0, 1, 1, 0]), DType::I16);
        let activations = [0.5_f32, -2.0, 0.0, 3e-4, f32::MIN, 120.0];
        let bits = activations.map(|x| bf16::from_f32(x).to_bits());
        assert_eq!(understood_as(&bits), DType::Bf16);
    }
}
