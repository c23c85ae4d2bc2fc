// x^p from IEEE operations only, because libm's pow differs between machines. The relative error is below 1e-12 for the
// norms it is used in.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

// log2(x) for positive, finite, normal x: exponent + log2(mantissa), the mantissa in [sqrt(1/2), sqrt(2)).
FASTOPT_HD double log_2(double x) {
    uint64_t u;
    __builtin_memcpy(&u, &x, sizeof u);
    const uint64_t shifted = u - 0x3fe6a09e667f3bcdull;  // the bits of sqrt(1/2)
    const double exponent = double(int(int64_t(shifted) >> 52));
    const uint64_t mantissa_bits = (shifted & 0xfffffffffffffull) + 0x3fe6a09e667f3bcdull;
    double mantissa;
    __builtin_memcpy(&mantissa, &mantissa_bits, sizeof mantissa);
    const double s = (mantissa - 1) / (mantissa + 1);
    const double s2 = s * s;
    double series = 1.0 / 23;  // atanh(s) / s
    for (int odd = 21; odd > 0; odd -= 2) series = series * s2 + 1.0 / odd;
    return exponent + s * series * 0x1.71547652b82fep+1;  // 2 / ln(2)
}

// 2^y for y in [-1021, 1023].
FASTOPT_HD double exp_2(double y) {
    const double whole = (y + 0x1.8p52) - 0x1.8p52;       // rounded to nearest
    const double x = (y - whole) * 0x1.62e42fefa39efp-1;  // ln(2)
    double series = 1;
    for (int n = 14; n > 0; --n) series = series * x / n + 1;
    const uint64_t scale_bits = uint64_t(int64_t(int(whole)) + 1023) << 52;
    double scale;
    __builtin_memcpy(&scale, &scale_bits, sizeof scale);
    return series * scale;
}

// For x >= 0 and p != 0. Results beyond the normal range of double become 0 or infinite.
FASTOPT_HD double power(double x, double p) {
    const bool normal = x >= 0x1p-1022 && x <= largest(double());
    const double y = p * log_2(normal ? x : 1.0);
    const double inside = exp_2(clamp(y, -1021.0, 1023.0));
    const double result = y > 1023 ? __builtin_inf() : y < -1021 ? 0.0 : inside;
    const double edge = (x > 1) == (p > 0) ? __builtin_inf() : 0.0;  // the result for 0 and for infinity
    return normal ? result : x != x ? x : edge;
}

}  // namespace
}  // namespace fastopt
