// Rotary position embeddings of rows of [batch, heads, positions, head_dim], by cosines and sines of
// [batch, positions, dims].
//
// Stored as `Stored`; a · cos − b · sin and b · cos + a · sin in fp32, nothing fused, rounded once; with
// `each` both products are rounded too, as eager execution leaves them. Entries from `dims` on are
// copied.
//
// Grid: any; ceil(rows · head_dim / 256) blocks give every thread one entry. Block: 256.
PARITY_KERNEL rotary(const Stored* x, const Stored* cosines, const Stored* sines, Stored* out,
                     i64 rows, int heads, int positions, int head_dim, int dims, int interleaved,
                     int each) {
    PARITY_EACH_ELEMENT(i, rows * head_dim) {
        const int entry = i % head_dim, half = dims / 2;
        if (entry >= 2 * half) {
            out[i] = x[i];
            continue;
        }
        const bool second = interleaved ? entry % 2 == 1 : entry >= half;
        const int pair = interleaved ? entry / 2 : entry % half;
        const int reach = interleaved ? 1 : half;
        const i64 row = i / head_dim;
        const i64 token = row / (i64(heads) * positions) * positions + row % positions;
        const i64 column = token * dims + (second ? pair + half : pair);
        const float own = widen(x[i]);
        const float other = widen(x[second ? i - reach : i + reach]);
        float along = own * widen(cosines[column]), across = other * widen(sines[column]);
        if (each) along = rounded(along), across = rounded(across);
        out[i] = narrow(second ? along + across : along - across);
    }
}
