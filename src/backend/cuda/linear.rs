//! Linear layers.

use super::array::CudaArray;
use super::cuda::Cuda;
use super::failure::unsupported;
use super::gemm::{Gemm, Operand};
use super::launch::{Arg, Grid};
use crate::error::Result;
use crate::plan::Step;

impl Cuda {
    pub(super) fn linear(
        &self,
        step: &Step,
        x: &CudaArray,
        weight: &CudaArray,
        bias: Option<&CudaArray>,
        partials: usize,
        shape: Vec<usize>,
    ) -> Result<CudaArray> {
        let dtype = x.dtype;
        let (width, k) = (weight.shape[0], weight.shape[1]);
        let count = shape.iter().product::<usize>();
        if count == 0 {
            return self.produce(dtype, shape, |_| Ok(()));
        }
        if k == 0 {
            return Err(unsupported(step, "sums of nothing".into()));
        }
        if bias.is_some() && partials > 1 {
            return Err(unsupported(step, "partial sums with a bias".into()));
        }
        let rows = count / width;
        let x = self.whole(x)?;
        let (x, weight) = (self.read(&x), self.read(weight));
        let bias = bias.map(|bias| self.read(bias));
        let part = k / partials;
        let product = |number: usize, out: u64, beta: f32| {
            // Slices of the last axis: the leading dimension stays that of the whole matrices.
            let start = (number * part * dtype.size()) as u64;
            let operand = |pointer: u64, transposed| Operand {
                pointer: pointer + start,
                leading: k,
                transposed,
                stride: 0,
            };
            Gemm {
                dtype,
                m: width,
                n: rows,
                k: part,
                batch: 1,
                alpha: 1.0,
                beta,
                a: operand(weight.pointer, true),
                b: operand(x.pointer, false),
                result: Operand {
                    pointer: out,
                    leading: width,
                    transposed: false,
                    stride: 0,
                },
            }
        };
        let first = self.produce(dtype, shape.clone(), |out| {
            let Some(bias) = &bias else {
                return self.blas.gemm(&product(0, out, 0.0));
            };
            if self
                .blas
                .linear_with_bias(&product(0, out, 0.0), bias.pointer)?
            {
                return Ok(());
            }
            let args = [
                bias.arg(),
                Arg::Pointer(out),
                Arg::I64(count as i64),
                Arg::I64(width as i64),
            ];
            self.send(dtype, "fill_rows", Grid::elements(count), &args)?;
            self.blas.gemm(&product(0, out, 1.0))
        })?;
        (1..partials).try_fold(first, |sum, number| {
            let next = self.produce(dtype, shape.clone(), |out| {
                self.blas.gemm(&product(number, out, 0.0))
            })?;
            let (sum, next) = (self.read(&sum), self.read(&next));
            self.produce(dtype, shape.clone(), |out| {
                let args = [
                    sum.arg(),
                    next.arg(),
                    Arg::Pointer(out),
                    Arg::I64(count as i64),
                ];
                self.send(dtype, "add", Grid::elements(count), &args)
            })
        })
    }
}
