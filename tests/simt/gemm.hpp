// What cuBLAS and cuBLASLt compute: D = alpha op(A) op(B) + beta C + bias, column-major.
//
// f32, f16 and bf16 storage. Products and sums in fp32, one after the other in ascending k, alpha
// and beta and the bias (one of each row of D) in fp32, one rounding to D's type. This is one of
// the results that the libraries allow for; compute types and math modes are logged, not modelled.
#pragma once

#include "device.hpp"
#include "half.hpp"

#include <vector>

namespace fake {

// cublasStatus_t
enum BlasStatus {
    BLAS_SUCCESS = 0,
    BLAS_NOT_INITIALIZED = 1,
    BLAS_INVALID_VALUE = 7,
    BLAS_EXECUTION_FAILED = 13,
    BLAS_INTERNAL_ERROR = 14,
    BLAS_NOT_SUPPORTED = 15,
};

inline const char* blas_status_name(int status) {
    switch (status) {
    case 0: return "CUBLAS_STATUS_SUCCESS";
    case 1: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3: return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7: return "CUBLAS_STATUS_INVALID_VALUE";
    case 8: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case 11: return "CUBLAS_STATUS_MAPPING_ERROR";
    case 13: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case 15: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case 16: return "CUBLAS_STATUS_LICENSE_ERROR";
    default: return "unknown";
    }
}

// 13.1.0 is 130100.
inline size_t blas_version() { return number("PARITY_FAKE_CUBLAS", 130100); }

inline int blas_property(int property, int* value) {
    int parts[] = {int(blas_version() / 10000), int(blas_version() / 100 % 100), int(blas_version() % 100)};
    if (property < 0 || property > 2) return BLAS_INVALID_VALUE;
    *value = parts[property];
    return BLAS_SUCCESS;
}

// The status of a call before it does anything.
inline int blas_enter(const char* call) {
    if (int code = injected(call, BLAS_EXECUTION_FAILED)) return code;
    int context = fakeContext();
    return context == 0 ? BLAS_SUCCESS : context == 201 ? BLAS_NOT_INITIALIZED : BLAS_INTERNAL_ERROR;
}

enum Type { F32 = 0, F16 = 2, BF16 = 14 };  // cudaDataType_t

inline size_t type_size(int type) { return type == F32 ? 4 : type == F16 || type == BF16 ? 2 : 0; }

inline const char* type_name(int type) {
    return type == F32 ? "f32" : type == F16 ? "f16" : type == BF16 ? "bf16" : "other";
}

inline float element(const void* data, int type, size_t at) {
    if (type == F32) return ((const float*)data)[at];
    uint16_t value = ((const uint16_t*)data)[at];
    return type == F16 ? f16_to_float(value) : bf16_to_float(value);
}

inline void set_element(void* data, int type, size_t at, float value) {
    if (type == F32) ((float*)data)[at] = value;
    else ((uint16_t*)data)[at] = type == F16 ? float_to_f16(value) : float_to_bf16(value);
}

// Matrices one after another: as they are stored, before a transpose.
struct Matrix {
    const void* data;
    int type;
    size_t rows, cols;
    int64_t ld, stride;

    bool valid() const { return ld >= int64_t(rows) && ld > 0 && (data || !rows || !cols); }
    size_t bytes(size_t batch) const {
        return rows && cols && batch ? ((batch - 1) * stride + (cols - 1) * ld + rows) * type_size(type) : 0;
    }
    float at(size_t batch, size_t row, size_t col) const {
        return element(data, type, batch * stride + col * ld + row);
    }
};

struct Gemm {
    const char* call;
    int operation_a, operation_b;  // cublasOperation_t: 0 as stored, 1 transposed, 2 conjugated too
    size_t m, n, k, batch;
    float alpha, beta;
    Matrix a, b, c, d;
    const void* bias;
    int bias_type;
    int compute, math;
    void* workspace;
    size_t workspace_bytes;
    void* stream;

    int run() const;

private:
    void compute_batch(size_t batch) const;
};

inline int Gemm::run() const {
    if (!a.valid() || !b.valid() || !d.valid() || (beta != 0 && !c.valid())) return BLAS_INVALID_VALUE;
    for (const Matrix& matrix : {a, b, c, d})
        if (!type_size(matrix.type)) return BLAS_NOT_SUPPORTED;
    bool types = a.type == b.type && c.type == d.type && (d.type == a.type || d.type == F32);
    bool computes_float = compute == 68 || compute == 69 || (compute >= 74 && compute <= 77);
    if (!types || !computes_float) return BLAS_NOT_SUPPORTED;
    if (!m || !n || !batch) return BLAS_SUCCESS;

    char at[4][32];
    const void* pointers[] = {a.data, b.data, d.data, bias};
    for (int i = 0; i < 4; i++) fakeAddress(pointers[i], at[i], sizeof at[i]);
    log("gemm call=%s op=%c%c m=%zu n=%zu k=%zu lda=%ld ldb=%ld ldc=%ld types=%s,%s,%s a=%s b=%s c=%s bias=%s "
        "alpha=%g beta=%g batch=%zu strides=%ld,%ld,%ld compute=%d math=%d workspace=%zu stream=%d",
        call, "NTC"[operation_a], "NTC"[operation_b], m, n, k, long(a.ld), long(b.ld), long(d.ld), type_name(a.type),
        type_name(b.type), type_name(d.type), at[0], at[1], at[2], at[3], alpha, beta, batch, long(a.stride),
        long(b.stride), long(d.stride), compute, math, workspace_bytes, fakeStream(stream));

    Access accesses[] = {
        {a.data, k ? a.bytes(batch) : 0, false}, {b.data, k ? b.bytes(batch) : 0, false},
        {c.data, beta != 0 ? c.bytes(batch) : 0, false}, {bias, bias ? m * type_size(bias_type) : 0, false},
        {workspace, workspace_bytes, true}, {d.data, d.bytes(batch), true},
    };
    if (fakeLaunch(call, stream, accesses, sizeof accesses / sizeof *accesses)) return BLAS_EXECUTION_FAILED;
    for (size_t i = 0; i < batch; i++) compute_batch(i);
    return BLAS_SUCCESS;
}

inline void Gemm::compute_batch(size_t batch) const {
    std::vector<float> left(m * k), sums(m);  // op(A), column by column; a column of the product
    for (size_t p = 0; p < k; p++)
        for (size_t i = 0; i < m; i++) left[p * m + i] = operation_a ? a.at(batch, p, i) : a.at(batch, i, p);
    for (size_t j = 0; j < n; j++) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (size_t p = 0; p < k; p++) {
            float right = operation_b ? b.at(batch, j, p) : b.at(batch, p, j);
            for (size_t i = 0; i < m; i++) sums[i] += left[p * m + i] * right;
        }
        for (size_t i = 0; i < m; i++) {
            float value = alpha * sums[i];
            if (beta != 0) value += beta * c.at(batch, i, j);
            if (bias) value += element(bias, bias_type, i);
            set_element((void*)d.data, d.type, batch * d.stride + j * d.ld + i, value);
        }
    }
}

}  // namespace fake
