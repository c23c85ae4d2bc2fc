// What the members of the dropout family do with one element. `keep` is 1 or 0.
#pragma once

#include "common.h"

namespace fastopt {
namespace {

template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
    using type = uint32_t;
};
template <>
struct BitsOf<double> {
    using type = uint64_t;
};

#if defined(__CUDA_ARCH__)  // a single instruction
template <class T>
FASTOPT_HD T select(uint8_t keep, T kept, T dropped) {
    return keep != 0 ? kept : dropped;
}
#else
// On bit patterns, so that a dropped inf or NaN leaves no trace, and so that compilers vectorise it, which they do not
// do with a conditional on AVX2.
template <class T>
FASTOPT_HD T select(uint8_t keep, T kept, T dropped) {
    using Bits = typename BitsOf<T>::type;
    Bits a, b;
    __builtin_memcpy(&a, &kept, sizeof a);
    __builtin_memcpy(&b, &dropped, sizeof b);
    const Bits mask = Bits(0) - Bits(keep);
    a = (a & mask) | (b & ~mask);
    __builtin_memcpy(&kept, &a, sizeof a);
    return kept;
}
#endif

// x and, where the rule has them, the elements of `residual` and `bias`.
template <class T>
struct Operands {
    T x, residual, bias;
};

struct Dropout {
    static constexpr bool residual = false, bias = false;
    FASTOPT_SCALARS(scale);

    template <class T>
    FASTOPT_HD static T apply(const Operands<T>& in, uint8_t keep, const Scalars<T>& c) {
        return select(keep, in.x * c.scale, T(0));
    }
};

// Klambauer et al. 2017: dropped units get SELU's negative limit, and an affine map restores mean and variance. `shift`
// and `dropped` are the map's values at 0 and at that limit.
struct AlphaDropout {
    static constexpr bool residual = false, bias = false;
    FASTOPT_SCALARS(scale, shift, dropped);

    template <class T>
    FASTOPT_HD static T apply(const Operands<T>& in, uint8_t keep, const Scalars<T>& c) {
        return select(keep, in.x * c.scale + c.shift, c.dropped);
    }
};

struct DropoutAdd {
    static constexpr bool residual = true, bias = false;
    FASTOPT_SCALARS(scale);

    template <class T>
    FASTOPT_HD static T apply(const Operands<T>& in, uint8_t keep, const Scalars<T>& c) {
        return in.residual + select(keep, in.x * c.scale, T(0));
    }
};

struct BiasDropoutAdd {
    static constexpr bool residual = true, bias = true;
    FASTOPT_SCALARS(scale);

    template <class T>
    FASTOPT_HD static T apply(const Operands<T>& in, uint8_t keep, const Scalars<T>& c) {
        return in.residual + select(keep, (in.x + in.bias) * c.scale, T(0));
    }
};

}  // namespace
}  // namespace fastopt

// All members: the name that Python uses, and the struct.
#define FASTOPT_DROPOUTS(RULE)          \
    RULE("dropout", Dropout)            \
    RULE("alpha_dropout", AlphaDropout) \
    RULE("dropout_add", DropoutAdd)     \
    RULE("bias_dropout_add", BiasDropoutAdd)
