// a · b.
//
// Stored as `Stored`, computed in fp32, rounded once. Grid: any; ceil(count / 256) blocks give every
// thread one element. Block: 256.

PARITY_KERNEL multiply(const Stored* a, const Stored* b, Stored* out, i64 count) {
    PARITY_EACH_ELEMENT(i, count) out[i] = narrow(widen(a[i]) * widen(b[i]));
}
