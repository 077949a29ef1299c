// 16-bit storage types as the GEMMs of the fake cuBLAS read and write them: exact to fp32, to
// nearest even from it.
#pragma once

#include <cstdint>
#include <cstring>

namespace fake {

inline uint32_t bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float bf16_to_float(uint16_t value) { return from_bits(uint32_t(value) << 16); }

inline uint16_t float_to_bf16(float value) {
    uint32_t word = bits(value);
    if (value != value) return uint16_t(word >> 16 | 0x40);
    return uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

inline float f16_to_float(uint16_t value) {
    uint32_t sign = uint32_t(value & 0x8000) << 16, rest = value & 0x7fff;
    if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // An f16's exponent and fraction, 112 exponents too low; the product is exact, for subnormals too.
    return from_bits(bits(from_bits(rest << 13) * 0x1p112f) | sign);
}

inline uint16_t float_to_f16(float value) {
    uint32_t word = bits(value), sign = word >> 16 & 0x8000, rest = word & 0x7fffffff;
    if (value != value) return uint16_t(sign | 0x7e00);
    if (rest >= bits(65520.0f)) return uint16_t(sign | 0x7c00);
    // Subnormals: adding 0.5 leaves a fraction whose last place is 2^-24, an f16's; the sum rounds.
    if (rest < bits(0x1p-14f)) return uint16_t(sign | (bits(from_bits(rest) + 0.5f) - bits(0.5f)));
    return uint16_t(sign | (rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13);
}

}  // namespace fake
