// Numbers of a state in 8 bits: blocks of kCodeBlock elements, as they lie in memory, with one float32 scale each, the
// largest magnitude. The codes are closed forms with more steps near zero, where most of the numbers are.
#pragma once

#include "math/half.h"
#include "math/ieee.h"

namespace fastopt {
namespace {

constexpr int kCodeBlock = 32;
constexpr int64_t kFewestCoded = 4096;  // a state of fewer elements stays float32

// Of the largest magnitude's bits: NaN where a number is not finite, and then the whole block is NaN; 0 for subnormal
// numbers, whose reciprocal may be infinite.
FASTOPT_HD float code_scale(uint32_t largest_bits) {
    return from_bits(largest_bits >= 0x7f800000u ? 0x7fc00000u : largest_bits < 0x00800000u ? 0u : largest_bits);
}

// By which numbers are multiplied before they are coded.
FASTOPT_HD float inverse_scale(float scale) { return scale > 0.0f ? 1.0f / scale : 0.0f; }

// To the nearest, ties to even; below 2^22 in magnitude.
FASTOPT_HD float round_to_integer(float x) { return (x + 12582912.0f) - 12582912.0f; }

// 127 steps of 2u / (1 + |u|) to each side.
struct SignedCode {
    using Storage = int8_t;
    FASTOPT_HD static int8_t encode(float x, float inverse) {
        const float u = x * inverse, number = u == u ? u : 0.0f;
        return int8_t(int32_t(round_to_integer(254.0f * number / (1.0f + magnitude(number)))));
    }
    FASTOPT_HD static float decode(int8_t code, float scale) {
        const float c = float(int32_t(code));
        return c / (254.0f - magnitude(c)) * scale;
    }
};

// 255 steps of the square root, for numbers that are not negative. A number that is not 0 gets no code of 0: what is
// divided by its root would explode.
struct NonNegativeCode {
    using Storage = uint8_t;
    FASTOPT_HD static uint8_t encode(float x, float inverse) {
        const float u = x * inverse, number = u > 0.0f ? u : 0.0f;
        const float rounded = round_to_integer(255.0f * square_root(number));
        return uint8_t(int32_t(number > 0.0f && rounded < 1.0f ? 1.0f : rounded));
    }
    FASTOPT_HD static float decode(uint8_t code, float scale) {
        const float root = float(int32_t(code)) / 255.0f;
        return root * root * scale;
    }
};

}  // namespace
}  // namespace fastopt
