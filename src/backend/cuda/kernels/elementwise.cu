// Elements computed each for itself: sums, scalings, activations.
//
// Stored as `Stored`, computed in fp32, rounded once when stored; or, where `each` is not 0, after
// every operation, as eager execution leaves it between its kernels. Constants are fp32 and never
// rounded. Nothing is fused. exp, tanh and erf are CUDA's own of fp32, which torch calls too.
//
// Grid: any; ceil(count / 256) blocks give every thread one element. Block: 256.

namespace formula {

enum Kind { BLOOM_GELU, GELU, QUICK_GELU, SILU, RELU, RELU_SQUARED };

template <bool EACH>
__device__ float denominator(float x) {
    const float power = settled<EACH>(expf(settled<EACH>(-1.0f * x)));
    return settled<EACH>(1.0f + power);
}

// NaN stays, and so does −0.
__device__ float positive(float x) { return x < 0.0f ? 0.0f : x; }

template <bool EACH>
__device__ float activation(int kind, float x) {
    switch (kind) {
        case BLOOM_GELU: {
            const float half = settled<EACH>(x * 0.5f);
            const float scaled = settled<EACH>(0.79788456f * x);
            const float cubic = settled<EACH>(settled<EACH>(0.044715f * x) * x);
            const float inner = settled<EACH>(scaled * settled<EACH>(1.0f + cubic));
            return settled<EACH>(half * settled<EACH>(1.0f + settled<EACH>(tanhf(inner))));
        }
        case GELU: {
            const float inner = settled<EACH>(x * 0.70710678f);
            const float half = settled<EACH>(x * 0.5f);
            return settled<EACH>(half * settled<EACH>(1.0f + settled<EACH>(erff(inner))));
        }
        case QUICK_GELU: {
            const float below = denominator<EACH>(settled<EACH>(1.702f * x));
            return settled<EACH>(x * settled<EACH>(1.0f / below));
        }
        case SILU:
            return settled<EACH>(x / denominator<EACH>(x));
        case RELU:
            return positive(x);
        default:
            return settled<EACH>(positive(x) * positive(x));
    }
}

template <bool EACH>
__device__ float soft_capped(float cap, float x) {
    return settled<EACH>(cap * settled<EACH>(tanhf(settled<EACH>(x / cap))));
}

}  // namespace formula

PARITY_KERNEL add(const Stored* a, const Stored* b, Stored* out, i64 count) {
    PARITY_EACH_ELEMENT(i, count) out[i] = narrow(widen(a[i]) + widen(b[i]));
}

PARITY_KERNEL add_row(const Stored* x, const Stored* row, Stored* out, i64 count, i64 columns) {
    PARITY_EACH_ELEMENT(i, count) out[i] = narrow(widen(x[i]) + widen(row[i % columns]));
}

// A row under itself; `count` is of the elements of the result.
PARITY_KERNEL fill_rows(const Stored* row, Stored* out, i64 count, i64 columns) {
    PARITY_EACH_ELEMENT(i, count) out[i] = row[i % columns];
}

PARITY_KERNEL scale(const Stored* x, Stored* out, i64 count, float factor) {
    PARITY_EACH_ELEMENT(i, count) out[i] = narrow(factor * widen(x[i]));
}

PARITY_KERNEL activation(const Stored* x, Stored* out, i64 count, int kind, int each) {
    PARITY_EACH_ELEMENT(i, count) {
        const float value = widen(x[i]);
        out[i] = narrow(each ? formula::activation<true>(kind, value)
                             : formula::activation<false>(kind, value));
    }
}

// activation(gate) · up. The activation is one kernel of torch's, so `each` rounds its result and
// the product, nothing within.
PARITY_KERNEL gate(const Stored* gate, const Stored* up, Stored* out, i64 count, int kind,
                   int each) {
    PARITY_EACH_ELEMENT(i, count) {
        const float activated = formula::activation<false>(kind, widen(gate[i]));
        out[i] = narrow((each ? rounded(activated) : activated) * widen(up[i]));
    }
}

// cap · tanh(x / cap).
PARITY_KERNEL soft_cap(const Stored* x, Stored* out, i64 count, float cap, int each) {
    PARITY_EACH_ELEMENT(i, count) {
        const float value = widen(x[i]);
        out[i] = narrow(each ? formula::soft_capped<true>(cap, value)
                             : formula::soft_capped<false>(cap, value));
    }
}
