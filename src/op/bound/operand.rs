//! Values that a step reads, with what they may be off by.

use super::ErrorBound;
use crate::error::Result;
use crate::tensor::{Float, Tensor, with_float};
use ndarray::{ArrayView2, s};
use std::borrow::Cow;
use std::ops::Range;

/// A value that a step reads, and how far it may be from exact; `None` if it is given.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// The value.
    pub value: &'a Tensor,
    /// Its error bound.
    pub error_bound: Option<&'a ErrorBound>,
}

impl<'a> Operand<'a> {
    /// A value that is the same on both sides.
    pub fn given(value: &'a Tensor) -> Self {
        Self {
            value,
            error_bound: None,
        }
    }

    /// Whether it is.
    pub fn is_given(&self) -> bool {
        self.error_bound.is_none()
    }
}

/// Rounding and standard deviation of the elements of a row; `None` if they are given.
pub(in crate::op) type RowBound<'a> = Option<(&'a [f32], &'a [f32])>;

/// An operand in fp32.
pub(in crate::op) struct Wide<'a> {
    pub(in crate::op) tensor: &'a Tensor,
    pub(in crate::op) values: Cow<'a, [f32]>,
    pub(in crate::op) shape: &'a [usize],
    pub(in crate::op) error_bound: Option<&'a ErrorBound>,
}

impl<'a> Wide<'a> {
    /// Empty for what is no floating value: token ids have no error bound.
    pub(super) fn new(operand: &Operand<'a>) -> Result<Self> {
        let value = operand.value;
        let values = with_float!(value.dtype(), T => T::widened(value.as_slice::<T>()?), else Cow::default());
        Ok(Self {
            tensor: value,
            values,
            shape: value.shape(),
            error_bound: operand.error_bound,
        })
    }

    /// Elements `index·len..` of the error bound.
    pub(in crate::op) fn row_bound(&self, index: usize, len: usize) -> RowBound<'a> {
        let range = index * len..(index + 1) * len;
        self.error_bound
            .map(|all| (&all.rounding[range.clone()], &all.std[range]))
    }

    /// Elements `index·len..` of the value.
    pub(in crate::op) fn row(&self, index: usize, len: usize) -> &[f32] {
        &self.values[index * len..(index + 1) * len]
    }

    /// An element with its rounding and standard deviation.
    #[inline(always)]
    pub(in crate::op) fn element(&self, index: usize) -> (f64, [f64; 2]) {
        let error_bound = self.error_bound.map_or([0.0; 2], |all| {
            [all.rounding[index].into(), all.std[index].into()]
        });
        (self.values[index].into(), error_bound)
    }

    /// One of the matrices of this shape that the value is made of.
    pub(in crate::op) fn matrix(&self, index: usize, shape: [usize; 2]) -> Matrix<'_> {
        let len = shape[0] * shape[1];
        let view = |data| ArrayView2::from_shape(shape, data).expect("cut to one matrix");
        Matrix {
            values: view(self.row(index, len)),
            significand: self.tensor.dtype().significand_bits(),
            error_bound: self
                .row_bound(index, len)
                .map(|(rounding, std)| [view(rounding), view(std)]),
        }
    }
}

/// Rows of an operand, one after the other.
pub(in crate::op) struct Gathered {
    width: usize,
    significand: i32,
    values: Vec<f32>,
    error_bound: Option<[Vec<f32>; 2]>,
}

impl Wide<'_> {
    /// The rows of this width at these places.
    pub(in crate::op) fn gathered(&self, rows: &[usize], width: usize) -> Gathered {
        let all = |values: &[f32]| -> Vec<f32> {
            let rows = rows.iter();
            rows.flat_map(|row| &values[row * width..(row + 1) * width])
                .copied()
                .collect()
        };
        Gathered {
            width,
            significand: self.tensor.dtype().significand_bits(),
            values: all(&self.values),
            error_bound: self
                .error_bound
                .map(|bound| [all(&bound.rounding), all(&bound.std)]),
        }
    }
}

impl Gathered {
    /// The matrix of all rows, of which there are so many.
    pub(in crate::op) fn matrix(&self, rows: usize) -> Matrix<'_> {
        let shape = [rows, self.width];
        let view = |data| ArrayView2::from_shape(shape, data).expect("gathered in rows");
        Matrix {
            values: view(&self.values),
            significand: self.significand,
            error_bound: self
                .error_bound
                .as_ref()
                .map(|[rounding, std]| [view(rounding), view(std)]),
        }
    }
}

/// A matrix of an operand and of its error bounds.
#[derive(Clone, Copy)]
pub(in crate::op) struct Matrix<'a> {
    pub(in crate::op) values: ArrayView2<'a, f32>,
    /// Binary digits of the type that it is stored in.
    pub(super) significand: i32,
    error_bound: Option<[ArrayView2<'a, f32>; 2]>,
}

impl<'a> Matrix<'a> {
    pub(in crate::op) fn transposed(self) -> Self {
        Self {
            values: self.values.reversed_axes(),
            significand: self.significand,
            error_bound: self
                .error_bound
                .map(|all| all.map(ArrayView2::reversed_axes)),
        }
    }

    /// Some of its columns.
    pub(in crate::op) fn columns(self, range: Range<usize>) -> Self {
        let cut = |view: ArrayView2<'a, f32>| view.slice_move(s![.., range.clone()]);
        Self {
            values: cut(self.values),
            significand: self.significand,
            error_bound: self.error_bound.map(|all| all.map(cut)),
        }
    }

    pub(super) fn rounding(self) -> Option<ArrayView2<'a, f32>> {
        self.error_bound.map(|[rounding, _]| rounding)
    }

    pub(super) fn std(self) -> Option<ArrayView2<'a, f32>> {
        self.error_bound.map(|[_, std]| std)
    }
}
