// A rule's step, wherever it was compiled.
#include "cuda/optim/rule_parts.h"

namespace fastopt::cuda {

void update(const Stream& stream, int rule, const Task* const* tasks, int count) {
    static constexpr decltype(&update_in_part<0>) parts[] = {update_in_part<0>, update_in_part<1>, update_in_part<2>,
                                                             update_in_part<3>};
    static_assert(sizeof parts / sizeof parts[0] == kParts);
    parts[rule % kParts](stream, rule, tasks, count);
}

}  // namespace fastopt::cuda
