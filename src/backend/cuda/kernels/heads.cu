// Attention heads: taken apart, put together, and their ALiBi biases. Copies, but for the bias: fp32,
// rounded once.
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

// slope · key for every query and key of `matrices` matrices, one a head of a batch; with `distance`,
// slope · (key − query).
PARITY_KERNEL alibi(const float* slopes, Stored* out, i64 matrices, int heads, int positions,
                    int distance) {
    PARITY_EACH_ELEMENT(i, matrices * positions * positions) {
        const i64 key = i % positions, query = i / positions % positions;
        const float slope = slopes[i / positions / positions % heads];
        const float at = distance ? float(key) - float(query) : float(key);
        out[i] = narrow(slope * at);
    }
}
