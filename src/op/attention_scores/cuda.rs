//! Attention scores on a GPU.

use super::{AlibiForm, AttentionScores};
use crate::backend::cuda::{Arg, Cuda, CudaArray, Gemm, Grid, Kernel, Operand, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("alibi.cu"));
const ALIBI: Kernel = SOURCE.kernel("alibi");

impl Launch for AttentionScores {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::product(numerics.out)
    }

    /// PyTorch's `baddbmm`: the ALiBi bias is the result that the product is added to.
    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let (query, key) = (call.inputs[0], call.inputs[1]);
        let &[batch, heads, positions, head_dim] = query.shape() else {
            unreachable!("the step's shape was checked");
        };
        let dtype = call.dtype();
        let matrices = batch * heads;
        let slopes = gpu.table(&[heads], self.alibi_slopes.clone())?;
        let (q, k) = (gpu.read(query), gpu.read(key));
        let count: usize = call.shape.iter().product();
        gpu.produce(dtype, call.shape.clone(), |out| {
            let args = [
                Arg::Array(&slopes),
                Arg::Result,
                matrices.into(),
                Arg::I32(heads as i32),
                Arg::I32(positions as i32),
                (self.alibi_form == AlibiForm::Distance).into(),
            ];
            gpu.send(dtype, ALIBI, Grid::elements(count), &args, out)?;
            if count == 0 {
                return Ok(());
            }
            let (query, key) = (query.heads_at(q.pointer), key.heads_at(k.pointer));
            // Of one position the result is a column as much as a row, and PyTorch takes it for one.
            let (a, b) = match positions {
                1 => (query, key),
                _ => (key, query),
            };
            gpu.blas.gemm(&Gemm {
                dtype,
                m: positions,
                n: positions,
                k: head_dim,
                batch: matrices,
                alpha: self.product_scale,
                beta: self.alibi_scale,
                a: a.transposed(),
                b,
                result: Operand::matrices(out, positions, positions * positions),
            })
        })
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
