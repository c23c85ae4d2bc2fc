// Calls a rule's step in the part where it was compiled.
#include <array>
#include <utility>

#include "cuda/optim/rule_parts.h"

namespace fastopt::cuda {
namespace {

using Update = decltype(&update_in_part<0>);

template <int... kPart>
constexpr std::array<Update, kParts> all_parts(std::integer_sequence<int, kPart...>) {
    return {update_in_part<kPart>...};
}

}  // namespace

void update(const Stream& stream, int rule, const Task* const* tasks, int count) {
    static constexpr auto parts = all_parts(std::make_integer_sequence<int, kParts>());
    parts[static_cast<size_t>(rule % kParts)](stream, rule, tasks, count);
}

}  // namespace fastopt::cuda
