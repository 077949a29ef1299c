// ALiBi biases of attention scores: stored as `Stored`, one product in fp32, rounded once.
//
// Grid: any; ceil(elements of the result / 256) blocks give every thread one. Block: 256.

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
