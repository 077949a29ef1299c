//! LayerNorm and RMSNorm.

use super::access::{Reading, last};
use super::array::CudaArray;
use super::cuda::Cuda;
use super::failure::unsupported;
use super::launch::{Arg, Grid};
use crate::error::Result;
use crate::op::Summation;
use crate::plan::Step;

/// Longer rows are not exact in an fp32 count.
const MOST_COLUMNS: usize = 1 << 24;

impl Cuda {
    pub(super) fn layer_norm(
        &self,
        step: &Step,
        x: &CudaArray,
        params: &[&CudaArray],
        shape: Vec<usize>,
        eps: f32,
    ) -> Result<CudaArray> {
        let columns = last(&shape);
        let vectors = columns.is_multiple_of(4) && columns <= MOST_COLUMNS;
        let (name, threads) = match (step.numerics.summation, vectors) {
            (Summation::MegatronCuda, _) => ("megatron_layer_norm", (32, 4)),
            (_, true) => ("layer_norm", (32, 4)),
            (_, false) => ("layer_norm_scalar", (512, 1)),
        };
        self.norm(name, threads, x, params, shape, eps)
    }

    pub(super) fn rms_norm(
        &self,
        step: &Step,
        x: &CudaArray,
        params: &[&CudaArray],
        shape: Vec<usize>,
        eps: f32,
    ) -> Result<CudaArray> {
        let columns = last(&shape);
        if params.len() > 1 {
            return Err(unsupported(step, "an RMS norm with a bias".into()));
        }
        if step.numerics.summation != Summation::TorchCuda {
            return Err(unsupported(step, "an RMS norm as Megatron sums it".into()));
        }
        if !columns.is_multiple_of(4) || columns > MOST_COLUMNS {
            let what = format!("an RMS norm of rows of {columns}: multiples of 4 up to 2^24");
            return Err(unsupported(step, what));
        }
        self.norm("rms_norm", (32, 4), x, params, shape, eps)
    }

    fn norm(
        &self,
        name: &'static str,
        threads: (u32, u32),
        x: &CudaArray,
        params: &[&CudaArray],
        shape: Vec<usize>,
        eps: f32,
    ) -> Result<CudaArray> {
        let dtype = x.dtype;
        let columns = last(&shape);
        let rows = x.len().checked_div(columns).unwrap_or(0);
        let x = self.whole(x)?;
        let arrays: Vec<Reading<'_>> = [&x]
            .into_iter()
            .chain(params.iter().copied())
            .map(|a| self.read(a))
            .collect();
        self.produce(dtype, shape, |out| {
            let mut args: Vec<Arg> = arrays.iter().map(Reading::arg).collect();
            args.extend([Arg::Pointer(out), Arg::I64(columns as i64), Arg::F32(eps)]);
            self.send(dtype, name, Grid::blocks(rows, threads), &args)
        })
    }
}
