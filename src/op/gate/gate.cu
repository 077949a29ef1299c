// activation(gate) · up of every element; the functions are those of the activation kernel.
//
// Stored as `Stored`, computed in fp32, rounded once when stored. The activation is one kernel of
// torch's, so where `each` is not 0 its result is rounded too, and nothing within.
//
// Grid: any; ceil(count / 256) blocks give every thread one element. Block: 256.

namespace formula {
template <bool EACH>
__device__ float activation(int function, float x);
}

PARITY_KERNEL gate(const Stored* gate, const Stored* up, Stored* out, i64 count, int function,
                   int each) {
    PARITY_EACH_ELEMENT(i, count) {
        const float activated = formula::activation<false>(function, widen(gate[i]));
        out[i] = narrow((each ? rounded(activated) : activated) * widen(up[i]));
    }
}
