// Heads out of a fused projection: copies.
//
// Grid: any; ceil(elements of the result / 256) blocks give every thread one. Block: 256.

// Part 0, 1 or 2 (query, key, value) of [batch, positions, heads, 3, head_dim] as
// [batch, heads, positions, head_dim].
PARITY_KERNEL split_heads(const Stored* fused, Stored* out, i64 batch, i64 positions, i64 heads,
                          i64 head_dim, int part) {
    PARITY_EACH_ELEMENT(i, batch * heads * positions * head_dim) {
        const i64 entry = i % head_dim, position = i / head_dim % positions;
        const i64 head = i / head_dim / positions % heads, which = i / head_dim / positions / heads;
        const i64 token = which * positions + position;
        out[i] = fused[((token * heads + head) * 3 + part) * head_dim + entry];
    }
}
