// A fake libcublas.so.13: the GEMMs of gemm.hpp behind the handles of cuBLAS.
//
// Modelled: a handle's stream and workspace (setting the stream takes the workspace away, as in the
// library; two streams that share one are a race), its modes, checks of arguments. A library's own
// default workspace is logged as 0 bytes. Version: PARITY_FAKE_CUBLAS (130100).
#include "gemm.hpp"

using namespace fake;

namespace {

struct Handle {
    void* stream = nullptr;
    void* workspace = nullptr;
    size_t workspace_bytes = 0;
    int math = 0, pointers = 0, atomics = 0;
};

// A call on a handle.
template <class Body> int on_handle(const char* call, void* handle, Body body) {
    if (int status = blas_enter(call)) return status;
    return handle ? body(*(Handle*)handle) : BLAS_NOT_INITIALIZED;
}

struct Operand {
    const void* data;
    int type, ld;
    long long stride;

    Matrix matrix(size_t rows, size_t cols) const { return {data, type, rows, cols, ld, stride}; }
};

int gemm(const char* call, void* handle, int operation_a, int operation_b, int m, int n, int k, const void* alpha,
         Operand a, Operand b, const void* beta, Operand c, int batch, int compute) {
    return on_handle(call, handle, [&](Handle& handle) -> int {
        bool operations = operation_a >= 0 && operation_a <= 2 && operation_b >= 0 && operation_b <= 2;
        if (!operations || m < 0 || n < 0 || k < 0 || batch < 0 || !alpha || !beta) return BLAS_INVALID_VALUE;
        Matrix left = operation_a ? a.matrix(k, m) : a.matrix(m, k);
        Matrix right = operation_b ? b.matrix(n, k) : b.matrix(k, n), out = c.matrix(m, n);
        return Gemm{call, operation_a, operation_b, size_t(m), size_t(n), size_t(k), size_t(batch),
                    *(const float*)alpha, *(const float*)beta, left, right, out, out, nullptr, F32, compute,
                    handle.math, handle.workspace, handle.workspace_bytes, handle.stream}.run();
    });
}

constexpr int COMPUTE_32F = 68;

}  // namespace

API int cublasCreate_v2(void** handle) {
    if (int status = blas_enter(__func__)) return status;
    *handle = new Handle;
    return BLAS_SUCCESS;
}

API int cublasDestroy_v2(void* handle) {
    return on_handle(__func__, handle, [](Handle& handle) { return delete &handle, BLAS_SUCCESS; });
}

API int cublasGetVersion_v2(void* handle, int* version) {
    return on_handle(__func__, handle, [&](Handle&) { return *version = int(blas_version()), BLAS_SUCCESS; });
}

API int cublasGetProperty(int property, int* value) {
    if (int code = injected(__func__, BLAS_EXECUTION_FAILED)) return code;
    return blas_property(property, value);
}

API const char* cublasGetStatusName(int status) { return blas_status_name(status); }
API const char* cublasGetStatusString(int status) { return blas_status_name(status); }

API int cublasSetStream_v2(void* handle, void* stream) {
    return on_handle(__func__, handle, [&](Handle& handle) {
        if (fakeStream(stream) < 0) return BLAS_INVALID_VALUE;
        handle.stream = stream;
        handle.workspace = nullptr;
        handle.workspace_bytes = 0;
        return BLAS_SUCCESS;
    });
}

API int cublasGetStream_v2(void* handle, void** stream) {
    return on_handle(__func__, handle, [&](Handle& handle) { return *stream = handle.stream, BLAS_SUCCESS; });
}

API int cublasSetWorkspace_v2(void* handle, void* workspace, size_t bytes) {
    return on_handle(__func__, handle, [&](Handle& handle) {
        if (uintptr_t(workspace) % 256 || (!workspace && bytes)) return BLAS_INVALID_VALUE;
        log("workspace bytes=%zu stream=%d", bytes, fakeStream(handle.stream));
        handle.workspace = workspace;
        handle.workspace_bytes = bytes;
        return BLAS_SUCCESS;
    });
}

API int cublasSetMathMode(void* handle, int mode) {
    return on_handle(__func__, handle, [&](Handle& handle) { return handle.math = mode, BLAS_SUCCESS; });
}

API int cublasGetMathMode(void* handle, int* mode) {
    return on_handle(__func__, handle, [&](Handle& handle) { return *mode = handle.math, BLAS_SUCCESS; });
}

// Addresses are the host's, so alpha and beta are read in the same way in both modes.
API int cublasSetPointerMode_v2(void* handle, int mode) {
    return on_handle(__func__, handle, [&](Handle& handle) { return handle.pointers = mode, BLAS_SUCCESS; });
}

API int cublasGetPointerMode_v2(void* handle, int* mode) {
    return on_handle(__func__, handle, [&](Handle& handle) { return *mode = handle.pointers, BLAS_SUCCESS; });
}

API int cublasSetAtomicsMode(void* handle, int mode) {
    return on_handle(__func__, handle, [&](Handle& handle) { return handle.atomics = mode, BLAS_SUCCESS; });
}

API int cublasGetAtomicsMode(void* handle, int* mode) {
    return on_handle(__func__, handle, [&](Handle& handle) { return *mode = handle.atomics, BLAS_SUCCESS; });
}

API int cublasSgemm_v2(void* handle, int operation_a, int operation_b, int m, int n, int k, const float* alpha,
                       const float* a, int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
    return gemm(__func__, handle, operation_a, operation_b, m, n, k, alpha, {a, F32, lda, 0}, {b, F32, ldb, 0}, beta,
                {c, F32, ldc, 0}, 1, COMPUTE_32F);
}

API int cublasSgemmStridedBatched(void* handle, int operation_a, int operation_b, int m, int n, int k,
                                  const float* alpha, const float* a, int lda, long long stride_a, const float* b,
                                  int ldb, long long stride_b, const float* beta, float* c, int ldc,
                                  long long stride_c, int batch) {
    return gemm(__func__, handle, operation_a, operation_b, m, n, k, alpha, {a, F32, lda, stride_a},
                {b, F32, ldb, stride_b}, beta, {c, F32, ldc, stride_c}, batch, COMPUTE_32F);
}

API int cublasGemmEx(void* handle, int operation_a, int operation_b, int m, int n, int k, const void* alpha,
                     const void* a, int type_a, int lda, const void* b, int type_b, int ldb, const void* beta, void* c,
                     int type_c, int ldc, int compute, int) {
    return gemm(__func__, handle, operation_a, operation_b, m, n, k, alpha, {a, type_a, lda, 0}, {b, type_b, ldb, 0},
                beta, {c, type_c, ldc, 0}, 1, compute);
}

API int cublasGemmStridedBatchedEx(void* handle, int operation_a, int operation_b, int m, int n, int k,
                                   const void* alpha, const void* a, int type_a, int lda, long long stride_a,
                                   const void* b, int type_b, int ldb, long long stride_b, const void* beta, void* c,
                                   int type_c, int ldc, long long stride_c, int batch, int compute, int) {
    return gemm(__func__, handle, operation_a, operation_b, m, n, k, alpha, {a, type_a, lda, stride_a},
                {b, type_b, ldb, stride_b}, beta, {c, type_c, ldc, stride_c}, batch, compute);
}
