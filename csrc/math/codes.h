// Numbers of a state in 8 bits: blocks of kCodeBlock elements, as they lie in memory, with one float32 scale each, the
// largest magnitude. The codes are closed forms with more steps near zero, where most of the numbers are.
#pragma once

#include "math/half.h"
#include "math/ieee.h"

namespace fastopt {
namespace {

constexpr int kCodeBlock = 32;
constexpr int64_t kFewestCoded = 4096;  // a state of fewer elements stays float32

// The low byte is x rounded to the nearest integer, ties to even: 1.5 * 2^23 has its last place at 1.
FASTOPT_HD uint32_t rounded(float x) { return bits(x + 12582912.0f); }

// Of the bits of the largest magnitude: NaN where a number is not finite, and then the whole block is NaN; 0 for
// subnormal numbers, whose reciprocal may be infinite.
FASTOPT_HD float code_scale(uint32_t largest) {
    return from_bits(largest >= 0x7f800000u ? 0x7fc00000u : largest < 0x00800000u ? 0u : largest);
}
FASTOPT_HD float reciprocal_of_scale(float scale) { return scale > 0.0f ? 1.0f / scale : 0.0f; }

// encode() takes the reciprocal of the scale, 0 where there is none, and returns the code in the low byte.

// 127 steps of 2u / (1 + |u|) to each side.
struct SignedCode {
    using Storage = int8_t;
    FASTOPT_HD static uint32_t encode(float x, float reciprocal) {
        const float u = x * reciprocal, number = u == u ? u : 0.0f;
        return rounded(254.0f * number / (1.0f + magnitude(number)));
    }
    FASTOPT_HD static float decode(float code, float scale) { return code / (254.0f - magnitude(code)) * scale; }
};

// 255 steps of the square root, for numbers that are not negative. A number that is not 0 gets no code of 0: what is
// divided by its root would explode.
struct NonNegativeCode {
    using Storage = uint8_t;
    static constexpr float kOne = 1.0f / (255.0f * 255.0f);  // has the code 1
    FASTOPT_HD static uint32_t encode(float x, float reciprocal) {
        const float u = x * reciprocal, number = u > kOne ? u : kOne;
        return x > 0.0f ? rounded(255.0f * square_root(number)) : 0u;
    }
    FASTOPT_HD static float decode(float code, float scale) {
        const float root = code * (1.0f / 255.0f);
        return root * root * scale;
    }
};

}  // namespace
}  // namespace fastopt
