// Cosines or sines of the angles of [rows, pairs], for the first entries of the pairs and then, the same,
// for the second: [rows, 2 · pairs].
//
// Stored as `Stored`; functions are CUDA's own of fp32, as torch's, times the factor in fp32, nothing
// fused, rounded once.
//
// Grid: any; ceil(count / 256) blocks give every thread one element. Block: 256.
PARITY_KERNEL rotary_table(const float* angles, Stored* out, i64 count, int pairs, int cosine,
                           float factor) {
    PARITY_EACH_ELEMENT(i, count) {
        const float angle = angles[i / (2 * pairs) * pairs + i % pairs];
        out[i] = narrow((cosine ? cosf(angle) : sinf(angle)) * factor);
    }
}
