//! Adds and functions of every element.

use super::access::last;
use super::array::CudaArray;
use super::cuda::Cuda;
use super::launch::{Arg, Grid};
use crate::error::Result;
use crate::op::Activation;

impl Cuda {
    /// A kernel that makes an element of each; `args` are the ones behind the count.
    pub(super) fn map(&self, name: &'static str, x: &CudaArray, args: &[Arg]) -> Result<CudaArray> {
        let x = self.whole(x)?;
        let (count, from) = (x.len(), self.read(&x));
        self.produce(x.dtype, x.shape.clone(), |out| {
            let fixed = [from.arg(), Arg::Pointer(out), Arg::I64(count as i64)];
            let args = [&fixed, args].concat();
            self.send(x.dtype, name, Grid::elements(count), &args)
        })
    }

    /// As [`Self::map`], of two arrays.
    pub(super) fn join(
        &self,
        name: &'static str,
        [a, b]: [&CudaArray; 2],
        args: &[Arg],
    ) -> Result<CudaArray> {
        let [a, b] = [self.whole(a)?, self.whole(b)?];
        let (count, from) = (a.len(), [self.read(&a), self.read(&b)]);
        self.produce(a.dtype, a.shape.clone(), |out| {
            let [a_arg, b_arg] = [from[0].arg(), from[1].arg()];
            let fixed = [a_arg, b_arg, Arg::Pointer(out), Arg::I64(count as i64)];
            let args = [&fixed, args].concat();
            self.send(a.dtype, name, Grid::elements(count), &args)
        })
    }

    /// `row` added to every row of `x`.
    pub(super) fn add_row(
        &self,
        x: &CudaArray,
        row: &CudaArray,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let x = self.whole(x)?;
        let (count, columns) = (x.len(), last(&shape));
        let (from, row) = (self.read(&x), self.read(row));
        self.produce(x.dtype, shape, |out| {
            let extents = [count, columns].map(|extent| Arg::I64(extent as i64));
            let args = [&[from.arg(), row.arg(), Arg::Pointer(out)][..], &extents].concat();
            self.send(x.dtype, "add_row", Grid::elements(count), &args)
        })
    }
}

/// The number that kernels know an activation by (`elementwise.cu`).
pub(super) fn kind(activation: Activation) -> Arg {
    Arg::I32(match activation {
        Activation::BloomGelu => 0,
        Activation::Gelu => 1,
        Activation::QuickGelu => 2,
        Activation::Silu => 3,
        Activation::Relu => 4,
        Activation::ReluSquared => 5,
    })
}
