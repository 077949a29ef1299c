//! The array type.

use super::buffer::Buffer;
use super::{DType, Element, Float, MappedFile, with_element, with_float};
use crate::error::{Error, Result};
use crate::memory;
use ndarray::{ArrayViewD, Axis, IxDyn};
use std::fmt;
use std::ops::Range;

/// An array in C order. Cloning shares the data.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    buffer: Buffer,
}

impl Tensor {
    /// Takes `data` as an array of the given shape.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the shape does not hold as many elements as there are.
    pub fn from_vec<T: Element>(shape: &[usize], data: Vec<T>) -> Result<Self> {
        if element_count(shape) != Some(data.len()) {
            return Err(Error::Mismatch {
                at: "array".into(),
                expected: format!("the elements of shape {shape:?}"),
                found: format!("{} elements", data.len()),
            });
        }
        Ok(Self {
            dtype: T::DTYPE,
            shape: shape.to_vec(),
            buffer: Buffer::owned(data),
        })
    }

    /// Bytes `range` of a mapped file as a little-endian array in C order, without a copy where
    /// they are aligned.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the range is not in the file, does not hold the shape, or holds
    /// booleans other than 0 and 1.
    pub fn from_mapped(
        dtype: DType,
        shape: &[usize],
        file: &MappedFile,
        range: Range<usize>,
    ) -> Result<Self> {
        let bytes = element_count(shape).and_then(|n| n.checked_mul(dtype.size()));
        let held = file.get(range.clone()).map(<[u8]>::len);
        if bytes.is_none() || bytes != held {
            return Err(Error::Mismatch {
                at: file.path().display().to_string(),
                expected: format!("{dtype} data of shape {shape:?}"),
                found: format!("bytes {} to {} of {}", range.start, range.end, file.len()),
            });
        }
        let tensor = Self {
            dtype,
            shape: shape.to_vec(),
            buffer: with_element!(dtype, T => Buffer::mapped::<T>(file, range)),
        };
        #[cfg(target_endian = "big")]
        let tensor = tensor.swap_bytes()?;
        tensor.check_booleans(&file.path().display().to_string())?;
        Ok(tensor)
    }

    /// Takes elements that were copied as the bytes of `dtype`, whose like `T` is.
    pub(super) fn from_stored<T: Element>(
        dtype: DType,
        shape: &[usize],
        data: Vec<T>,
    ) -> Result<Self> {
        let tensor = Self::from_vec(shape, data)?.reinterpret(dtype);
        tensor.check_booleans("array")?;
        Ok(tensor)
    }

    /// Where the elements are.
    pub(super) fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// Reads `self` as booleans if it is one byte an element.
    pub(super) fn check_booleans(&self, at: &str) -> Result<()> {
        if self.dtype == DType::Bool
            && let Some(byte) = self.bytes().iter().find(|byte| **byte > 1)
        {
            return Err(Error::Mismatch {
                at: at.to_owned(),
                expected: "booleans of 0 and 1".into(),
                found: format!("the byte {byte}"),
            });
        }
        Ok(())
    }

    /// The same bytes as another type of the same size: `bf16` stored as `<V2` or `<u2`.
    pub(super) fn reinterpret(mut self, dtype: DType) -> Self {
        assert_eq!(self.dtype.size(), dtype.size(), "same size");
        self.dtype = dtype;
        self
    }

    /// The same data under another shape of as many elements.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the counts differ.
    pub fn reshaped(mut self, shape: &[usize]) -> Result<Self> {
        if element_count(shape) != Some(self.len()) {
            return Err(Error::Mismatch {
                at: "array".into(),
                expected: format!("the elements of shape {shape:?}"),
                found: format!("shape {:?}", self.shape),
            });
        }
        self.shape = shape.to_vec();
        Ok(self)
    }

    /// The storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extent of every axis, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Extent of the last axis: 1 for a scalar.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The data as stored, in the machine's byte order.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// The elements, in C order. Booleans are read as `u8`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the array is stored as another type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        let stored = match self.dtype {
            DType::Bool => DType::U8,
            dtype => dtype,
        };
        if stored != T::DTYPE {
            return Err(Error::Mismatch {
                at: "array".into(),
                expected: format!("{} elements", T::DTYPE),
                found: self.dtype.to_string(),
            });
        }
        Ok(bytemuck::cast_slice(self.bytes()))
    }

    /// The elements as an `ndarray` view.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the array is stored as another type.
    pub fn view<T: Element>(&self) -> Result<ArrayViewD<'_, T>> {
        let slice = self.as_slice()?;
        Ok(ArrayViewD::from_shape(IxDyn(&self.shape), slice).expect("shape and length agree"))
    }

    /// The array with its axes reordered: axis `i` of the result is axis `axes[i]` of `self`.
    ///
    /// # Panics
    /// If `axes` is no permutation of the axes.
    pub fn permuted(&self, axes: &[usize]) -> Self {
        assert_eq!(axes.len(), self.shape.len(), "one entry an axis");
        let moved = axes.iter().filter(|axis| self.shape[**axis] != 1);
        if moved.is_sorted() {
            // Axes of extent 1 may move freely: the bytes stay where they are.
            let shape = axes.iter().map(|axis| self.shape[*axis]).collect();
            return Self {
                shape,
                ..self.clone()
            };
        }
        with_element!(self.dtype, T => {
            let view = self.view::<T>().expect("dispatched on the dtype");
            let view = view.permuted_axes(IxDyn(axes));
            let shape = view.shape().to_vec();
            let data: Vec<T> = view.iter().copied().collect();
            let tensor = Self::from_vec(&shape, data).expect("a permutation keeps the count");
            tensor.reinterpret(self.dtype)
        })
    }

    /// Joins arrays along an axis, in order.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if there are none, their types differ, or their shapes differ on another
    /// axis.
    pub fn concat(parts: &[Self], axis: usize) -> Result<Self> {
        let mismatch = |found: String| Error::Mismatch {
            at: "shards".into(),
            expected: format!("arrays that join along axis {axis}"),
            found,
        };
        let first = parts.first().ok_or_else(|| mismatch("none".into()))?;
        if let [only] = parts
            && axis < only.shape.len()
        {
            return Ok(only.clone());
        }
        let bytes: u128 = parts.iter().map(|part| part.bytes().len() as u128).sum();
        memory::allow("shards", "an array of all", bytes)?;
        if let Some(other) = parts.iter().find(|part| part.dtype != first.dtype) {
            return Err(mismatch(format!("{} and {}", first.dtype, other.dtype)));
        }
        let joined = with_element!(first.dtype, T => {
            let views: Result<Vec<_>> = parts.iter().map(Self::view::<T>).collect();
            // `concatenate` would panic on an axis that is not there.
            (axis < first.shape.len())
                .then(|| ndarray::concatenate(Axis(axis), &views?).ok().map_or(Ok(None), |array| {
                    let shape = array.shape().to_vec();
                    let data = array.as_standard_layout().iter().copied().collect::<Vec<T>>();
                    Self::from_vec(&shape, data).map(|tensor| Some(tensor.reinterpret(first.dtype)))
                }))
                .transpose()?
                .flatten()
        });
        joined.ok_or_else(|| {
            let shapes: Vec<_> = parts.iter().map(|part| &part.shape).collect();
            mismatch(format!("shapes {shapes:?}"))
        })
    }

    /// The same values stored as `dtype`, a floating type.
    ///
    /// # Errors
    /// [`Error::Mismatch`], naming the first offender, if a value would be rounded: this reads
    /// what is `dtype` in truth from a wider container, it never loses anything.
    pub fn narrowed_exactly(&self, dtype: DType) -> Result<Self> {
        if self.dtype == dtype {
            return Ok(self.clone());
        }
        let inexact = |found: String| Error::Mismatch {
            at: "array".into(),
            expected: format!("values of {dtype}"),
            found,
        };
        with_element!(self.dtype, S => with_float!(dtype, D => {
            let data = self
                .as_slice::<S>()?
                .iter()
                .enumerate()
                .map(|(index, from)| {
                    let value = from.to_f64();
                    let to = D::nearest(value);
                    if to.to_f64() == value || value.is_nan() {
                        Ok(to)
                    } else {
                        Err(inexact(format!("{value:?} at {:?}", self.position(index))))
                    }
                })
                .collect::<Result<Vec<D>>>()?;
            Self::from_vec(&self.shape, data)
        }, else Err(inexact(format!("{} data", self.dtype)))))
    }

    /// The values rounded to another floating type, to nearest even.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the type is not a floating one.
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        if self.dtype == dtype {
            return Ok(self.clone());
        }
        with_element!(self.dtype, S => with_float!(dtype, D => {
            let values = self.as_slice::<S>()?.iter().map(|value| D::nearest(value.to_f64()));
            Self::from_vec(&self.shape, values.collect())
        }, else Err(Error::Mismatch {
            at: "array".into(),
            expected: "a floating type".into(),
            found: dtype.to_string(),
        })))
    }

    /// The first entries of an axis.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the axis has fewer.
    pub fn first(&self, axis: usize, count: usize) -> Result<Self> {
        self.slice(axis, 0..count)
    }

    /// A range of the entries of an axis.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the axis has fewer.
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Result<Self> {
        let extent = self.shape.get(axis).copied().unwrap_or(0);
        if axis >= self.shape.len() || extent < range.end || range.end < range.start {
            return Err(Error::Mismatch {
                at: format!("axis {axis}"),
                expected: format!("at least {} entries", range.end),
                found: extent.to_string(),
            });
        }
        let mut shape = self.shape.clone();
        shape[axis] = range.len();
        let inner: usize = shape[axis + 1..].iter().product();
        with_element!(self.dtype, T => {
            let rows = self.as_slice::<T>()?.chunks((extent * inner).max(1));
            let kept = rows.flat_map(|row| &row[range.start * inner..range.end * inner]).copied();
            Self::from_vec(&shape, kept.collect()).map(|kept| kept.reinterpret(self.dtype))
        })
    }

    /// The same values stored as fp64.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn widened(&self) -> Result<Self> {
        let bytes = memory::bytes_of(&self.shape, size_of::<f64>());
        memory::allow("array", "its values in fp64", bytes)?;
        with_element!(self.dtype, T => {
            let data = self.as_slice::<T>()?.iter().map(|value| value.to_f64()).collect::<Vec<_>>();
            Self::from_vec(&self.shape, data)
        })
    }

    /// The indices, one an axis, of the element at `index` in C order.
    pub fn position(&self, index: usize) -> Vec<usize> {
        position(&self.shape, index)
    }

    /// Whether both hold the same bits under the same type and shape.
    pub fn bits_equal(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

/// The indices, one an axis, of the element at `index` of an array of this shape in C order.
pub(crate) fn position(shape: &[usize], index: usize) -> Vec<usize> {
    let mut position = vec![0; shape.len()];
    let mut rest = index;
    for (place, extent) in position.iter_mut().zip(shape).rev() {
        *place = rest % extent;
        rest /= extent;
    }
    position
}

/// The same bits under the same type and shape.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.bits_equal(other)
    }
}

/// Elements of an array of this shape, if the count fits.
fn element_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |count, extent| count.checked_mul(*extent))
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor {{ {} {:?} }}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    proptest! {
        /// The nearest value, of two as near the one with an even mantissa; also just beside the
        /// middle, where a conversion that drops the low half of an fp64 takes the wrong side.
        #[test]
        fn casts_round_once_to_the_nearest_and_ties_to_even(
            bits in 0_u16..0x7b00, beside in -1_i64..=1, negative in any::<bool>(),
        ) {
            let sign = if negative { -1.0 } else { 1.0 };
            let middle = |low: f64, high: f64| {
                let middle = (low + high) / 2.0;
                sign * f64::from_bits((middle.to_bits() as i64 + beside) as u64)
            };
            let nearest = match beside {
                0 => bits + bits % 2,
                beside => bits + u16::from(beside > 0),
            };
            let signed = nearest | if negative { 0x8000 } else { 0 };
            let wide = |value: f64| Tensor::from_vec(&[1], vec![value]).unwrap();
            let [low, high] = [bits, bits + 1].map(|bits| bf16::from_bits(bits).to_f64());
            let found = wide(middle(low, high)).cast(DType::Bf16).unwrap();
            prop_assert_eq!(found.as_slice::<bf16>().unwrap()[0].to_bits(), signed);
            let [low, high] = [bits, bits + 1].map(|bits| f16::from_bits(bits).to_f64());
            let found = wide(middle(low, high)).cast(DType::F16).unwrap();
            prop_assert_eq!(found.as_slice::<f16>().unwrap()[0].to_bits(), signed);
        }
    }
}
