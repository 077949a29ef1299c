// Layer normalisation of rows as Megatron's fused mixed-precision kernel, which is apex's, computes
// it.
//
// Stored as `Stored`; statistics and result in fp32 with nvcc's fast arithmetic (approximate
// reciprocals, subnormals flushed); rounded once, when an element of the result is stored. Formulas
// and tree: megatron/fused_kernels/layer_norm_cuda_kernel.cu of Megatron-DeepSpeed, built with
// -O3 --use_fast_math; what is fused was read from the machine code that nvcc 13.0 makes of it for
// bf16 and sm_90. Its fp16 form, which reads eight elements at a time, was read from the source.
//
// Thread t of 128 takes the vectors of 4 (fp16: 8) elements t, t + 128, …, and the one whose vector
// crosses the end the elements that are left; lane l is joined with lane l + 1, l + 2, l + 4, l + 8,
// l + 16 around the warp; then warps 0 and 1 with 2 and 3, then 0 with 1.
//
// Grid: a block a row. Block: (32, 4).

namespace apex {

struct Moments {
    float mean, squares, count;
};

__device__ Moments with(Moments own, float x) {
    const float count = own.count + 1.0f;
    const float distance = fast::difference(x, own.mean);
    const float mean = fast::fused(distance, fast::reciprocal(count), own.mean);
    return {mean, fast::fused(distance, fast::difference(x, mean), own.squares), count};
}

__device__ Moments joined(Moments own, Moments other) {
    const float count = own.count + other.count;
    if (!(count > 0.0f)) return {0.0f, 0.0f, count};
    const float share = fast::reciprocal(count);
    const float of_own = fast::product(share, own.count);
    const float of_other = fast::product(other.count, share);
    const float distance = fast::difference(other.mean, own.mean);
    const float square = fast::product(distance, distance);
    const float between = fast::product(of_other, fast::product(of_own, square));
    return {fast::fused(of_own, own.mean, fast::product(of_other, other.mean)),
            fast::fused(count, between, fast::sum(own.squares, other.squares)), count};
}

__device__ Moments of_row(const Stored* x, i64 columns, int thread) {
    Moments own = {0.0f, 0.0f, 0.0f};
#ifdef PARITY_F16
    const int vector = 8;
    i64 at = vector * thread;
    // A row that starts within a 32-bit word: the first thread takes its first element alone.
    if (reinterpret_cast<u64>(x) % 4 != 0) {
        if (thread == 0) own = with(own, widen(x[0]));
        ++at;
    }
#else
    const int vector = 4;
    i64 at = vector * thread;
#endif
    for (; at + vector <= columns; at += 128 * vector)
        for (int k = 0; k < vector; ++k) own = with(own, widen(x[at + k]));
    for (; at < columns; ++at) own = with(own, widen(x[at]));
    return own;
}

}  // namespace apex

PARITY_KERNEL megatron_layer_norm(const Stored* x, const Stored* weight, const Stored* bias,
                                  Stored* out, i64 columns, float eps) {
    __shared__ apex::Moments upper[2];
    __shared__ apex::Moments all;
    const int lane = threadIdx.x, warp = threadIdx.y, thread = lane + 32 * warp;
    x += blockIdx.x * columns;
    out += blockIdx.x * columns;

    apex::Moments own = apex::of_row(x, columns, thread);
    for (int step = 1; step < 32; step *= 2) {
        const int from = (lane + step) % 32;
        own = apex::joined(own, {__shfl_sync(0xffffffff, own.mean, from),
                                 __shfl_sync(0xffffffff, own.squares, from),
                                 __shfl_sync(0xffffffff, own.count, from)});
    }
    for (int warps = 2; warps > 0; warps /= 2) {
        if (lane == 0 && warp >= warps && warp < 2 * warps) upper[warp - warps] = own;
        __syncthreads();
        if (lane == 0 && warp < warps) own = apex::joined(own, upper[warp]);
        __syncthreads();
    }
    if (thread == 0) all = own;
    __syncthreads();

    const float mean = all.mean;
    const float variance = fast::product(all.squares, fast::reciprocal(float(columns)));
    const float inverse = fast::inverse_root(fast::sum(variance, eps));
    for (i64 i = thread; i < columns; i += 128) {
        const float normal = fast::product(inverse, fast::difference(widen(x[i]), mean));
        out[i] = narrow(fast::fused(normal, widen(weight[i]), widen(bias[i])));
    }
}
