//! How steps get at arrays: what they read, and what they make.

use super::array::{CudaArray, Layout};
use super::cuda::Cuda;
use super::kernel::{Arg, Kernel};
use super::launch::Grid;
use super::memory::lock;
use crate::backend::Backend;
use crate::error::Result;
use crate::op::{QkvLayout, split_heads};
use crate::tensor::{DType, Element, Tensor};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};
use std::sync::Arc;

impl Cuda {
    /// Constants that many steps read, uploaded once.
    pub(crate) fn table<T: Element>(&self, shape: &[usize], figures: Vec<T>) -> Result<CudaArray> {
        let figures = Tensor::from_vec(shape, figures)?;
        let mut tables = lock(&self.tables);
        let known =
            |table: &&CudaArray| table.host.as_ref().is_some_and(|t| t.bits_equal(&figures));
        if let Some(table) = tables.iter().find(known) {
            return Ok(table.clone());
        }
        let table = self.upload(&figures)?;
        tables.push(table.clone());
        Ok(table)
    }

    /// Sends a kernel for values stored as `dtype`, whose result goes to `result`.
    pub(crate) fn send(
        &self,
        dtype: DType,
        kernel: Kernel,
        grid: Grid,
        args: &[Arg<'_>],
        result: u64,
    ) -> Result<()> {
        self.kernels
            .launch(&self.compute, dtype, kernel, grid, args, result)
    }

    /// A new array that `fill` sends the computation of, given where it lies.
    pub(crate) fn produce(
        &self,
        dtype: DType,
        shape: Vec<usize>,
        fill: impl FnOnce(u64) -> Result<()>,
    ) -> Result<CudaArray> {
        let count: usize = shape.iter().product();
        let mut block = self.block(count * dtype.size())?;
        {
            let (pointer, _record) = block.slice_mut().device_ptr_mut(&self.compute);
            fill(pointer)?;
        }
        Ok(CudaArray {
            dtype,
            shape,
            block: Arc::new(block),
            layout: Layout::Contiguous,
            host: None,
        })
    }

    /// A new array that a kernel computes.
    pub(crate) fn compute(
        &self,
        dtype: DType,
        shape: Vec<usize>,
        kernel: Kernel,
        grid: Grid,
        args: &[Arg<'_>],
    ) -> Result<CudaArray> {
        self.produce(dtype, shape, |out| {
            self.send(dtype, kernel, grid, args, out)
        })
    }

    /// What a kernel makes of every element of the first array: it takes `arrays`, the result, the
    /// number of its elements, and `args`.
    pub(crate) fn compute_elements(
        &self,
        kernel: Kernel,
        arrays: &[&CudaArray],
        args: &[Arg<'_>],
    ) -> Result<CudaArray> {
        let arrays: Vec<CudaArray> = arrays
            .iter()
            .map(|array| self.contiguous(array))
            .collect::<Result<_>>()?;
        let first = &arrays[0];
        let count = first.len();
        let mut all: Vec<Arg<'_>> = arrays.iter().map(Arg::from).collect();
        all.extend([Arg::Result, count.into()]);
        all.extend(args);
        let grid = Grid::elements(count);
        self.compute(first.dtype, first.shape.clone(), kernel, grid, &all)
    }

    /// The array in C order.
    pub(crate) fn contiguous(&self, array: &CudaArray) -> Result<CudaArray> {
        match array.layout {
            Layout::Contiguous => Ok(array.clone()),
            Layout::Heads(part) => {
                split_heads::copied(self, array, QkvLayout::PerHead, part, array.shape.clone())
            }
        }
    }

    /// The array, for steps that are sent from now on.
    pub(crate) fn read<'a>(&'a self, array: &'a CudaArray) -> Reading<'a> {
        array.read(&self.compute)
    }
}

impl CudaArray {
    pub(super) fn read<'a>(&'a self, stream: &'a CudaStream) -> Reading<'a> {
        let offset = match self.layout {
            Layout::Contiguous => 0,
            Layout::Heads(part) => part as usize * self.row_len() * self.dtype.size(),
        };
        let (start, record) = self.block.slice().device_ptr(stream);
        Reading {
            pointer: start + offset as u64,
            _record: record,
        }
    }
}

/// An array that steps sent from now on read: they wait for what writes it, and what writes it next
/// waits for those that were sent before this is dropped.
pub(crate) struct Reading<'a> {
    /// Where its first element lies.
    pub(crate) pointer: u64,
    _record: SyncOnDrop<'a>,
}
