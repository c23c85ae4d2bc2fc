// Scalars of a rule, which are passed in double.
#pragma once

#include "common.h"

namespace fastopt {
namespace {

// Rounds each scalar once to the compute type.
template <template <class> class Scalars, class T>
Scalars<T> round_scalars(const double* values) {
    constexpr int count = sizeof(Scalars<T>) / sizeof(T);
    static_assert(count <= kMaxScalars, "a rule with more scalars than kMaxScalars (common.h), which may be raised");
    T rounded[count];
    for (int i = 0; i < count; ++i) rounded[i] = T(values[i]);
    Scalars<T> scalars;
    __builtin_memcpy(&scalars, rounded, sizeof scalars);
    return scalars;
}

}  // namespace
}  // namespace fastopt
