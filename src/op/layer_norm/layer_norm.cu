// Layer normalisation of rows as PyTorch computes it on a GPU.
//
// Stored as `Stored`; statistics and result in fp32; rounded once, when an element of the result is
// stored. Formulas and trees: aten/src/ATen/native/cuda/layer_norm_kernel.cu, block_reduce.cuh and
// native/SharedReduceOps.h of PyTorch 2.11; which products and sums are fused there was read from
// the sm_90 machine code of its wheel (torch 2.11.0+cu130), for fp32 and bf16.

namespace moments {

// Of the elements seen so far: how many, their mean, and the sum of squared distances from it.
struct Moments {
    float mean, squares, count;
};

__device__ Moments down(Moments own, int offset) {
    return {__shfl_down_sync(0xffffffff, own.mean, offset),
            __shfl_down_sync(0xffffffff, own.squares, offset),
            __shfl_down_sync(0xffffffff, own.count, offset)};
}

// Of the vectorised form: Welford's update with a reciprocal in place of the division.
__device__ Moments with(Moments own, float x) {
    const float distance = x - own.mean;
    const float count = own.count + 1.0f;
    const float mean = __fmaf_rn(distance, __frcp_rn(count), own.mean);
    return {mean, __fmaf_rn(distance, x - mean, own.squares), count};
}

// Chan's update, of the vectorised form. Threads beyond the row's end have a count of 0, and two of
// them leave zeros rather than 0 · (1 / 0).
__device__ Moments joined(Moments own, Moments other) {
    const float distance = own.mean - other.mean;
    const float count = other.count + own.count;
    if (!(count > 0.0f)) return {0.0f, 0.0f, count};
    const float share = __frcp_rn(count);
    const float of_other = other.count * share;
    const float of_own = own.count * share;
    return {__fmaf_rn(other.mean, of_other, of_own * own.mean),
            __fmaf_rn(of_own, distance * distance * other.count, other.squares + own.squares),
            count};
}

// Of the scalar form: a true division, whose quotient is added by an operation of its own.
__device__ Moments with_divided(Moments own, float x) {
    const float distance = x - own.mean;
    const float count = own.count + 1.0f;
    const float mean = own.mean + distance / count;
    return {mean, __fmaf_rn(distance, x - mean, own.squares), count};
}

// Of the scalar form: an empty side leaves the other as it is.
__device__ Moments joined_divided(Moments own, Moments other) {
    if (own.count == 0.0f) return other;
    if (other.count == 0.0f) return own;
    const float distance = other.mean - own.mean;
    const float count = own.count + other.count;
    const float share = other.count / count;
    return {__fmaf_rn(distance, share, own.mean),
            __fmaf_rn(distance * distance * own.count, share, own.squares + other.squares), count};
}

}  // namespace moments

// For rows of a multiple of 4 elements, at most 2^24, all pointers aligned to 4 elements.
//
// Thread t of 128 takes the quads t, t + 128, … one element after the other; lanes are joined with
// those 16, 8, 4, 2, 1 above them; then warps 0 and 1 with 2 and 3, then 0 with 1.
//
// Grid: a block a row. Block: (32, 4).
PARITY_KERNEL layer_norm(const Stored* x, const Stored* weight, const Stored* bias, Stored* out,
                         i64 columns, float eps) {
    __shared__ moments::Moments upper[2];
    __shared__ moments::Moments all;
    const int thread = threadIdx.x + 32 * threadIdx.y;
    const i64 quads = columns / 4;
    const Quad* rows = reinterpret_cast<const Quad*>(x) + blockIdx.x * quads;
    Quad* results = reinterpret_cast<Quad*>(out) + blockIdx.x * quads;

    moments::Moments own = {0.0f, 0.0f, 0.0f};
    for (i64 i = thread; i < quads; i += 128) {
        const Quad quad = rows[i];
#pragma unroll
        for (int k = 0; k < 4; ++k) own = moments::with(own, widen(quad.at[k]));
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        own = moments::joined(own, moments::down(own, offset));
    for (int warps = 2; warps > 0; warps /= 2) {
        const int warp = threadIdx.y;
        if (threadIdx.x == 0 && warp >= warps && warp < 2 * warps) upper[warp - warps] = own;
        __syncthreads();
        if (threadIdx.x == 0 && warp < warps) own = moments::joined(own, upper[warp]);
        __syncthreads();
    }
    if (thread == 0) all = own;
    __syncthreads();

    const float mean = all.mean;
    const float inverse = rsqrtf(all.squares / float(columns) + eps);
    const Quad* weights = reinterpret_cast<const Quad*>(weight);
    const Quad* biases = reinterpret_cast<const Quad*>(bias);
    for (i64 i = thread; i < quads; i += 128) {
        const Quad quad = rows[i], factor = weights[i], offset = biases[i];
        Quad result;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const float normal = inverse * (widen(quad.at[k]) - mean);
            result.at[k] = narrow(__fmaf_rn(widen(factor.at[k]), normal, widen(offset.at[k])));
        }
        results[i] = result;
    }
}

// For any other row. PyTorch stores mean and reciprocal standard deviation as fp32 between two
// kernels, so that one kernel gives the same bits.
//
// Thread t of 512 takes the elements t, t + 512, …; lanes are joined with those 16, 8, 4, 2, 1 above
// them; then lanes of the first warp, which hold the 16 warps and 16 empty moments, in the same way.
//
// Grid: a block a row. Block: 512.
PARITY_KERNEL layer_norm_scalar(const Stored* x, const Stored* weight, const Stored* bias,
                                Stored* out, i64 columns, float eps) {
    __shared__ moments::Moments warps[16];
    __shared__ float shared_mean, shared_inverse;
    const int thread = threadIdx.x;
    x += blockIdx.x * columns;
    out += blockIdx.x * columns;

    moments::Moments own = {0.0f, 0.0f, 0.0f};
    for (i64 i = thread; i < columns; i += 512) own = moments::with_divided(own, widen(x[i]));
    for (int offset = 16; offset > 0; offset /= 2)
        own = moments::joined_divided(own, moments::down(own, offset));
    if (thread % 32 == 0) warps[thread / 32] = own;
    __syncthreads();
    if (thread < 32) {
        own = thread < 16 ? warps[thread] : moments::Moments{0.0f, 0.0f, 0.0f};
        for (int offset = 16; offset > 0; offset /= 2)
            own = moments::joined_divided(own, moments::down(own, offset));
        if (thread == 0) {
            shared_mean = own.mean;
            shared_inverse = rsqrtf(own.squares / own.count + eps);
        }
    }
    __syncthreads();

    const float mean = shared_mean, inverse = shared_inverse;
    for (i64 i = thread; i < columns; i += 512) {
        const float normal = (widen(x[i]) - mean) * inverse;
        out[i] = narrow(__fmaf_rn(widen(weight[i]), normal, widen(bias[i])));
    }
}
