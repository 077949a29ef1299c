// Heads out of a projection, and heads for every query of a group: copies.
//
// Grid: any; ceil(elements of the result / 256) blocks give every thread one. Block: 256.

// Heads of rows [batch · positions, width] as [batch, heads, positions, head_dim]: the first starts in
// column `first`, every next one `stride` columns later.
PARITY_KERNEL split_heads(const Stored* fused, Stored* out, i64 batch, i64 positions, i64 heads,
                          i64 head_dim, i64 width, i64 first, i64 stride) {
    PARITY_EACH_ELEMENT(i, batch * heads * positions * head_dim) {
        const i64 entry = i % head_dim, position = i / head_dim % positions;
        const i64 head = i / head_dim / positions % heads, which = i / head_dim / positions / heads;
        const i64 token = which * positions + position;
        out[i] = fused[token * width + first + head * stride + entry];
    }
}

// Each of so many heads of `size` elements, `times` times.
PARITY_KERNEL repeat_heads(const Stored* x, Stored* out, i64 heads, i64 size, i64 times) {
    PARITY_EACH_ELEMENT(i, heads * times * size) {
        out[i] = x[i / size / times * size + i % size];
    }
}
