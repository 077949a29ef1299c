// Softmax of rows of attention scores as PyTorch computes it on a GPU, with the mask applied.
//
// Stored as `Stored`; scores widened, multiplied by `scale` in fp32 unless it is 1, exponentials and
// their sum in fp32; rounded once, when a probability is stored. Formulas and trees:
// aten/src/ATen/native/cuda/PersistentSoftmax.cuh, SoftMax.cu and block_reduce.cuh of PyTorch 2.11,
// expf and the form for short rows checked against the sm_90 machine code of its wheel (torch
// 2.11.0+cu130), the forms for long rows read from the source.
//
// Rows are queries of square matrices: row r belongs to query r % keys, which sees the first keys up
// to itself and `shift` more, at least one, or all if `full`. A key that is not seen has a probability
// of exactly 0 and no part in the maximum: PyTorch adds the least number of the storage type to its
// score, whose exponential is 0. The tree of the sum is that of `keys` elements all the same.
//
// nvcc fuses the last product of expf, by a power of two, with the addition to a sum. The product is
// exact unless it is subnormal, and a row's sum is at least 1, so the fusion is not repeated here.

namespace masked {

__device__ int seen(i64 row, int keys, int shift, int full) {
    if (full) return keys;
    const i64 end = row % keys + shift + 1;
    return end < 1 ? 1 : end < keys ? int(end) : keys;
}

__device__ float score(Stored stored, float scale) {
    return scale != 1.0f ? widen(stored) * scale : widen(stored);
}

__device__ float larger(float a, float b) { return a > b ? a : b; }

// A row, or two for short ones, of a warp or of a part of it, held in registers.
template <int LOG2>
__device__ void rows_of_warp(const Stored* scores, Stored* out, i64 rows, int keys, float scale,
                             int shift, int full) {
    constexpr int WIDTH = LOG2 < 5 ? 1 << LOG2 : 32;
    constexpr int EACH = (1 << LOG2) / WIDTH;
    constexpr int BATCH = LOG2 <= 7 ? 2 : 1;
    const int lane = threadIdx.x % WIDTH;
    const i64 group = i64(blockIdx.x) * (128 / WIDTH) + threadIdx.x / WIDTH;

    for (int batch = 0; batch < BATCH; ++batch) {
        // Every lane takes part in every shuffle, so a row beyond the last is one of no keys.
        const i64 row = group * BATCH + batch;
        const int end = row < rows ? seen(row, keys, shift, full) : 0;
        float value[EACH];
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int key = lane + i * WIDTH;
            value[i] = key < end ? score(scores[row * keys + key], scale) : -infinity();
        }
        float most = value[0];
#pragma unroll
        for (int i = 1; i < EACH; ++i) most = larger(most, value[i]);
#pragma unroll
        for (int offset = WIDTH / 2; offset > 0; offset /= 2)
            most = larger(most, __shfl_xor_sync(0xffffffff, most, offset));
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            value[i] = lane + i * WIDTH < end ? expf(value[i] - most) : 0.0f;
            sum += value[i];
        }
#pragma unroll
        for (int offset = WIDTH / 2; offset > 0; offset /= 2)
            sum += __shfl_xor_sync(0xffffffff, sum, offset);
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int key = lane + i * WIDTH;
            if (row < rows && key < keys) out[row * keys + key] = narrow(value[i] / sum);
        }
    }
}

// Calls `visit` with the keys of this thread in the order in which they are summed: vectors in turn;
// in the generic form first one key a thread up to a 16-byte boundary (`head` elements after the
// previous one), at last one key at a time of what fills no round of vectors.
template <typename Visit>
__device__ void keys_of_thread(int keys, int vector, int generic, int head, Visit visit) {
    const int thread = threadIdx.x, threads = blockDim.x;
    int start = 0;
    if (head > 0) {
        if (thread >= head) visit(thread - head);
        start = threads - head;
    }
    const int rest = generic ? (keys - start) % (vector * threads) : 0;
    for (int key = start + vector * thread; key < keys - rest; key += vector * threads)
        for (int k = 0; k < vector; ++k) visit(key + k);
    for (int key = keys - rest + thread; key < keys; key += threads) visit(key);
}

// Joins the values of a block and gives all threads the result: lanes with those 16, 8, 4, 2, 1 above
// them, then the warps in the same way, in a warp that is filled with `identity`.
template <typename Join>
__device__ float of_block(float own, float identity, Join join) {
    __shared__ float warps[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int offset = 16; offset > 0; offset /= 2)
        own = join(own, __shfl_down_sync(0xffffffff, own, offset));
    __syncthreads();
    if (lane == 0) warps[warp] = own;
    __syncthreads();
    if (warp == 0) {
        own = lane < int(blockDim.x) / 32 ? warps[lane] : identity;
        for (int offset = 16; offset > 0; offset /= 2)
            own = join(own, __shfl_down_sync(0xffffffff, own, offset));
        if (lane == 0) warps[0] = own;
    }
    __syncthreads();
    return warps[0];
}

}  // namespace masked

// Rows of at most 2^log2_elements keys, the least such power of two, up to 2048: PyTorch takes this
// form up to 2048 keys, or 1024 where the kernel itself widens fp16 to an fp32 result. bf16 is widened
// by a kernel before it, and its softmax is that of fp32 (`softmax` in SoftMax.cpp).
//
// With W = min(32, 2^log2_elements): lane l of W takes the keys l, l + W, … in turn; lanes are added
// to those W/2, …, 2, 1 away.
//
// Grid: ceil(rows / ((128 / W) · (log2_elements <= 7 ? 2 : 1))). Block: 128.
PARITY_KERNEL __launch_bounds__(128)
softmax_warp(const Stored* scores, Stored* out, i64 rows, int keys, int log2_elements, float scale,
             int shift, int full) {
    switch (log2_elements) {
#define PARITY_CASE(LOG2)                                                                \
    case LOG2:                                                                           \
        masked::rows_of_warp<LOG2>(scores, out, rows, keys, scale, shift, full);         \
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

// Longer rows, in PyTorch's three forms:
//
//   cunn_SoftMaxForwardReg   vector 1, generic 0: same types in and out, ceil(keys / block) < 10
//   cunn_SoftMaxForwardSmem  vector v, generic 0: otherwise, if keys % v == 0, both pointers are
//                            multiples of 16 bytes and keys < (49152 − block / 8) / size
//   cunn_SoftMaxForward      vector v, generic 1: otherwise; keys >= block
//
// with v = 16 bytes of the kernel's input, of `size` bytes an element: 4 for fp32 and bf16, which is
// widened before, and 8 for fp16. A row is read again rather than
// kept, which changes no bit. Exponentials are computed once for the sum and again for the result.
//
// Thread t takes keys in the order of `keys_of_thread`; see `of_block` for the rest of the tree.
//
// Grid: a block a row. Block: min(keys, 1024) rounded up to a multiple of 32, for all forms
// (SoftMaxForward_getBlockSize).
PARITY_KERNEL __launch_bounds__(1024)
softmax_block(const Stored* scores, Stored* out, int keys, float scale, int shift, int full,
              int vector, int generic) {
    const i64 row = blockIdx.x;
    scores += row * keys;
    out += row * keys;
    const int end = masked::seen(row, keys, shift, full);
    // Elements from a 16-byte boundary to the row, in the array that PyTorch gives its kernel, which
    // starts at one.
    const int head = generic ? int(row * keys % vector) : 0;

    const float least = -3.402823466e38f;
    float most = least;
    masked::keys_of_thread(keys, vector, generic, head, [&](int key) {
        if (key < end) most = masked::larger(most, masked::score(scores[key], scale));
    });
    most = masked::of_block(most, least, [](float a, float b) { return masked::larger(a, b); });
    float sum = 0.0f;
    masked::keys_of_thread(keys, vector, generic, head, [&](int key) {
        if (key < end) sum += expf(masked::score(scores[key], scale) - most);
    });
    sum = masked::of_block(sum, 0.0f, [](float a, float b) { return a + b; });
    masked::keys_of_thread(keys, vector, generic, head, [&](int key) {
        const float value = key < end ? expf(masked::score(scores[key], scale) - most) : 0.0f;
        out[key] = narrow(value / sum);
    });
}
