// Rows of a table, copied: no arithmetic. Identifiers were validated before the launch.
//
// Grid: `count` blocks, one a token. Block: 256.

PARITY_KERNEL embedding(const void* tokens, int token_bytes, const Stored* weight, Stored* out,
                        i64 count, i64 hidden) {
    const i64 at = blockIdx.x;
    if (at >= count) return;
    const i64 token = token_bytes == 8 ? static_cast<const i64*>(tokens)[at]
                                       : static_cast<const int*>(tokens)[at];
    for (i64 column = threadIdx.x; column < hidden; column += blockDim.x)
        out[at * hidden + column] = weight[token * hidden + column];
}
