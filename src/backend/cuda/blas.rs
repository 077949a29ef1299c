//! Matrix products, as PyTorch asks cuBLAS and cuBLASLt for them.
//!
//! The libraries choose a kernel, and with it the order of summation, by what they are called with:
//! the function, the extents and leading dimensions, the alignment of pointers, the workspace and the
//! math mode. So all of these are PyTorch's (`aten/src/ATen/cuda/CUDABlas.cpp`,
//! `aten/src/ATen/native/cuda/Blas.cpp`, 2.11):
//!
//! * a linear layer with a bias: `cublasLtMatmul` with the bias in its epilogue, 1 MiB of workspace, the
//!   first algorithm that the heuristic names for the pointers' alignments;
//! * where the weight has one row or column, or the heuristic names none: the bias copied into the
//!   result, then a product with `beta = 1`;
//! * products: `cublasSgemm` in fp32, `cublasGemmEx` of half types with fp32 sums and scales, and their
//!   strided-batched forms where there is more than one;
//! * 32 MiB of workspace on Hopper, 8.125 MiB elsewhere; math mode default, TF32 if the reference
//!   had it; `DISALLOW_REDUCED_PRECISION_REDUCTION` around `cublasGemmEx` alone.
//!
//! Both libraries are column-major: a product `x · wᵀ` in C order is `w` transposed times `x`.

use super::failure::{cublas as check, driver, unavailable};
use super::gemm::Gemm;
use super::library::{Cublas, CublasLt};
use super::lt::{Reduction, Request, matmul_with_bias};
use super::memory::lock;
use super::product::Product;
use crate::backend::gpu::{uses_epilogues, workspaces};
use crate::backend::{Gpu, GpuFlags};
use crate::error::Result;
use crate::tensor::DType;
use cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasHandle_t, cublasMath_t, cublasOperation_t,
};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex};

/// The libraries, ready to be called.
pub(crate) struct Blas {
    cublas: Cublas,
    lt: CublasLt,
    handle: cublasHandle_t,
    stream: Arc<CudaStream>,
    /// As large as PyTorch makes it on this GPU.
    default_workspace: usize,
    state: Mutex<State>,
}

// SAFETY: cuBLAS's handles may be used from any thread, one at a time; `state` is locked around every
// use.
#[expect(unsafe_code, reason = "a foreign handle")]
unsafe impl Send for Blas {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a foreign handle")]
unsafe impl Sync for Blas {}

/// What runs set, and what they did.
struct State {
    flags: GpuFlags,
    /// Whether linear layers with a bias go to cuBLASLt.
    epilogues: bool,
    workspace: CudaSlice<u8>,
    lt_workspace: CudaSlice<u8>,
    products: Vec<Product>,
}

impl Blas {
    pub(super) fn new(
        cublas: Cublas,
        lt: CublasLt,
        stream: &Arc<CudaStream>,
        capability: (i32, i32),
    ) -> Result<Self> {
        let [first, second] = [workspace(stream, 1)?, workspace(stream, 1)?];
        let mut handle = ptr::null_mut();
        // SAFETY: a context is current, and the pointer is valid for writes.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe { (cublas.cublasCreate_v2)(&mut handle) };
        check(status, "start cuBLAS")?;
        let default_workspace = if capability == (9, 0) {
            32 << 20
        } else {
            8_519_680 // 2 · 4096 KiB + 8 · 16 KiB
        };
        let blas = Self {
            state: Mutex::new(State {
                flags: GpuFlags::default(),
                epilogues: true,
                workspace: first,
                lt_workspace: second,
                products: Vec::new(),
            }),
            cublas,
            lt,
            handle,
            stream: stream.clone(),
            default_workspace,
        };
        // SAFETY: the handle was created above; the stream lives as long as `blas`.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe { (blas.cublas.cublasSetStream_v2)(handle, stream.cu_stream().cast()) };
        check(status, "give cuBLAS a stream")?;
        blas.restart(None)?;
        Ok(blas)
    }

    /// The files of cuBLAS and cuBLASLt.
    pub(super) fn files(&self) -> [Option<&std::path::Path>; 2] {
        [self.cublas.library.path(), self.lt.library.path()]
    }

    /// Sets what the reference's run had set, torch's defaults where it is unknown, and forgets the
    /// products so far.
    pub(super) fn restart(&self, reference: Option<&Gpu>) -> Result<()> {
        let environment = reference
            .map(|gpu| gpu.environment.clone())
            .unwrap_or_default();
        let [bytes, lt_bytes] = workspaces(&environment, self.default_workspace);
        let state = &mut *self.lock();
        state.flags = reference.map(|gpu| gpu.flags.clone()).unwrap_or_default();
        state.epilogues = uses_epilogues(&environment);
        state.products.clear();
        state.workspace = workspace(&self.stream, bytes)?;
        state.lt_workspace = workspace(&self.stream, lt_bytes)?;
        let (pointer, _record) = state.workspace.device_ptr(&self.stream);
        // SAFETY: the memory is as large as is said and lives until the next call of this function,
        // in the order of the stream that cuBLAS works on.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe {
            (self.cublas.cublasSetWorkspace_v2)(self.handle, pointer as *mut c_void, bytes)
        };
        check(status, "give cuBLAS a workspace")?;
        self.set_math_mode(state.math_mode())
    }

    /// The products since [`Self::restart`].
    pub(super) fn products(&self) -> Vec<Product> {
        self.lock().products.clone()
    }

    /// A linear layer's product with `bias` added before the one rounding, if the libraries can:
    /// false if they name no algorithm.
    pub(crate) fn linear_with_bias(&self, gemm: &Gemm, bias: u64) -> Result<bool> {
        let mut state = self.lock();
        if gemm.m <= 1 || gemm.k <= 1 || !state.epilogues {
            return Ok(false);
        }
        let (workspace, record) = state.lt_workspace.device_ptr(&self.stream);
        let request = Request {
            bias,
            tf32: state.flags.allow_tf32,
            reduction: state.reduction(gemm.dtype),
            workspace: (workspace, state.lt_workspace.num_bytes()),
            stream: self.stream.cu_stream().cast(),
        };
        let algorithm = matmul_with_bias(&self.lt, self.handle, gemm, &request)?;
        drop(record);
        let call = "cublasLtMatmul, bias in the epilogue";
        let found = algorithm.is_some();
        if found {
            count(&mut state.products, call, gemm, algorithm);
        }
        Ok(found)
    }

    /// A product, or a batch of them.
    pub(crate) fn gemm(&self, gemm: &Gemm) -> Result<()> {
        let mut state = self.lock();
        let gemm = gemm.adjusted();
        let half = gemm.dtype.is_half();
        let call = match (half, gemm.batch) {
            (false, 1) => "cublasSgemm",
            (false, _) => "cublasSgemmStridedBatched",
            (true, 1) => "cublasGemmEx",
            (true, _) => "cublasGemmStridedBatchedEx",
        };
        let restricted = half && gemm.batch == 1 && state.reduction(gemm.dtype) != Reduction::Any;
        if restricted {
            let default = cublasMath_t::CUBLAS_DEFAULT_MATH as u32;
            let disallow = cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION as u32;
            self.set_math_mode(default | disallow)?;
        }
        let status = self.call(&gemm)?;
        if restricted {
            self.set_math_mode(state.math_mode())?;
        }
        check(status, call)?;
        let call = match gemm.beta {
            0.0 => call.to_owned(),
            _ => format!("{call}, added to the result"),
        };
        count(&mut state.products, &call, &gemm, None);
        Ok(())
    }

    fn call(&self, gemm: &Gemm) -> Result<c_int> {
        let [m, n, k, batch, lda, ldb, ldc] = [
            gemm.m,
            gemm.n,
            gemm.k,
            gemm.batch,
            gemm.a.leading,
            gemm.b.leading,
            gemm.result.leading,
        ]
        .map(c_int::try_from);
        let (Ok(m), Ok(n), Ok(k), Ok(batch), Ok(lda), Ok(ldb), Ok(ldc)) =
            (m, n, k, batch, lda, ldb, ldc)
        else {
            return Err(unavailable(format!(
                "cuBLAS takes extents below 2^31, not {}×{}×{}; compare fewer tokens",
                gemm.m, gemm.n, gemm.k
            )));
        };
        let [ta, tb] = [gemm.a, gemm.b].map(|operand| {
            if operand.transposed {
                cublasOperation_t::CUBLAS_OP_T
            } else {
                cublasOperation_t::CUBLAS_OP_N
            }
        });
        let strides = [gemm.a, gemm.b, gemm.result].map(|operand| operand.stride as i64);
        let (a, b, c) = (gemm.a.pointer, gemm.b.pointer, gemm.result.pointer);
        let (alpha, beta) = (&gemm.alpha, &gemm.beta);
        let cublas = &self.cublas;
        let kind = gemm.cuda_type();
        let sums = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let algorithm = cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP;
        // SAFETY: the handle is valid and locked; the pointers are of arrays of these extents in memory
        // of its context, which live until the stream has passed them; scales are on the host, as
        // the handle's pointer mode is by default.
        #[expect(unsafe_code, reason = "foreign functions")]
        let status = unsafe {
            match (gemm.dtype.is_half(), batch) {
                (false, 1) => (cublas.cublasSgemm_v2)(
                    self.handle,
                    ta,
                    tb,
                    m,
                    n,
                    k,
                    alpha,
                    a as _,
                    lda,
                    b as _,
                    ldb,
                    beta,
                    c as _,
                    ldc,
                ),
                (false, _) => (cublas.cublasSgemmStridedBatched)(
                    self.handle,
                    ta,
                    tb,
                    m,
                    n,
                    k,
                    alpha,
                    a as _,
                    lda,
                    strides[0],
                    b as _,
                    ldb,
                    strides[1],
                    beta,
                    c as _,
                    ldc,
                    strides[2],
                    batch,
                ),
                (true, 1) => (cublas.cublasGemmEx)(
                    self.handle,
                    ta,
                    tb,
                    m,
                    n,
                    k,
                    ptr::from_ref(alpha).cast(),
                    a as _,
                    kind,
                    lda,
                    b as _,
                    kind,
                    ldb,
                    ptr::from_ref(beta).cast(),
                    c as _,
                    kind,
                    ldc,
                    sums,
                    algorithm,
                ),
                (true, _) => (cublas.cublasGemmStridedBatchedEx)(
                    self.handle,
                    ta,
                    tb,
                    m,
                    n,
                    k,
                    ptr::from_ref(alpha).cast(),
                    a as _,
                    kind,
                    lda,
                    strides[0],
                    b as _,
                    kind,
                    ldb,
                    strides[1],
                    ptr::from_ref(beta).cast(),
                    c as _,
                    kind,
                    ldc,
                    strides[2],
                    batch,
                    sums,
                    algorithm,
                ),
            }
        };
        Ok(status)
    }

    fn set_math_mode(&self, mode: u32) -> Result<()> {
        // SAFETY: the handle is valid.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe { (self.cublas.cublasSetMathMode)(self.handle, mode) };
        check(status, "set cuBLAS's math mode")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and used no more. Its status tells nothing that matters here.
        #[expect(unsafe_code, reason = "a foreign function")]
        let _ = unsafe { (self.cublas.cublasDestroy_v2)(self.handle) };
    }
}

impl State {
    /// The math mode between products.
    fn math_mode(&self) -> u32 {
        let mode = if self.flags.allow_tf32 {
            cublasMath_t::CUBLAS_TF32_TENSOR_OP_MATH
        } else {
            cublasMath_t::CUBLAS_DEFAULT_MATH
        };
        mode as u32
    }

    /// How sums of a half type may be cut and added up again.
    fn reduction(&self, dtype: DType) -> Reduction {
        let flags = &self.flags;
        let (reduced, split) = match dtype {
            DType::F16 => (
                flags.allow_fp16_reduced_precision_reduction,
                flags.allow_fp16_reduced_precision_reduction_split_k,
            ),
            DType::Bf16 => (
                flags.allow_bf16_reduced_precision_reduction,
                flags.allow_bf16_reduced_precision_reduction_split_k,
            ),
            DType::F64
            | DType::F32
            | DType::F8E4M3
            | DType::F8E5M2
            | DType::I64
            | DType::I32
            | DType::I16
            | DType::I8
            | DType::U8
            | DType::Bool => (true, true),
        };
        match (reduced, split) {
            (true, _) => Reduction::Any,
            (false, true) => Reduction::InFp32,
            (false, false) => Reduction::None,
        }
    }
}

fn count(products: &mut Vec<Product>, call: &str, gemm: &Gemm, algorithm: Option<String>) {
    let product = Product {
        call: call.to_owned(),
        m: gemm.m,
        n: gemm.n,
        k: gemm.k,
        batch: gemm.batch,
        algorithm,
        calls: 1,
    };
    let same = |known: &&mut Product| {
        let calls = known.calls;
        **known
            == Product {
                calls,
                ..product.clone()
            }
    };
    match products.iter_mut().find(same) {
        Some(known) => known.calls += 1,
        None => products.push(product),
    }
}

fn workspace(stream: &Arc<CudaStream>, bytes: usize) -> Result<CudaSlice<u8>> {
    stream
        .alloc_zeros(bytes.max(1))
        .map_err(driver("take a workspace for cuBLAS"))
}
