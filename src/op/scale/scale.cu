// Elements times a constant: stored as `Stored`, one product in fp32, rounded once.
//
// Grid: any; ceil(count / 256) blocks give every thread one element. Block: 256.

PARITY_KERNEL scale(const Stored* x, Stored* out, i64 count, float factor) {
    PARITY_EACH_ELEMENT(i, count) out[i] = narrow(factor * widen(x[i]));
}
