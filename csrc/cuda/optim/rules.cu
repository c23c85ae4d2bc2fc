// The table of rules, compiled in kParts parts so that a build uses several cores: part k has the rules whose row
// modulo kParts is k.
#include "cuda/optim/adafactor.h"
#include "cuda/optim/elementwise.h"
#include "cuda/optim/grouped.h"
#include "cuda/optim/rule_parts.h"
#include "cuda/optim/scaled.h"
#include "rules/list.h"

namespace fastopt::cuda {
namespace {

using Update = void (*)(const Stream&, const Task* const* tasks, int count);

template <int kRow, class Rule>
constexpr Update in_part() {
    if constexpr (kRow % kParts == FASTOPT_PART)
        return Rule::update;
    else
        return nullptr;
}

constexpr int kFirst = __COUNTER__ + 1;
#define FASTOPT_ONE_PASS(name, ...) in_part<__COUNTER__ - kFirst, Elementwise<OnePass<__VA_ARGS__>>>(),
#define FASTOPT_STATE_ONLY(name, ...) in_part<__COUNTER__ - kFirst, Elementwise<StateOnly<__VA_ARGS__>>>(),
#define FASTOPT_GRAD_ONLY(name, ...) in_part<__COUNTER__ - kFirst, Elementwise<GradOnly<__VA_ARGS__>>>(),
#define FASTOPT_SCALED(name, ...) in_part<__COUNTER__ - kFirst, Scaled<__VA_ARGS__>>(),
#define FASTOPT_GROUPED(name, ...) in_part<__COUNTER__ - kFirst, Grouped<__VA_ARGS__>>(),
#define FASTOPT_SEVERAL_PASSES(name, ...) in_part<__COUNTER__ - kFirst, __VA_ARGS__>(),
#define FASTOPT_CLIP(name) in_part<__COUNTER__ - kFirst, Elementwise<Clip>>(),

constexpr Update updates[] = {FASTOPT_RULES(FASTOPT_ONE_PASS, FASTOPT_STATE_ONLY, FASTOPT_GRAD_ONLY, FASTOPT_SCALED,
                                            FASTOPT_GROUPED, FASTOPT_SEVERAL_PASSES, FASTOPT_CLIP)};

}  // namespace

template <>
void update_in_part<FASTOPT_PART>(const Stream& stream, int rule, const Task* const* tasks, int count) {
    updates[rule](stream, tasks, count);
}

}  // namespace fastopt::cuda
