#include "engine/dropout/mask_layout.h"

#include <algorithm>

namespace fastopt {
namespace {

struct Dim {
    int64_t size, memory, mask;
};

// Sorts dimensions, outermost in memory first, and joins neighbours into one dimension where the mask allows it.
int join(Dim* dims, int count) {
    std::stable_sort(dims, dims + count, [](const Dim& a, const Dim& b) { return a.memory > b.memory; });
    int joined = 0;
    for (int d = 0; d < count; ++d) {
        Dim* const outer = joined > 0 ? &dims[joined - 1] : nullptr;
        if (outer != nullptr && outer->mask == dims[d].mask * dims[d].size)
            *outer = {outer->size * dims[d].size, dims[d].memory, dims[d].mask};
        else
            dims[joined++] = dims[d];
    }
    return joined;
}

// Counts the units of work. Where the mask does not run along memory, they are tiles.
void divide(MaskLayout& layout) {
    const int inner = layout.ndim - 1;
    layout.across = -1;
    layout.elements_per_unit = 1;
    layout.units = 1;
    if (layout.mask[inner] > 1)
        for (int d = 0; d < inner; ++d)
            if (layout.mask[d] == 1) layout.across = d;
    for (int d = 0; d < layout.ndim; ++d) {
        const bool tiled = layout.across >= 0 && (d == layout.across || d == inner);
        const int64_t step = tiled ? std::min(layout.size[d], d == inner ? kAlong : kAcross) : 1;
        layout.elements_per_unit *= step;
        layout.units *= (layout.size[d] + step - 1) / step;
    }
}

// Elements that are contiguous in memory.
void lay_out_flat(int64_t n, MaskLayout& out) {
    out.ndim = 1;
    out.size[0] = n;
    out.memory[0] = out.mask[0] = 1;
    out.across = -1;
    out.units = n;
    out.elements_per_unit = 1;
}

}  // namespace

void lay_out_mask(const TensorView& tensor, int mask_dims, MaskLayout& out) {
    const int64_t parts = tensor.complex ? 2 : 1;
    Dim dims[kMaxMaskDims];
    int count = 0;
    int64_t element = 1;
    if (tensor.complex) dims[count++] = {2, 1, 0};
    for (int d = tensor.ndim - 1; d >= 0; --d) {
        if (tensor.sizes[d] == 1) continue;
        dims[count++] = {tensor.sizes[d], tensor.strides[d] * parts, d < mask_dims ? element : 0};
        if (d < mask_dims) element *= tensor.sizes[d];
    }
    count = join(dims, count);
    if (count == 0) return lay_out_flat(tensor.numel, out);
    out.ndim = count;
    for (int d = 0; d < count; ++d) {
        out.size[d] = dims[d].size;
        out.memory[d] = dims[d].memory;
        out.mask[d] = dims[d].mask;
    }
    divide(out);
}

}  // namespace fastopt
