//! Values weighted by probabilities on a GPU.

use super::Context;
use crate::backend::cuda::{Arg, Cuda, CudaArray, Gemm, Grid, Kernel, Operand, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};
use crate::op::split_heads::repeated;

const SOURCE: Source = Source::new(include_str!("context.cu"));
const MERGE_HEADS: Kernel = SOURCE.kernel("merge_heads");

impl Launch for Context {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::product(numerics.out)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let probs = call.inputs[0];
        let value = &repeated(gpu, call.inputs[1], probs.shape()[1])?;
        let &[batch, heads, positions, head_dim] = value.shape() else {
            unreachable!("the step's shape was checked");
        };
        let dtype = call.dtype();
        let (p, v) = (gpu.read(probs), gpu.read(value));
        let by_head = gpu.produce(dtype, value.shape().to_vec(), |out| {
            if value.len() == 0 {
                return Ok(());
            }
            gpu.blas.gemm(&Gemm {
                dtype,
                m: head_dim,
                n: positions,
                k: positions,
                batch: batch * heads,
                alpha: 1.0,
                beta: 0.0,
                a: value.heads_at(v.pointer),
                b: Operand::matrices(p.pointer, positions, positions * positions),
                result: Operand::matrices(out, head_dim, positions * head_dim),
            })
        })?;
        let args = [
            Arg::Array(&by_head),
            Arg::Result,
            batch.into(),
            positions.into(),
            heads.into(),
            head_dim.into(),
        ];
        let grid = Grid::elements(value.len());
        gpu.compute(dtype, call.shape.clone(), MERGE_HEADS, grid, &args)
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
