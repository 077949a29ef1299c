// cap · tanh(x / cap) of every element; the formula is generated (src/op/formula_source.rs).
//
// Stored as `Stored`, computed in fp32, rounded once when stored; or, where `each` is not 0, after
// every operation, as eager execution leaves it between its kernels.
//
// Grid: any; ceil(count / 256) blocks give every thread one element. Block: 256.

PARITY_KERNEL soft_cap(const Stored* x, Stored* out, i64 count, float cap, int each) {
    PARITY_EACH_ELEMENT(i, count) {
        const float value = widen(x[i]);
        out[i] = narrow(each ? formula::soft_cap<true>(cap, value)
                             : formula::soft_cap<false>(cap, value));
    }
}
