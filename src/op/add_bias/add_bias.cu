// A row added to every row: stored as `Stored`, one addition in fp32, rounded once.
//
// Grid: any; ceil(count / 256) blocks give every thread one element. Block: 256.

PARITY_KERNEL add_row(const Stored* x, const Stored* row, Stored* out, i64 count, i64 columns) {
    PARITY_EACH_ELEMENT(i, count) out[i] = narrow(widen(x[i]) + widen(row[i % columns]));
}
