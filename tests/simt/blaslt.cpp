// A fake libcublasLt.so.13: the GEMMs of gemm.hpp behind the descriptors of cuBLASLt.
//
// Modelled: column-major layouts with batches, transposes, epilogues DEFAULT and BIAS, a heuristic
// with one algorithm, which asks for what the preference allows of 1 MiB of workspace and is refused
// where the call brings less. Attributes that are not modelled are refused as not supported.
#include "gemm.hpp"

using namespace fake;

namespace {

struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld, batch = 1, stride = 0;

    Matrix matrix(const void* data) const { return {data, type, rows, cols, ld, stride}; }
};

struct Description {
    int compute;
    int operation_a = 0, operation_b = 0, epilogue = 1;
    const void* bias = nullptr;
    int bias_type = -1;  // D's
};

struct Preference {
    uint64_t workspace = 0;
    uint32_t reductions = ~0u;              // a bit a scheme
    uint32_t alignments[4] = {256, 256, 256, 256};  // of A, B, C and D
};

struct Algorithm {
    uint64_t magic, workspace, rest[6];
};

struct Choice {  // cublasLtMatmulHeuristicResult_t
    Algorithm algorithm;
    size_t workspace;
    int status;
    float waves;
    int rest[4];
};

constexpr uint64_t MAGIC = 0x5041524954594c54;
constexpr size_t WORKSPACE = 1 << 20;
constexpr int DEFAULT = 1, BIAS = 4;  // epilogues

// Reads an attribute's value, which has to have the attribute's size.
template <class T> int set(T& target, const void* value, size_t bytes) {
    if (bytes != sizeof(T)) return BLAS_INVALID_VALUE;
    std::memcpy(&target, value, bytes);
    return BLAS_SUCCESS;
}

// For an attribute that has only one value here.
int require(int only, const void* value, size_t bytes) {
    int asked = only;
    if (int status = set(asked, value, bytes)) return status;
    return asked == only ? BLAS_SUCCESS : BLAS_NOT_SUPPORTED;
}

// Whether the operands fit: D's shape, the inner dimension, batches.
bool fits(const Description& operation, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    uint64_t m = operation.operation_a ? a.cols : a.rows, k = operation.operation_a ? a.rows : a.cols;
    uint64_t n = operation.operation_b ? b.rows : b.cols, inner = operation.operation_b ? b.cols : b.rows;
    for (const Layout* layout : {&a, &b, &c, &d})
        if (layout->batch != d.batch || layout->ld < int64_t(layout->rows)) return false;
    return k == inner && d.rows == m && d.cols == n && c.rows == m && c.cols == n && c.type == d.type;
}

// Descriptors are the host's: they need no context, and outlive a lost device.
template <class T> int create(const char* call, T** descriptor, T object) {
    if (int code = injected(call, BLAS_EXECUTION_FAILED)) return code;
    *descriptor = new T(object);
    return BLAS_SUCCESS;
}

template <class T> int destroy(const char* call, T* descriptor) {
    if (int code = injected(call, BLAS_EXECUTION_FAILED)) return code;
    delete descriptor;
    return BLAS_SUCCESS;
}

}  // namespace

API int cublasLtCreate(int** handle) {
    if (int status = blas_enter(__func__)) return status;
    *handle = new int;
    return BLAS_SUCCESS;
}

API int cublasLtDestroy(int* handle) {
    if (int status = blas_enter(__func__)) return status;
    delete handle;
    return BLAS_SUCCESS;
}

API size_t cublasLtGetVersion() { return blas_version(); }
API int cublasLtGetProperty(int property, int* value) { return blas_property(property, value); }
API const char* cublasLtGetStatusName(int status) { return blas_status_name(status); }
API const char* cublasLtGetStatusString(int status) { return blas_status_name(status); }

API int cublasLtMatmulDescCreate(Description** operation, int compute, int scale) {
    return scale == F32 ? create(__func__, operation, Description{compute}) : BLAS_NOT_SUPPORTED;
}

API int cublasLtMatmulDescDestroy(Description* operation) { return destroy(__func__, operation); }

API int cublasLtMatmulDescSetAttribute(Description* operation, int attribute, const void* value, size_t bytes) {
    if (int code = injected(__func__, BLAS_EXECUTION_FAILED)) return code;
    switch (attribute) {
    case 0: return set(operation->compute, value, bytes);
    case 1: return require(F32, value, bytes);  // scale type
    case 2: return require(0, value, bytes);    // pointer mode
    case 3: return set(operation->operation_a, value, bytes);
    case 4: return set(operation->operation_b, value, bytes);
    case 7: return set(operation->epilogue, value, bytes);
    case 8: return set(operation->bias, value, bytes);
    case 26: return set(operation->bias_type, value, bytes);
    default: return BLAS_NOT_SUPPORTED;
    }
}

API int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    return create(__func__, layout, Layout{type, rows, cols, ld});
}

API int cublasLtMatrixLayoutDestroy(Layout* layout) { return destroy(__func__, layout); }

API int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t bytes) {
    if (int code = injected(__func__, BLAS_EXECUTION_FAILED)) return code;
    int batch = 0;
    switch (attribute) {
    case 0: return set(layout->type, value, bytes);
    case 1: return require(0, value, bytes);  // column-major
    case 2: return set(layout->rows, value, bytes);
    case 3: return set(layout->cols, value, bytes);
    case 4: return set(layout->ld, value, bytes);
    case 5:
        if (int status = set(batch, value, bytes)) return status;
        layout->batch = batch;
        return batch > 0 ? BLAS_SUCCESS : BLAS_INVALID_VALUE;
    case 6: return set(layout->stride, value, bytes);
    default: return BLAS_NOT_SUPPORTED;
    }
}

API int cublasLtMatmulPreferenceCreate(Preference** preference) { return create(__func__, preference, Preference{}); }
API int cublasLtMatmulPreferenceDestroy(Preference* preference) { return destroy(__func__, preference); }

API int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    if (int code = injected(__func__, BLAS_EXECUTION_FAILED)) return code;
    switch (attribute) {
    case 0: return require(0, value, bytes);  // best fit
    case 1: return set(preference->workspace, value, bytes);
    case 3: return set(preference->reductions, value, bytes);
    case 5: case 6: case 7: case 8: return set(preference->alignments[attribute - 5], value, bytes);
    default: return BLAS_NOT_SUPPORTED;
    }
}

API int cublasLtMatmulAlgoGetHeuristic(void*, const Description* operation, const Layout* a, const Layout* b,
                                       const Layout* c, const Layout* d, const Preference* preference, int asked,
                                       Choice* choices, int* found) {
    *found = 0;
    if (int status = blas_enter(__func__)) return status;
    if (asked < 1 || !fits(*operation, *a, *b, *c, *d)) return BLAS_INVALID_VALUE;
    size_t workspace = preference->workspace < WORKSPACE ? preference->workspace : WORKSPACE;
    // There is one algorithm to choose; what was asked is the caller's to get right.
    log("heuristic m=%zu n=%zu allowed=%zu workspace=%zu reductions=%u alignments=%u,%u,%u,%u", size_t(d->rows),
        size_t(d->cols), size_t(preference->workspace), workspace, preference->reductions, preference->alignments[0],
        preference->alignments[1], preference->alignments[2], preference->alignments[3]);
    *choices = {{MAGIC, workspace, {}}, workspace, BLAS_SUCCESS, 1.0f, {}};
    *found = 1;
    return BLAS_SUCCESS;
}

API int cublasLtMatmulAlgoConfigGetAttribute(const Algorithm* algorithm, int attribute, void* value, size_t bytes,
                                             size_t* written) {
    if (int code = injected(__func__, BLAS_EXECUTION_FAILED)) return code;
    if (algorithm->magic != MAGIC || attribute < 0 || attribute > 8) return BLAS_INVALID_VALUE;
    size_t size = attribute >= 7 ? 2 : 4;  // shapes of instructions and clusters are 16 bits
    if (written) *written = size;
    if (bytes == 0) return written ? BLAS_SUCCESS : BLAS_INVALID_VALUE;
    if (bytes < size) return BLAS_INVALID_VALUE;
    uint32_t number = attribute == 2;  // one split of k; the rest is 0
    std::memcpy(value, &number, size);
    return BLAS_SUCCESS;
}

API int cublasLtMatmul(void*, const Description* operation, const float* alpha, const void* a, const Layout* layout_a,
                       const void* b, const Layout* layout_b, const float* beta, const void* c, const Layout* layout_c,
                       void* d, const Layout* layout_d, const Algorithm* algorithm, void* workspace,
                       size_t workspace_bytes, void* stream) {
    if (int status = blas_enter(__func__)) return status;
    if (!fits(*operation, *layout_a, *layout_b, *layout_c, *layout_d)) return BLAS_INVALID_VALUE;
    if (uintptr_t(workspace) % 16) return BLAS_INVALID_VALUE;
    if (algorithm && (algorithm->magic != MAGIC || workspace_bytes < algorithm->workspace)) return BLAS_INVALID_VALUE;
    if (operation->epilogue != DEFAULT && operation->epilogue != BIAS) return BLAS_NOT_SUPPORTED;
    bool biased = operation->epilogue == BIAS;
    if (biased && !operation->bias) return BLAS_INVALID_VALUE;
    int bias_type = operation->bias_type < 0 ? layout_d->type : operation->bias_type;
    size_t k = operation->operation_a ? layout_a->rows : layout_a->cols;
    return Gemm{__func__, operation->operation_a, operation->operation_b, layout_d->rows, layout_d->cols, k,
                size_t(layout_d->batch), *alpha, *beta, layout_a->matrix(a), layout_b->matrix(b), layout_c->matrix(c),
                layout_d->matrix(d), biased ? operation->bias : nullptr, bias_type, operation->compute, 0, workspace,
                workspace_bytes, stream}.run();
}
