// Activations: the value at z, the gradient that passes through it, and whether it is more costly than memory traffic.
#pragma once

#include "math/exponential.h"

namespace fastopt {
namespace {

struct Identity {
    static constexpr bool costly = false;
    template <class T>
    FASTOPT_HD static T value(T z, T) {
        return z;
    }
    template <class T>
    FASTOPT_HD static T gradient(T, T grad, T) {
        return grad;
    }
};

struct ReLU {
    static constexpr bool costly = false;
    template <class T>
    FASTOPT_HD static T value(T z, T) {
        return z <= T(0) ? T(0) : z;
    }
    template <class T>
    FASTOPT_HD static T gradient(T z, T grad, T) {
        return z <= T(0) ? T(0) : grad;
    }
};

struct ReLU6 {
    static constexpr bool costly = false;
    template <class T>
    FASTOPT_HD static T value(T z, T) {
        return clamp(z, T(0), T(6));
    }
    template <class T>
    FASTOPT_HD static T gradient(T z, T grad, T) {
        const T below = z <= T(0) ? T(0) : grad;
        return z >= T(6) ? T(0) : below;
    }
};

struct LeakyReLU {
    static constexpr bool costly = false;
    template <class T>
    FASTOPT_HD static T value(T z, T negative_slope) {
        return z > T(0) ? z : z * negative_slope;
    }
    template <class T>
    FASTOPT_HD static T gradient(T z, T grad, T negative_slope) {
        return z > T(0) ? grad : grad * negative_slope;
    }
};

struct ELU {
    static constexpr bool costly = true;
    template <class T>
    FASTOPT_HD static T value(T z, T) {
        return z > T(0) ? z : exponential_less_1(z);
    }
    template <class T>
    FASTOPT_HD static T gradient(T z, T grad, T) {
        return z > T(0) ? grad : grad * exponential(z);
    }
};

struct SiLU {
    static constexpr bool costly = true;
    template <class T>
    FASTOPT_HD static T value(T z, T) {
        return z / (T(1) + exponential(-z));
    }
    template <class T>
    FASTOPT_HD static T gradient(T z, T grad, T) {
        const T sigmoid = T(1) / (T(1) + exponential(-z));
        return grad * (sigmoid * (T(1) + z * (T(1) - sigmoid)));
    }
};

struct GELU {
    static constexpr bool costly = true;
    template <class T>
    FASTOPT_HD static T value(T z, T) {
        return z * normal(z).below;
    }
    template <class T>
    FASTOPT_HD static T gradient(T z, T grad, T) {
        const Normal<T> at = normal(z);
        return grad * (at.below + clamp(z, T(-1e4), T(1e4)) * at.density);
    }
};

struct Hardswish {
    static constexpr bool costly = false;
    template <class T>
    FASTOPT_HD static T value(T z, T) {
        return z * clamp(z + T(3), T(0), T(6)) * (T(1) / T(6));
    }
    template <class T>
    FASTOPT_HD static T gradient(T z, T grad, T) {
        const T inside = grad * (z * (T(1) / T(3)) + T(0.5));
        const T below = z <= T(-3) ? T(0) : inside;
        return z >= T(3) ? grad : below;
    }
};

// Name in Python, struct. The first one stands for no activation.
#define FASTOPT_ACTIVATIONS(ACTIVATION) \
    ACTIVATION("identity", Identity)    \
    ACTIVATION("relu", ReLU)            \
    ACTIVATION("relu6", ReLU6)          \
    ACTIVATION("leaky_relu", LeakyReLU) \
    ACTIVATION("elu", ELU)              \
    ACTIVATION("silu", SiLU)            \
    ACTIVATION("gelu", GELU)            \
    ACTIVATION("hardswish", Hardswish)

}  // namespace
}  // namespace fastopt
