//! One product by cuBLASLt, with the objects that describe it.

use super::failure::cublas as check;
use super::gemm::{Gemm, Operand};
use super::library::{CublasLt, Heuristic};
use crate::error::Result;
use crate::tensor::DType;
use cudarc::cublas::sys::{cublasComputeType_t, cublasHandle_t, cublasOperation_t, cudaDataType_t};
use cudarc::cublaslt::sys::{
    cublasLtEpilogue_t, cublasLtMatmulAlgo_t, cublasLtMatmulAlgoConfigAttributes_t as Config,
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t,
};
use std::ffi::{c_int, c_void};
use std::ptr;

/// How partial sums may be added up (`cublasLtReductionScheme_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduction {
    /// As the library likes.
    Any,
    /// In the type of the computation, or there are none: not in place and not in the output's type.
    InFp32,
    /// There are none.
    None,
}

impl Reduction {
    /// The schemes that are left, if some are ruled out.
    fn mask(self) -> Option<u32> {
        match self {
            Self::Any => None,
            Self::InFp32 => Some(2), // CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; _NONE is no bit
            Self::None => Some(0),
        }
    }
}

/// `CUBLAS_STATUS_INVALID_VALUE`.
const INVALID_VALUE: c_int = 7;
/// `CUBLAS_STATUS_NOT_SUPPORTED`.
const NOT_SUPPORTED: c_int = 15;

/// How a product is to be computed, beyond what it is.
pub(super) struct Request {
    /// Added to every column before the one rounding.
    pub(super) bias: u64,
    /// fp32 through TF32.
    pub(super) tf32: bool,
    /// How partial sums may be added up.
    pub(super) reduction: Reduction,
    /// Memory that the library may use.
    pub(super) workspace: (u64, usize),
    pub(super) stream: *mut c_void,
}

/// Computes a product with a bias in the epilogue by the first algorithm that the heuristic names,
/// and says which; `None` if it names none.
pub(super) fn matmul_with_bias(
    lt: &CublasLt,
    handle: cublasHandle_t,
    gemm: &Gemm,
    request: &Request,
) -> Result<Option<String>> {
    let kind = gemm.cuda_type();
    let description = Description::new(lt, gemm, request)?;
    let stored = |operand: Operand, rows: usize, columns: usize| {
        let (rows, columns) = if operand.transposed {
            (columns, rows)
        } else {
            (rows, columns)
        };
        Layout::new(lt, kind, rows, columns, operand.leading)
    };
    let a = stored(gemm.a, gemm.m, gemm.k)?;
    let b = stored(gemm.b, gemm.k, gemm.n)?;
    let result = stored(gemm.result, gemm.m, gemm.n)?;
    let preferences = Preferences::new(lt, gemm, request)?;
    let mut found = Heuristic {
        algorithm: cublasLtMatmulAlgo_t { data: [0; 8] },
        workspace: 0,
        state: 0,
        waves: 0.0,
        reserved: [0; 4],
    };
    let mut count: c_int = 0;
    // SAFETY: all objects were made by the library and live until the end of this function; there is
    // room for the one answer that is asked for.
    #[expect(unsafe_code, reason = "a foreign function")]
    let status = unsafe {
        (lt.cublasLtMatmulAlgoGetHeuristic)(
            handle,
            description.handle,
            a.handle,
            b.handle,
            result.handle,
            result.handle,
            preferences.handle,
            1,
            &mut found,
            &mut count,
        )
    };
    if status != 0 || count == 0 || found.state != 0 {
        return Ok(None);
    }
    let (alpha, beta) = (1.0_f32, 0.0_f32);
    let (workspace, bytes) = request.workspace;
    let target = gemm.result.pointer;
    // SAFETY: as above; the pointers are of arrays of the described extents that live until the stream
    // has passed them, and scales are on the host.
    #[expect(unsafe_code, reason = "a foreign function")]
    let status = unsafe {
        (lt.cublasLtMatmul)(
            handle,
            description.handle,
            ptr::from_ref(&alpha).cast(),
            gemm.a.pointer as _,
            a.handle,
            gemm.b.pointer as _,
            b.handle,
            ptr::from_ref(&beta).cast(),
            target as _,
            result.handle,
            target as _,
            result.handle,
            &found.algorithm,
            workspace as _,
            bytes,
            request.stream,
        )
    };
    // PyTorch goes another way where the library cannot; what else fails, fails there as well.
    if [INVALID_VALUE, NOT_SUPPORTED].contains(&status) {
        return Ok(None);
    }
    check(status, "cublasLtMatmul")?;
    Ok(Some(algorithm_text(lt, &found.algorithm)))
}

/// `id 66, tile 20, stages 4, …`: what the library's own numbers say of an algorithm.
fn algorithm_text(lt: &CublasLt, algorithm: &cublasLtMatmulAlgo_t) -> String {
    let attributes = [
        ("id", Config::CUBLASLT_ALGO_CONFIG_ID),
        ("tile", Config::CUBLASLT_ALGO_CONFIG_TILE_ID),
        ("stages", Config::CUBLASLT_ALGO_CONFIG_STAGES_ID),
        ("split-k", Config::CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
        ("reduction", Config::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME),
        ("swizzle", Config::CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING),
        ("custom", Config::CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION),
        ("inner", Config::CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID),
        ("cluster", Config::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID),
    ];
    let texts = attributes.into_iter().filter_map(|(name, attribute)| {
        // The last two are of 16 bits; the rest of the number stays 0.
        let (mut value, mut written) = (0_u32, 0);
        let size = match name {
            "inner" | "cluster" => size_of::<u16>(),
            _ => size_of::<u32>(),
        };
        // SAFETY: `size` bytes of `value` may be written, in the byte order that is read.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe {
            (lt.cublasLtMatmulAlgoConfigGetAttribute)(
                algorithm,
                attribute,
                ptr::from_mut(&mut value).cast(),
                size,
                &mut written,
            )
        };
        (status == 0).then(|| format!("{name} {}", u32::from_le(value)))
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// An object of the library: made, and destroyed when it is dropped.
macro_rules! object {
    ($name:ident, $handle:ty, $destroy:ident) => {
        struct $name<'a> {
            lt: &'a CublasLt,
            handle: $handle,
        }

        impl Drop for $name<'_> {
            fn drop(&mut self) {
                // SAFETY: made by the library and destroyed once. Its status tells nothing that matters.
                #[expect(unsafe_code, reason = "a foreign function")]
                let _ = unsafe { (self.lt.$destroy)(self.handle) };
            }
        }
    };
}
object!(Description, cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy);
object!(Layout, cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy);
object!(
    Preferences,
    cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceDestroy
);

impl<'a> Description<'a> {
    fn new(lt: &'a CublasLt, gemm: &Gemm, request: &Request) -> Result<Self> {
        let compute = if gemm.dtype == DType::F32 && request.tf32 {
            cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is valid for writes.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe {
            (lt.cublasLtMatmulDescCreate)(&mut handle, compute, cudaDataType_t::CUDA_R_32F)
        };
        check(status, "describe a product")?;
        let description = Self { lt, handle };
        let [a, b] = [gemm.a, gemm.b].map(|operand| {
            if operand.transposed {
                cublasOperation_t::CUBLAS_OP_T
            } else {
                cublasOperation_t::CUBLAS_OP_N
            }
        });
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &(a as c_int))?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &(b as c_int))?;
        let epilogue = cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &request.bias)?;
        Ok(description)
    }

    fn set<T>(&self, attribute: Attribute, value: &T) -> Result<()> {
        // SAFETY: the value is read, as many bytes as its type has, before the call returns.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe {
            (self.lt.cublasLtMatmulDescSetAttribute)(
                self.handle,
                attribute,
                ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        };
        check(status, "describe a product")
    }
}

impl<'a> Layout<'a> {
    fn new(
        lt: &'a CublasLt,
        kind: cudaDataType_t,
        rows: usize,
        columns: usize,
        leading: usize,
    ) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is valid for writes.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe {
            (lt.cublasLtMatrixLayoutCreate)(
                &mut handle,
                kind,
                rows as u64,
                columns as u64,
                leading as i64,
            )
        };
        check(status, "describe a matrix")?;
        Ok(Self { lt, handle })
    }
}

impl<'a> Preferences<'a> {
    fn new(lt: &'a CublasLt, gemm: &Gemm, request: &Request) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is valid for writes.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe { (lt.cublasLtMatmulPreferenceCreate)(&mut handle) };
        check(status, "state preferences")?;
        let preferences = Self { lt, handle };
        let workspace = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        preferences.set(workspace, &(request.workspace.1 as u64))?;
        if let Some(mask) = request.reduction.mask() {
            let schemes = Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
            preferences.set(schemes, &mask)?;
        }
        for (attribute, pointer) in [
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                gemm.a.pointer,
            ),
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                gemm.b.pointer,
            ),
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                gemm.result.pointer,
            ),
            // PyTorch states the bias's alignment for the result's.
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                request.bias,
            ),
        ] {
            preferences.set(attribute, &alignment(pointer))?;
        }
        Ok(preferences)
    }

    fn set<T>(&self, attribute: Preference, value: &T) -> Result<()> {
        // SAFETY: the value is read, as many bytes as its type has, before the call returns.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe {
            (self.lt.cublasLtMatmulPreferenceSetAttribute)(
                self.handle,
                attribute,
                ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        };
        check(status, "state preferences")
    }
}

/// The largest power of two up to 256 that divides the address.
fn alignment(pointer: u64) -> u32 {
    1 << pointer.trailing_zeros().min(8)
}

#[cfg(test)]
mod tests {
    use super::alignment;

    #[test]
    fn alignments_are_powers_of_two_up_to_256() {
        assert_eq!([512, 256, 24, 1, 0].map(alignment), [256, 256, 8, 1, 256]);
    }
}
