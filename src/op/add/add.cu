// Sums of two elements: stored as `Stored`, one addition in fp32, rounded once.
//
// Grid: any; ceil(count / 256) blocks give every thread one element. Block: 256.

PARITY_KERNEL add(const Stored* a, const Stored* b, Stored* out, i64 count) {
    PARITY_EACH_ELEMENT(i, count) out[i] = narrow(widen(a[i]) + widen(b[i]));
}
