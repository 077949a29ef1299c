//! Products with a weight on a GPU.

use super::Linear;
use crate::backend::cuda::{Arg, Cuda, CudaArray, Gemm, Grid, Kernel, Operand, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::add::add;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("fill_rows.cu"));
const FILL_ROWS: Kernel = SOURCE.kernel("fill_rows");

impl Launch for Linear {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::product(numerics.out)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let weight = call.params[0];
        let dtype = call.dtype();
        let (width, k) = (weight.shape()[0], weight.shape()[1]);
        let count = call.shape.iter().product::<usize>();
        if count == 0 {
            return gpu.produce(dtype, call.shape.clone(), |_| Ok(()));
        }
        if k == 0 {
            return Err(call.unsupported("sums of nothing"));
        }
        let parts = self.partials.count;
        if self.partials.has_order() && !self.partials.order.is_default() {
            return Err(call.unsupported("partial sums in this order"));
        }
        if self.bias && parts > 1 {
            return Err(call.unsupported("partial sums with a bias"));
        }
        let x = gpu.contiguous(call.inputs[0])?;
        let (x, weight) = (gpu.read(&x), gpu.read(weight));
        let part = k / parts;
        let product = |number: usize, out: u64, beta: f32| {
            // Slices of the last axis: the leading dimension stays that of the whole matrices.
            let start = (number * part * dtype.size()) as u64;
            Gemm {
                dtype,
                m: width,
                n: count / width,
                k: part,
                batch: 1,
                alpha: 1.0,
                beta,
                a: Operand::matrix(weight.pointer + start, k).transposed(),
                b: Operand::matrix(x.pointer + start, k),
                result: Operand::matrix(out, width),
            }
        };
        let partial = |number: usize| {
            gpu.produce(dtype, call.shape.clone(), |out| {
                gpu.blas.gemm(&product(number, out, 0.0))
            })
        };
        if self.bias {
            let bias = call.params[1];
            let reading = gpu.read(bias);
            return gpu.produce(dtype, call.shape.clone(), |out| {
                let fused = product(0, out, 0.0);
                if gpu.blas.linear_with_bias(&fused, reading.pointer)? {
                    return Ok(());
                }
                let args = [Arg::Array(bias), Arg::Result, count.into(), width.into()];
                gpu.send(dtype, FILL_ROWS, Grid::elements(count), &args, out)?;
                gpu.blas.gemm(&product(0, out, 1.0))
            });
        }
        (1..parts).try_fold(partial(0)?, |sum, number| add(gpu, &sum, &partial(number)?))
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
