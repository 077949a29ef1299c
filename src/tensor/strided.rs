//! Arrays that are not in C order: views of stored bytes.

use super::buffer::Buffer;
use super::{DType, MappedFile, Tensor};
use crate::error::{Error, Result};
use std::fmt;
use std::ops::Range;

/// Elements at regular distances in a buffer or a mapped file, as torch's tensors are. Nothing is
/// copied until it is asked for.
#[derive(Clone)]
pub struct Strided {
    dtype: DType,
    buffer: Buffer,
    /// All three in elements.
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Strided {
    /// A view of bytes `part` of `file`: element `(i, j, …)` is the one at
    /// `offset + i·strides[0] + j·strides[1] + …` of the part. Bytes need not be aligned.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the part is not in the file, shape and strides have different
    /// lengths, or an element lies outside the part.
    pub fn new(
        dtype: DType,
        file: &MappedFile,
        part: Range<usize>,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Self> {
        let mismatch = |found: String| Error::Mismatch {
            at: "view".into(),
            expected: format!(
                "{dtype} elements of shape {shape:?}, strides {strides:?} from {offset}"
            ),
            found,
        };
        if file.get(part.clone()).is_none() {
            return Err(mismatch(format!("a file of {} bytes", file.len())));
        }
        let held = part.len() / dtype.size();
        let empty = shape.contains(&0);
        let last = shape
            .iter()
            .zip(strides)
            .try_fold(offset, |last, (extent, stride)| {
                last.checked_add((extent.max(&1) - 1).checked_mul(*stride)?)
            });
        let inside = last.is_some_and(|last| empty || last < held);
        if shape.len() != strides.len() || !inside {
            return Err(mismatch(format!("a storage of {held} elements")));
        }
        Ok(Self {
            dtype,
            buffer: Buffer::mapped::<u8>(file, part),
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        })
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extent of every axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where the first element lies and how far apart neighbours are, in elements.
    pub(super) fn layout(&self) -> (usize, &[usize]) {
        (self.offset, &self.strides)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// Copies a run of elements along the last axis, from `index` on, into `out`; callers have
    /// checked that they exist.
    pub(crate) fn read_run(&self, index: &[usize], out: &mut [u8]) {
        let size = self.dtype.size();
        let steps = index
            .iter()
            .zip(&self.strides)
            .map(|(index, stride)| index * stride);
        let first = self.offset + steps.sum::<usize>();
        let stride = self.strides.last().copied().unwrap_or(1);
        if stride == 1 {
            out.copy_from_slice(&self.bytes()[first * size..][..out.len()]);
            return;
        }
        for (i, element) in out.chunks_exact_mut(size).enumerate() {
            let at = (first + i * stride) * size;
            element.copy_from_slice(&self.bytes()[at..at + size]);
        }
    }

    /// Only `range` of an axis; callers have checked that both exist.
    pub(super) fn narrowed(mut self, axis: usize, range: Range<usize>) -> Self {
        if !range.is_empty() {
            self.offset += range.start * self.strides[axis];
        }
        self.shape[axis] = range.len();
        self
    }

    /// An axis split into `extent / inner` times `inner`; callers have checked that it divides.
    pub(super) fn split(mut self, axis: usize, inner: usize) -> Self {
        let stride = self.strides[axis];
        self.shape.insert(axis + 1, inner);
        self.shape[axis] /= inner;
        self.strides.insert(axis, stride * inner);
        self
    }

    /// Axis `i` of the result is axis `axes[i]` of `self`.
    pub(super) fn permuted(mut self, axes: &[usize]) -> Self {
        self.shape = axes.iter().map(|axis| self.shape[*axis]).collect();
        self.strides = axes.iter().map(|axis| self.strides[*axis]).collect();
        self
    }

    /// Without an axis of extent 1.
    pub(super) fn without(mut self, axis: usize) -> Self {
        self.shape.remove(axis);
        self.strides.remove(axis);
        self
    }
}

impl From<Tensor> for Strided {
    fn from(tensor: Tensor) -> Self {
        let shape = tensor.shape().to_vec();
        Self {
            dtype: tensor.dtype(),
            strides: c_order(&shape),
            shape,
            offset: 0,
            buffer: tensor.into_buffer(),
        }
    }
}

impl fmt::Debug for Strided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Strided {{ {} {:?} by {:?} }}",
            self.dtype, self.shape, self.strides
        )
    }
}

/// Strides of an array in C order, in elements.
pub(super) fn c_order(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}
