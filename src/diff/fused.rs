//! Are Megatron's fused kernels replaceable by torch's? Runs both on the same numbers.
//!
//! `MixedFusedLayerNorm` and `ScaledUpperTriangMaskedSoftmax` compute what torch's LayerNorm and
//! softmax compute, in another order and with approximate quotients, exponentials and roots. Whether
//! a checkpoint that was trained with the one is the same model with the other comes down to how often
//! they round differently.

use crate::backend::{Backend, Cuda};
use crate::compare::{Measure, Metrics, Spec};
use crate::error::Result;
use crate::op::{self, Mask, Numerics, Op, Summation};
use crate::plan::{Param, Step, Variant};
use crate::tensor::{DType, Float, Tensor, with_float};

/// Rows and columns of the LayerNorm.
const ROWS: [usize; 2] = [64, 1024];
/// Matrices of scores, and positions.
const SCORES: [usize; 4] = [1, 8, 64, 64];
/// BLOOM's.
const EPSILON: f64 = 1e-5;

/// One of Megatron's fused kernels against torch's.
#[derive(Clone, Debug)]
pub struct FusedKernel {
    /// What it computes.
    pub what: &'static str,
    /// The type of its values.
    pub dtype: DType,
    /// How far its results are from torch's.
    pub metrics: Metrics,
}

/// Runs the fused kernels and torch's on the GPU, in the types that Megatron runs them in.
///
/// # Errors
/// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) if the GPU fails.
pub fn fused_kernels(cuda: &Cuda) -> Result<Vec<FusedKernel>> {
    let mut kernels = Vec::new();
    for dtype in [DType::F16, DType::Bf16] {
        let norm = Op::LayerNorm(op::LayerNorm { eps: EPSILON });
        let columns = [ROWS[1]];
        let params = [drawn(dtype, &columns, 2)?, drawn(dtype, &columns, 3)?];
        kernels.push(FusedKernel {
            what: "layer norm",
            dtype,
            metrics: against_torch(cuda, norm, &drawn(dtype, &ROWS, 1)?, &params)?,
        });
        let softmax = Op::Softmax(op::Softmax {
            scale: 1.0,
            mask: Mask::Causal,
        });
        kernels.push(FusedKernel {
            what: "masked softmax",
            dtype,
            metrics: against_torch(cuda, softmax, &drawn(dtype, &SCORES, 4)?, &[])?,
        });
    }
    Ok(kernels)
}

fn against_torch(cuda: &Cuda, op: Op, x: &Tensor, params: &[Tensor]) -> Result<Metrics> {
    let upload = |tensor: &Tensor| cuda.upload(tensor);
    let x = upload(x)?;
    let params = params.iter().map(upload).collect::<Result<Vec<_>>>()?;
    let run = |summation| {
        let step = Step {
            id: "kernel".into(),
            stage: "kernel".into(),
            variant: Variant::PLAIN,
            op: op.clone(),
            inputs: vec!["x".into()],
            params: params
                .iter()
                .map(|param| Param {
                    name: "parameter".into(),
                    shape: param.shape().to_vec(),
                })
                .collect(),
            numerics: Numerics::cuda_kernel(x.dtype(), summation),
        };
        cuda.run(&step, &[&x], &params.iter().collect::<Vec<_>>())
    };
    let [torch, fused] = [run(Summation::TorchCuda)?, run(Summation::MegatronCuda)?];
    cuda.measure(&torch, &fused, &Spec::default())?.finish()
}

/// Numbers about 1 of both signs, the same on every machine.
fn drawn(dtype: DType, shape: &[usize], seed: u32) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9);
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // The upper bits: the lower ones of such a series repeat.
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    };
    let count = shape.iter().product();
    with_float!(dtype, T => {
        let values = (0..count).map(|_| T::from_f32(draw())).collect();
        Tensor::from_vec::<T>(shape, values)
    }, else Tensor::from_vec(shape, (0..count).map(|_| draw()).collect::<Vec<f32>>()))
}
