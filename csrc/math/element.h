// Single elements of a tensor of any type.
#pragma once

#include "math/half.h"

namespace fastopt {
namespace {

template <class T>
constexpr DType kNative = DType::f32;
template <>
constexpr DType kNative<double> = DType::f64;

FASTOPT_HD double element(const Array& array, int64_t i) {
    switch (array.type) {
        case DType::f32: return double(static_cast<const float*>(array.data)[i]);
        case DType::f64: return static_cast<const double*>(array.data)[i];
        case DType::bf16: return double(BFloat16::load(static_cast<const uint16_t*>(array.data)[i]));
        case DType::f16: return double(Float16::load(static_cast<const uint16_t*>(array.data)[i]));
        default: return 0;
    }
}

// Rounds `value` to the array's type; to a half type through float32.
FASTOPT_HD void set_element(const Array& array, int64_t i, double value) {
    switch (array.type) {
        case DType::f32: static_cast<float*>(array.data)[i] = float(value); break;
        case DType::f64: static_cast<double*>(array.data)[i] = value; break;
        case DType::bf16: static_cast<uint16_t*>(array.data)[i] = BFloat16::store(float(value)); break;
        case DType::f16: static_cast<uint16_t*>(array.data)[i] = Float16::store(float(value)); break;
        default: break;
    }
}

}  // namespace
}  // namespace fastopt
