//! Attention scores on a GPU.

use super::{AlibiForm, AttentionScores};
use crate::backend::cuda::{Arg, Cuda, CudaArray, Gemm, Grid, Kernel, Operand, Source};
use crate::error::Result;
use crate::op::launch::{Call, Launch};
use crate::op::split_heads::repeated;
use crate::op::{Numerics, Rounding, Scale};

const SOURCE: Source = Source::new(include_str!("alibi.cu"));
const ALIBI: Kernel = SOURCE.kernel("alibi");

impl Launch for AttentionScores {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        // A library adds a bias in the product's own sum.
        let apart = numerics.rounding == Rounding::EachOperation && self.alibi.is_none();
        let rounding = if apart {
            Rounding::EachOperation
        } else {
            Rounding::Once
        };
        numerics == Numerics::product(numerics.out).with_rounding(rounding)
    }

    /// PyTorch's `baddbmm`: the ALiBi bias, if there is one, is the result that the product is added
    /// to. With [`Rounding::EachOperation`] `matmul`, then a product with the scale.
    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let query = call.inputs[0];
        let &[batch, heads, positions, head_dim] = query.shape() else {
            unreachable!("the step's shape was checked");
        };
        let key = &repeated(gpu, call.inputs[1], heads)?;
        let dtype = call.dtype();
        let matrices = batch * heads;
        let slopes = match &self.alibi {
            Some(alibi) => Some((alibi, gpu.table(&[heads], alibi.slopes.clone())?)),
            None => None,
        };
        let each = call.numerics.rounding == Rounding::EachOperation;
        let (q, k) = (gpu.read(query), gpu.read(key));
        let count: usize = call.shape.iter().product();
        let scores = gpu.produce(dtype, call.shape.clone(), |out| {
            if let Some((alibi, slopes)) = &slopes {
                let args = [
                    Arg::Array(slopes),
                    Arg::Result,
                    matrices.into(),
                    Arg::I32(heads as i32),
                    Arg::I32(positions as i32),
                    (alibi.form == AlibiForm::Distance).into(),
                ];
                gpu.send(dtype, ALIBI, Grid::elements(count), &args, out)?;
            }
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
                alpha: if each { 1.0 } else { self.product_scale },
                beta: self.alibi.as_ref().map_or(0.0, |alibi| alibi.scale),
                a: a.transposed(),
                b,
                result: Operand::matrices(out, positions, positions * positions),
            })
        })?;
        if !each {
            return Ok(scores);
        }
        let scale = Scale {
            factor: self.product_scale,
        };
        scale.launch(
            gpu,
            &Call {
                inputs: &[&scores],
                params: &[],
                shape: call.shape.clone(),
                ..*call
            },
        )
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
