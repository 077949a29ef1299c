// What every kernel computes with: storage types and how they are widened and rounded, operations
// that have no operator, and the place of a thread.
//
// One translation unit a storage type: PARITY_F32, PARITY_F16 or PARITY_BF16 says which one `Stored`
// is. Values are widened exactly to fp32, computed and accumulated in fp32, and rounded to nearest
// even by `narrow`: once, unless a kernel says otherwise.
//
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: an operator is one IEEE
// operation, and a fused multiply-add is where __fmaf_rn is written and nowhere else. So the bits do
// not depend on a compiler's taste, and the same source runs on a CPU: with PARITY_SIMT defined the
// shim brings everything that this file has for the device only.

typedef long long i64;
typedef unsigned long long u64;

#ifndef PARITY_SIMT
#define PARITY_KERNEL extern "C" __global__ void
// A symbol that tells whoever holds a compiled module for which storage type it is.
#define PARITY_STORED(name) \
    extern "C" {            \
    __device__ char name;   \
    }

__device__ float f16_value(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ unsigned short f16_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ unsigned short bf16_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// What nvcc makes of an expression with --use_fast_math: approximate functions, and subnormal
// operands and results taken for zeros of their sign.
namespace fast {
__device__ float exp2(float x) {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

__device__ float reciprocal(float x) {
    float value;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

__device__ float inverse_root(float x) {
    float value;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

__device__ float sum(float a, float b) {
    float value;
    asm("add.rn.ftz.f32 %0, %1, %2;" : "=f"(value) : "f"(a), "f"(b));
    return value;
}

__device__ float difference(float a, float b) {
    float value;
    asm("sub.rn.ftz.f32 %0, %1, %2;" : "=f"(value) : "f"(a), "f"(b));
    return value;
}

__device__ float product(float a, float b) {
    float value;
    asm("mul.rn.ftz.f32 %0, %1, %2;" : "=f"(value) : "f"(a), "f"(b));
    return value;
}

// a · b + c, rounded once.
__device__ float fused(float a, float b, float c) {
    float value;
    asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(value) : "f"(a), "f"(b), "f"(c));
    return value;
}
}  // namespace fast
#endif

// Holds the bits of a half type. A struct, so that none is ever taken for an integer.
struct Half {
    unsigned short bits;
};

#if defined(PARITY_F32)
PARITY_STORED(stored_f32)
typedef float Stored;
__device__ float widen(Stored stored) { return stored; }
__device__ Stored narrow(float value) { return value; }
#elif defined(PARITY_F16)
PARITY_STORED(stored_f16)
typedef Half Stored;
__device__ float widen(Stored stored) { return f16_value(stored.bits); }
__device__ Stored narrow(float value) { return {f16_bits(value)}; }
#elif defined(PARITY_BF16)
PARITY_STORED(stored_bf16)
typedef Half Stored;
__device__ float widen(Stored stored) { return __int_as_float(int(stored.bits) << 16); }
__device__ Stored narrow(float value) { return {bf16_bits(value)}; }
#else
#error "define PARITY_F32, PARITY_F16 or PARITY_BF16"
#endif

// Four elements that are read or written at once, from an address that is a multiple of their size.
struct alignas(4 * sizeof(Stored)) Quad {
    Stored at[4];
};

// A value rounded to the storage type and widened again, as an operation of its own leaves it.
__device__ float rounded(float value) { return widen(narrow(value)); }

// With EACH, a value as eager execution leaves it; without, the value.
template <bool EACH>
__device__ float settled(float value) {
    return EACH ? rounded(value) : value;
}

// x, or 0 if that is larger. NaN stays, and so does −0.
__device__ float positive(float x) { return x < 0.0f ? 0.0f : x; }

__device__ float infinity() { return __int_as_float(0x7f800000); }

// The first element of this thread in a kernel that takes elements one by one, and the step to the
// next: a grid of any size covers them all.
__device__ i64 first_element() { return i64(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ i64 grid_step() { return i64(gridDim.x) * blockDim.x; }

#define PARITY_EACH_ELEMENT(i, count) \
    for (i64 i = first_element(); i < (count); i += grid_step())
