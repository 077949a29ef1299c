// Causal softmax of rows of attention scores as Megatron's fused kernel computes it.
//
// Stored as `Stored`; scores multiplied by `scale`, exponentials and their sum in fp32 with nvcc's fast
// arithmetic (approximate exponential and reciprocal, subnormals flushed); rounded once, when a
// probability is stored. Formulas and tree: megatron/fused_kernels/scaled_upper_triang_masked_softmax.h
// of Megatron-DeepSpeed, built with -O3 --use_fast_math; no product is fused in the machine code that
// nvcc 13.0 makes of it for bf16 and sm_90.
//
// Row r belongs to query r % keys and is one of r % keys + 1 elements; the rest of it is 0. With
// W = min(32, 2^log2_elements) and the least such power of two, at most 2048: lane l of W takes W keys
// apart single keys, or from 128 keys on runs of 4 that lie 4 · W apart; lanes are added to those
// W/2, …, 2, 1 away.
//
// Grid: ceil(rows / ((128 / W) · (log2_elements <= 7 ? 2 : 1))). Block: 128.

namespace causal {

__device__ float larger(float a, float b) { return a < b ? b : a; }

template <int LOG2>
__device__ void rows_of_warp(const Stored* scores, Stored* out, i64 rows, int keys, float scale) {
    constexpr int WIDTH = LOG2 < 5 ? 1 << LOG2 : 32;
    constexpr int EACH = (1 << LOG2) / WIDTH;
    constexpr int RUN = EACH < 4 ? 1 : 4;
    constexpr int BATCH = LOG2 <= 7 ? 2 : 1;
    const int lane = threadIdx.x % WIDTH;
    const i64 group = i64(blockIdx.x) * (128 / WIDTH) + threadIdx.x / WIDTH;

    for (int batch = 0; batch < BATCH; ++batch) {
        // Every lane takes part in every shuffle, so a row beyond the last is one of no keys.
        const i64 row = group * BATCH + batch;
        const int end = row < rows ? int(row % keys) + 1 : 0;
        const auto key = [lane](int i) { return i / RUN * RUN * WIDTH + lane * RUN + i % RUN; };
        float value[EACH];
#pragma unroll
        for (int i = 0; i < EACH; ++i)
            value[i] = key(i) < end ? fast::product(widen(scores[row * keys + key(i)]), scale)
                                    : -infinity();
        float most = value[0];
#pragma unroll
        for (int i = 1; i < EACH; ++i) most = larger(most, value[i]);
#pragma unroll
        for (int offset = WIDTH / 2; offset > 0; offset /= 2)
            most = larger(most, __shfl_xor_sync(0xffffffff, most, offset));
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const float binary = fast::product(fast::difference(value[i], most), 1.44269502f);
            value[i] = key(i) < end ? fast::exp2(binary) : 0.0f;
            sum = fast::sum(sum, value[i]);
        }
#pragma unroll
        for (int offset = WIDTH / 2; offset > 0; offset /= 2)
            sum = fast::sum(sum, __shfl_xor_sync(0xffffffff, sum, offset));
        const float inverse = fast::reciprocal(sum);
#pragma unroll
        for (int i = 0; i < EACH; ++i)
            if (row < rows && key(i) < keys)
                out[row * keys + key(i)] =
                    narrow(key(i) < end ? fast::product(inverse, value[i]) : 0.0f);
    }
}

}  // namespace causal

PARITY_KERNEL __launch_bounds__(128)
megatron_softmax(const Stored* scores, Stored* out, i64 rows, int keys, int log2_elements,
                 float scale) {
    switch (log2_elements) {
#define PARITY_CASE(LOG2)                                                  \
    case LOG2:                                                             \
        causal::rows_of_warp<LOG2>(scores, out, rows, keys, scale);        \
        break;
        PARITY_CASE(0)
        PARITY_CASE(1)
        PARITY_CASE(2)
        PARITY_CASE(3)
        PARITY_CASE(4)
        PARITY_CASE(5)
        PARITY_CASE(6)
        PARITY_CASE(7)
        PARITY_CASE(8)
        PARITY_CASE(9)
        PARITY_CASE(10)
        PARITY_CASE(11)
#undef PARITY_CASE
    }
}
