// Segments of two arrays held against each other: the sums, extremes and counts of compare/kernel.rs,
// bit for bit.
//
// Stored as `Stored`; widened exactly to fp64, computed and summed in fp64, nothing fused and nothing
// rounded further. A segment is summed in 16 interleaved lanes, of which neighbours are folded until
// one is left: here a lane is a thread.
//
// Where a segment holds elements that are not finite, the lanes take turns at the elements that are
// finite on both sides, and the statistics of a side are of all its elements, one after the other.
// Every thread walks through the whole segment then: slow, and rare.
//
// Segments are pieces of rows: segment s is piece s % pieces of row s / pieces, from
// bounds[2 · piece] to bounds[2 · piece + 1].
//
// Grid: ceil(segments / 8). Block: 128.

namespace comparison {

constexpr int LANES = 16;
constexpr int WORDS = 22;

struct Side {
    double min, max, sum;
};

// Of the elements of a lane that are finite on both sides.
struct Lane {
    u64 unequal, max_ulp;
    double max_abs, sum_abs, squares, reference_squares;
    Side reference, candidate;
};

__device__ double larger(double a, double b) { return b > a ? b : a; }
__device__ double smaller(double a, double b) { return b < a ? b : a; }
__device__ bool is_nan(double value) { return value != value; }
__device__ bool is_infinite(double value) { return fabs(value) == double(infinity()); }
// A difference with itself is 0 for these alone.
__device__ bool is_finite(double value) { return value - value == 0.0; }

__device__ Side empty_side() { return {double(infinity()), -double(infinity()), 0.0}; }
__device__ Lane empty_lane() {
    return {0, 0, 0.0, 0.0, 0.0, 0.0, empty_side(), empty_side()};
}

// Where a value lies in the ordered list of all values; −0 and +0 are the same place.
__device__ i64 place(Stored stored) {
#ifdef PARITY_F32
    const int bits = __float_as_int(stored), magnitude = bits & 0x7fffffff;
#else
    const int bits = short(stored.bits), magnitude = bits & 0x7fff;
#endif
    return bits < 0 ? -i64(magnitude) : magnitude;
}

__device__ Side with(Side side, double value) {
    return {smaller(side.min, value), larger(side.max, value), side.sum + value};
}

__device__ Side joined(Side own, Side other) {
    return {smaller(own.min, other.min), larger(own.max, other.max), own.sum + other.sum};
}

__device__ Lane with(Lane lane, Stored reference, Stored candidate) {
    const double r = widen(reference), c = widen(candidate);
    const double difference = r - c, magnitude = fabs(difference);
    const i64 steps = place(reference) - place(candidate);
    const u64 ulps = steps < 0 ? -steps : steps;
    return {lane.unequal + (r != c ? 1 : 0),
            ulps > lane.max_ulp ? ulps : lane.max_ulp,
            larger(lane.max_abs, magnitude),
            lane.sum_abs + magnitude,
            lane.squares + difference * difference,
            lane.reference_squares + r * r,
            with(lane.reference, r),
            with(lane.candidate, c)};
}

template <typename T>
__device__ T above(T value, int offset) {
    return __shfl_down_sync(0xffffffff, value, offset, LANES);
}

__device__ Side above(Side side, int offset) {
    return {above(side.min, offset), above(side.max, offset), above(side.sum, offset)};
}

// The first lane's result is of all lanes: folding neighbours, then neighbours of those.
__device__ Lane folded(Lane own) {
    for (int offset = 1; offset < LANES; offset *= 2) {
        const u64 ulps = above(own.max_ulp, offset);
        own = {own.unequal + above(own.unequal, offset),
               ulps > own.max_ulp ? ulps : own.max_ulp,
               larger(own.max_abs, above(own.max_abs, offset)),
               own.sum_abs + above(own.sum_abs, offset),
               own.squares + above(own.squares, offset),
               own.reference_squares + above(own.reference_squares, offset),
               joined(own.reference, above(own.reference, offset)),
               joined(own.candidate, above(own.candidate, offset))};
    }
    return own;
}

__device__ bool same(double r, double c) { return r == c || (is_nan(r) && is_nan(c)); }

// |r − c| <= atol + rtol · |r|; what is not finite is close to the same.
__device__ bool is_close(double r, double c, double atol, double rtol) {
    if (is_finite(r) && is_finite(c)) return fabs(r - c) <= atol + rtol * fabs(r);
    return same(r, c);
}

// What a result is written as: one NaN for all, since machines differ in which they make.
__device__ u64 bits(double value) {
    return is_nan(value) ? 0x7ff8000000000000ull : u64(__double_as_longlong(value));
}

}  // namespace comparison

// Writes 22 words a segment: counts of 0 unequal elements, 1 disagreements and 2 agreements about what
// is not finite, 3 elements outside of `close` (0 if that is 0); 4 the largest distance in ulps; 5 the
// index within the segment of the first element with the largest difference, all ones if none is
// finite on both sides; 6 NaNs and 7 infinities of the reference, 8 and 9 of the candidate; then fp64:
// 10 the largest difference, 11 the sum of differences, 12 of their squares, 13 of the reference's
// squares; 14 least, 15 greatest, 16 sum of the reference, 17 to 19 of the candidate; 20 reference and
// 21 candidate at word 5, 0 if there is none.
PARITY_KERNEL compare(const Stored* reference, const Stored* candidate, i64 segments, i64 row,
                      int pieces, const i64* bounds, int close, double atol, double rtol, u64* out) {
    using namespace comparison;
    const int lane = threadIdx.x % LANES;
    const i64 segment = i64(blockIdx.x) * (blockDim.x / LANES) + threadIdx.x / LANES;
    // Every lane takes part in every shuffle, so a segment beyond the last is an empty one.
    i64 length = 0;
    if (segment < segments) {
        const i64 piece = segment % pieces;
        const i64 start = segment / pieces * row + bounds[2 * piece];
        length = bounds[2 * piece + 1] - bounds[2 * piece];
        reference += start;
        candidate += start;
    }

    Lane own = empty_lane();
    for (i64 i = lane; i < length; i += LANES) own = with(own, reference[i], candidate[i]);

    // A sum of finite differences of finite numbers is finite: anything else shows here.
    double total = own.sum_abs;
    for (int offset = 1; offset < LANES; offset *= 2)
        total += __shfl_xor_sync(0xffffffff, total, offset, LANES);
    const bool finite = is_finite(total);
    u64 agreements = 0, disagreements = 0;
    i64 comparable = 0;
    u64 nans[2] = {0, 0}, infinities[2] = {0, 0};
    Side sides[2] = {empty_side(), empty_side()};
    if (!finite) {
        own = empty_lane();
        for (i64 i = 0; i < length; ++i) {
            const double values[2] = {widen(reference[i]), widen(candidate[i])};
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                sides[side] = with(sides[side], values[side]);
                nans[side] += is_nan(values[side]);
                infinities[side] += is_infinite(values[side]);
            }
            if (is_finite(values[0]) && is_finite(values[1])) {
                if (comparable % LANES == lane) own = with(own, reference[i], candidate[i]);
                ++comparable;
            } else if (same(values[0], values[1])) {
                ++agreements;
            } else {
                ++disagreements;
            }
        }
#pragma unroll
        for (int side = 0; side < 2; ++side)
            if (nans[side] > 0) sides[side].min = sides[side].max = __longlong_as_double(-1);
    }
    const Lane all = folded(own);
    if (finite) sides[0] = all.reference, sides[1] = all.candidate;

    // The sum of its lanes' counts, the least of their indices.
    const double most = __shfl_sync(0xffffffff, all.max_abs, 0, LANES);
    u64 outside = 0, first = ~0ull;
    for (i64 i = lane; i < length; i += LANES) {
        const double r = widen(reference[i]), c = widen(candidate[i]);
        if (close && !is_close(r, c, atol, rtol)) ++outside;
        if (first == ~0ull && fabs(r - c) == most) first = i;
    }
    for (int offset = 1; offset < LANES; offset *= 2) {
        outside += above(outside, offset);
        const u64 other = above(first, offset);
        if (other < first) first = other;
    }
    if (lane != 0 || segment >= segments) return;

    const bool found = first != ~0ull;
    const u64 words[WORDS] = {
        all.unequal + disagreements,
        disagreements,
        agreements,
        outside,
        all.max_ulp,
        first,
        nans[0],
        infinities[0],
        nans[1],
        infinities[1],
        bits(all.max_abs),
        bits(all.sum_abs),
        bits(all.squares),
        bits(all.reference_squares),
        bits(sides[0].min),
        bits(sides[0].max),
        bits(sides[0].sum),
        bits(sides[1].min),
        bits(sides[1].max),
        bits(sides[1].sum),
        bits(found ? double(widen(reference[first])) : 0.0),
        bits(found ? double(widen(candidate[first])) : 0.0),
    };
    for (int word = 0; word < WORDS; ++word) out[segment * WORDS + word] = words[word];
}
