// Rotary position embeddings of rows of [batch, heads, positions, head_dim].
//
// Stored as `Stored`; sine and cosine (CUDA's own of fp32, as torch's) of the given fp32 angles,
// a · cos − b · sin and b · cos + a · sin in fp32, nothing fused, rounded once; with `each` the sine,
// the cosine and both products are rounded too, as eager execution leaves them. Entries from `dims` on
// are copied.
//
// Grid: any; ceil(rows · head_dim / 256) blocks give every thread one entry. Block: 256.
PARITY_KERNEL rotary(const Stored* x, Stored* out, i64 rows, int positions, int head_dim, int dims,
                     const float* angles, int interleaved, int each) {
    PARITY_EACH_ELEMENT(i, rows * head_dim) {
        const int entry = i % head_dim, half = dims / 2;
        if (entry >= 2 * half) {
            out[i] = x[i];
            continue;
        }
        const bool second = interleaved ? entry % 2 == 1 : entry >= half;
        const int pair = interleaved ? entry / 2 : entry % half;
        const int reach = interleaved ? 1 : half;
        const float own = widen(x[i]);
        const float other = widen(x[second ? i - reach : i + reach]);
        const float angle = angles[i / head_dim % positions * half + pair];
        float sine = sinf(angle), cosine = cosf(angle);
        if (each) sine = rounded(sine), cosine = rounded(cosine);
        float along = own * cosine, across = other * sine;
        if (each) along = rounded(along), across = rounded(across);
        out[i] = narrow(second ? along + across : along - across);
    }
}
