//! A matrix product in the libraries' column-major terms.

use crate::tensor::DType;
use cudarc::cublas::sys::cudaDataType_t;

/// An operand: where it is, the distance of its columns, and whether it is transposed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(crate) pointer: u64,
    pub(crate) leading: usize,
    pub(crate) transposed: bool,
    /// Distance to the operand of the next product of a batch, in elements.
    pub(crate) stride: usize,
}

impl Operand {
    /// A matrix of its own, `leading` apart from column to column.
    pub(crate) fn matrix(pointer: u64, leading: usize) -> Self {
        Self::matrices(pointer, leading, 0)
    }

    /// Matrices `stride` apart.
    pub(crate) fn matrices(pointer: u64, leading: usize, stride: usize) -> Self {
        Self {
            pointer,
            leading,
            transposed: false,
            stride,
        }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            transposed: true,
            ..self
        }
    }
}

/// `result [m, n] = alpha · a [m, k] · b [k, n] + beta · result`, column-major, `batch` times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemm {
    pub(crate) dtype: DType,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) batch: usize,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) a: Operand,
    pub(crate) b: Operand,
    pub(crate) result: Operand,
}

impl Gemm {
    /// With the leading dimensions that PyTorch gives degenerate matrices
    /// (`_cublasAdjustLdLevel3`): they are not read, but looked at.
    pub(super) fn adjusted(mut self) -> Self {
        let at_least_1 = |extent: usize| extent.max(1);
        if self.n <= 1 {
            self.result.leading = at_least_1(self.m);
        }
        match self.a.transposed {
            true if self.m <= 1 => self.a.leading = at_least_1(self.k),
            false if self.k <= 1 => self.a.leading = at_least_1(self.m),
            _ => {}
        }
        match self.b.transposed {
            true if self.k <= 1 => self.b.leading = at_least_1(self.n),
            false if self.n <= 1 => self.b.leading = at_least_1(self.k),
            _ => {}
        }
        self
    }

    /// Its storage type in the libraries' terms.
    pub(super) fn cuda_type(&self) -> cudaDataType_t {
        cuda_type(self.dtype)
    }
}

fn cuda_type(dtype: DType) -> cudaDataType_t {
    match dtype {
        DType::F64 => cudaDataType_t::CUDA_R_64F,
        DType::F32 => cudaDataType_t::CUDA_R_32F,
        DType::F16 => cudaDataType_t::CUDA_R_16F,
        DType::Bf16 => cudaDataType_t::CUDA_R_16BF,
        DType::F8E4M3 => cudaDataType_t::CUDA_R_8F_E4M3,
        DType::F8E5M2 => cudaDataType_t::CUDA_R_8F_E5M2,
        DType::I64 => cudaDataType_t::CUDA_R_64I,
        DType::I32 => cudaDataType_t::CUDA_R_32I,
        DType::I16 => cudaDataType_t::CUDA_R_16I,
        DType::I8 => cudaDataType_t::CUDA_R_8I,
        DType::U8 | DType::Bool => cudaDataType_t::CUDA_R_8U,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floating_types_are_named_as_the_table_names_them() {
        use DType::*;
        for dtype in [F64, F32, F16, Bf16, F8E4M3, F8E5M2] {
            let name = format!("{:?}", cuda_type(dtype));
            assert_eq!(Some(name.as_str()), dtype.float().map(|float| float.cuda));
        }
    }
}
