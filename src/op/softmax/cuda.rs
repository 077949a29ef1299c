//! Softmax on a GPU, by the kernel that the framework would use.

use super::{Mask, Softmax};
use crate::backend::cuda::{Arg, Cuda, CudaArray, Grid, Kernel, Source};
use crate::error::Result;
use crate::op::launch::{Call, Launch};
use crate::op::{Numerics, Summation};
use crate::tensor::DType;

const TORCH: Source = Source::new(include_str!("softmax.cu"));
const WARP: Kernel = TORCH.kernel("softmax_warp");
const BLOCK: Kernel = TORCH.kernel("softmax_block");
const MEGATRON: Source = Source::new(include_str!("megatron_softmax.cu"));
const MEGATRON_WARP: Kernel = MEGATRON.kernel("megatron_softmax");

impl Launch for Softmax {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics.is_of_cuda_kernel()
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let scores = call.inputs[0];
        let (keys, rows) = (scores.row_len(), scores.rows());
        let matrices = rows.checked_div(keys).unwrap_or(0);
        let (dtype, summation) = (call.dtype(), call.numerics.summation);
        let form = SoftmaxForm::of(summation, dtype, keys, matrices, self.mask);
        let (shift, full) = match self.mask {
            Mask::Causal => (0, false),
            Mask::Shifted(shift) => (shift, false),
            Mask::Full => (0, true),
        };
        let ends = [Arg::Array(scores), Arg::Result];
        let (row_len, scale) = (Arg::I32(keys as i32), Arg::F32(self.scale));
        let masked = [Arg::I32(shift), full.into()];
        let (kernel, grid, args) = match form {
            SoftmaxForm::Warp { log2 } => {
                let own = [rows.into(), row_len, Arg::I32(log2 as i32), scale];
                (
                    WARP,
                    warp_grid(rows, log2),
                    [&ends[..], &own, &masked].concat(),
                )
            }
            SoftmaxForm::Megatron { log2 } => {
                let own = [rows.into(), row_len, Arg::I32(log2 as i32), scale];
                (
                    MEGATRON_WARP,
                    warp_grid(rows, log2),
                    [&ends[..], &own].concat(),
                )
            }
            SoftmaxForm::Block { vector, generic } => {
                let own = [row_len, scale];
                let order = [Arg::I32(vector), generic.into()];
                let grid = Grid::blocks(rows, (block_threads(keys), 1));
                (BLOCK, grid, [&ends[..], &own, &masked, &order].concat())
            }
        };
        gpu.compute(dtype, call.shape.clone(), kernel, grid, &args)
    }

    fn kernel_source() -> String {
        [TORCH, MEGATRON].map(Source::text).concat()
    }
}

/// Which kernel computes a softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SoftmaxForm {
    Warp { log2: u32 },
    Block { vector: i32, generic: bool },
    Megatron { log2: u32 },
}

impl SoftmaxForm {
    /// As PyTorch chooses (`SoftMax.cpp`, `SoftMax.cu`) for an fp32 softmax, which is what BLOOM asks
    /// for whatever its type. Megatron's kernel is used where its Python says so
    /// (`FusedScaleMaskSoftmax.is_kernel_available`), and torch's elsewhere.
    fn of(summation: Summation, dtype: DType, keys: usize, matrices: usize, mask: Mask) -> Self {
        let log2 = keys.max(1).next_power_of_two().ilog2();
        let half = dtype.is_half();
        if summation == Summation::MegatronCuda && half && mask == Mask::Causal {
            let rows_per_block = warp_rows(log2);
            let taken = (17..=2048).contains(&keys)
                && keys.is_multiple_of(4)
                && matrices.is_multiple_of(4)
                && matrices.is_multiple_of(rows_per_block);
            if taken {
                return Self::Megatron { log2 };
            }
        }
        // fp16 is widened by the kernel itself; bf16 before it, so that its kernel is fp32's.
        // Megatron widens both before.
        let fp16 = dtype == DType::F16 && summation == Summation::TorchCuda;
        let most = if fp16 { 1024 } else { 2048 };
        if keys <= most {
            return Self::Warp { log2 };
        }
        let threads = block_threads(keys) as usize;
        if !fp16 && keys.div_ceil(threads) < 10 {
            return Self::Block {
                vector: 1,
                generic: false,
            };
        }
        // Rows start where vectors of 16 bytes do if their length is a multiple of one.
        let size = if fp16 { 2 } else { 4 };
        let vector = 16 / size;
        let shared = (49_152 - threads / 8) / size;
        Self::Block {
            vector: vector as i32,
            generic: !(keys.is_multiple_of(vector) && keys < shared),
        }
    }
}

/// Rows that a block of 128 threads takes of up to `2^log2` keys.
fn warp_rows(log2: u32) -> usize {
    let width = 1 << log2.min(5);
    (128 / width) * if log2 <= 7 { 2 } else { 1 }
}

fn warp_grid(rows: usize, log2: u32) -> Grid {
    Grid::blocks(rows.div_ceil(warp_rows(log2)), (128, 1))
}

/// `SoftMaxForward_getBlockSize`.
fn block_threads(keys: usize) -> u32 {
    keys.min(1024).next_multiple_of(32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_takes_the_kernel_that_torch_takes() {
        let torch =
            |dtype, keys| SoftmaxForm::of(Summation::TorchCuda, dtype, keys, 16, Mask::Causal);
        let block = |vector, generic| SoftmaxForm::Block { vector, generic };
        assert_eq!(torch(DType::F32, 1), SoftmaxForm::Warp { log2: 0 });
        assert_eq!(torch(DType::F32, 2048), SoftmaxForm::Warp { log2: 11 });
        assert_eq!(torch(DType::F32, 2049), block(1, false));
        assert_eq!(torch(DType::F32, 9217), block(4, true));
        assert_eq!(torch(DType::F32, 9220), block(4, false));
        assert_eq!(torch(DType::F32, 16384), block(4, true));
        assert_eq!(torch(DType::F16, 1024), SoftmaxForm::Warp { log2: 10 });
        assert_eq!(torch(DType::F16, 1032), block(8, false));
        assert_eq!(torch(DType::F16, 1025), block(8, true));
        for keys in [1, 1024, 1025, 2048, 2049, 9217, 9220, 16384] {
            assert_eq!(torch(DType::Bf16, keys), torch(DType::F32, keys));
        }
    }

    #[test]
    fn megatrons_softmax_is_used_where_its_own_code_uses_it() {
        let of = |dtype, keys, matrices| {
            SoftmaxForm::of(Summation::MegatronCuda, dtype, keys, matrices, Mask::Causal)
        };
        assert_eq!(of(DType::F16, 20, 16), SoftmaxForm::Megatron { log2: 5 });
        assert_eq!(of(DType::F32, 20, 16), SoftmaxForm::Warp { log2: 5 });
        assert_eq!(of(DType::F16, 16, 16), SoftmaxForm::Warp { log2: 4 });
        assert_eq!(of(DType::F16, 22, 16), SoftmaxForm::Warp { log2: 5 });
        assert_eq!(of(DType::Bf16, 20, 6), SoftmaxForm::Warp { log2: 5 });
    }
}
