// Heads side by side: copies.
//
// Grid: any; ceil(elements of the result / 256) blocks give every thread one. Block: 256.

// [batch, heads, positions, head_dim] as [batch, positions, heads · head_dim].
PARITY_KERNEL merge_heads(const Stored* x, Stored* out, i64 batch, i64 positions, i64 heads,
                          i64 head_dim) {
    PARITY_EACH_ELEMENT(i, batch * positions * heads * head_dim) {
        const i64 entry = i % head_dim, head = i / head_dim % heads;
        const i64 position = i / head_dim / heads % positions;
        const i64 which = i / head_dim / heads / positions;
        out[i] = x[((which * heads + head) * positions + position) * head_dim + entry];
    }
}
