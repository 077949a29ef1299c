// Root-mean-square normalisation of rows as torch's fused F.rms_norm computes it on a GPU, for rows
// of a multiple of 4 elements, at most 2^24, all pointers aligned to 4 elements.
//
// Stored as `Stored`; the sum of squares and the result in fp32; rounded once, when an element of
// the result is stored. Formulas and tree: vectorized_layer_norm_kernel with rms_norm = true in
// aten/src/ATen/native/cuda/layer_norm_kernel.cu of PyTorch's main branch. That `sum + x · x` is
// fused is how nvcc contracts this expression by default: it was read from the source, not, as the
// layer normalisation beside it, from machine code.
//
// Thread t of 128 takes the quads t, t + 128, … one element after the other; lanes are added to those
// 16, 8, 4, 2, 1 below them; then warps 2 and 3 to 0 and 1, then 1 to 0.
//
// Grid: a block a row. Block: (32, 4).
PARITY_KERNEL rms_norm(const Stored* x, const Stored* weight, Stored* out, i64 columns, float eps) {
    __shared__ float upper[2];
    __shared__ float all;
    const int thread = threadIdx.x + 32 * threadIdx.y;
    const i64 quads = columns / 4;
    const Quad* rows = reinterpret_cast<const Quad*>(x) + blockIdx.x * quads;
    Quad* results = reinterpret_cast<Quad*>(out) + blockIdx.x * quads;

    float squares = 0.0f;
    for (i64 i = thread; i < quads; i += 128) {
        const Quad quad = rows[i];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const float value = widen(quad.at[k]);
            squares = __fmaf_rn(value, value, squares);
        }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        squares = squares + __shfl_down_sync(0xffffffff, squares, offset);
    for (int warps = 2; warps > 0; warps /= 2) {
        const int warp = threadIdx.y;
        if (threadIdx.x == 0 && warp >= warps && warp < 2 * warps) upper[warp - warps] = squares;
        __syncthreads();
        if (threadIdx.x == 0 && warp < warps) squares = squares + upper[warp];
        __syncthreads();
    }
    if (thread == 0) all = squares;
    __syncthreads();

    const float inverse = rsqrtf(all / float(columns) + eps);
    const Quad* weights = reinterpret_cast<const Quad*>(weight);
    for (i64 i = thread; i < quads; i += 128) {
        const Quad quad = rows[i], factor = weights[i];
        Quad result;
#pragma unroll
        for (int k = 0; k < 4; ++k)
            result.at[k] = narrow(widen(factor.at[k]) * (inverse * widen(quad.at[k])));
        results[i] = result;
    }
}
