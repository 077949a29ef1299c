// What a product with a bias is added to.
//
// Grid: any; ceil(count / 256) blocks give every thread one element. Block: 256.

// A row under itself; `count` is of the elements of the result.
PARITY_KERNEL fill_rows(const Stored* row, Stored* out, i64 count, i64 columns) {
    PARITY_EACH_ELEMENT(i, count) out[i] = row[i % columns];
}
