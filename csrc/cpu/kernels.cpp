// All kernels, compiled once per ISA (CMakeLists.txt). Everything but the table is in an anonymous
// namespace, and nothing from the standard library is included: an inline function shared with another
// ISA's file could be linked into it and run on a CPU that lacks the instructions.
#include "cpu/kernels.h"

#include "cpu/dropout/dropout.h"
#include "cpu/norm/columns.h"
#include "cpu/norm/planes.h"
#include "cpu/norm/rows.h"
#include "cpu/norm/segments.h"
#include "cpu/optim/adafactor.h"
#include "cpu/optim/elementwise.h"
#include "cpu/optim/scaled.h"
#include "cpu/reductions.h"
#include "cpu/vectors/history.h"
#include "rules/list.h"

namespace fastopt {
namespace {

template <class Kind>
constexpr RuleEntry one_pass(const char* name) {
    RuleEntry entry{name, Kind::scalar_names, Kind::states, Kind::reads_grad, false, 1, {}, {}, {}, {}, nullptr};
    entry.f32[0] = {step<Kind, float>, nullptr};
    entry.f64[0] = {step<Kind, double>, nullptr};
    if constexpr (Kind::may_be_cautious) {
        entry.masked_f32[0] = {count_agreeing<Kind, float>, combine_counts};
        entry.masked_f32[1] = entry.f32[0];
        entry.masked_f64[0] = {count_agreeing<Kind, double>, combine_counts};
        entry.masked_f64[1] = entry.f64[0];
    }
    return entry;
}

template <class Rule>
constexpr RuleEntry several_passes(const char* name) {
    RuleEntry entry{name, Rule::scalar_names, Rule::states, true, Rule::factored, Rule::pass_count, {}, {}, {},
                    {},   Rule::join_group};
    for (int k = 0; k < Rule::pass_count; ++k) {
        entry.f32[k] = Rule::template passes<float>[k];
        entry.f64[k] = Rule::template passes<double>[k];
    }
    return entry;
}

#define FASTOPT_ONE_PASS(name, ...) one_pass<OnePass<__VA_ARGS__>>(name),
#define FASTOPT_STATE_ONLY(name, ...) one_pass<StateOnly<__VA_ARGS__>>(name),
#define FASTOPT_GRAD_ONLY(name, ...) one_pass<GradOnly<__VA_ARGS__>>(name),
#define FASTOPT_SCALED(name, ...) several_passes<Scaled<__VA_ARGS__>>(name),
#define FASTOPT_GROUPED(name, ...) several_passes<Grouped<__VA_ARGS__>>(name),
#define FASTOPT_SEVERAL_PASSES(name, ...) several_passes<__VA_ARGS__>(name),
#define FASTOPT_CLIP(name) one_pass<Clip>(name),

constexpr RuleEntry rules[] = {
    FASTOPT_RULES(FASTOPT_ONE_PASS, FASTOPT_STATE_ONLY, FASTOPT_GRAD_ONLY, FASTOPT_SCALED, FASTOPT_GROUPED,
                  FASTOPT_SEVERAL_PASSES,
                  FASTOPT_CLIP)  //
};

constexpr bool states_fit() {
    for (const RuleEntry& rule : rules)
        if (rule.states > kMaxStates) return false;
    return true;
}
static_assert(states_fit(), "a rule with more states than kMaxStates (common.h), which may be raised");

#define FASTOPT_REDUCTION(name, Sum) {name, norm_of<Sum>, reduce<Sum, float>, reduce<Sum, double>},
constexpr ReductionEntry reductions[] = {FASTOPT_SUMS(FASTOPT_REDUCTION)};

#define FASTOPT_DROPOUT(name, ...) \
    {name,                         \
     __VA_ARGS__::scalar_names,    \
     __VA_ARGS__::residual,        \
     __VA_ARGS__::bias,            \
     drop<__VA_ARGS__, float>,     \
     drop<__VA_ARGS__, double>},

constexpr DropoutEntry dropouts[] = {FASTOPT_DROPOUTS(FASTOPT_DROPOUT)};
constexpr DropoutTable dropout = {dropouts,
                                  sizeof dropouts / sizeof dropouts[0],
                                  drop_and_sum<float>,
                                  drop_and_sum<double>,
                                  write_mask,
                                  write_packed_mask,
                                  write_blocks};

constexpr NormTable norm = {
    activation_names,    activation_costly,  sizeof activation_names / sizeof activation_names[0],
    planes<float>,       planes<double>,     columns<float>,
    columns<double>,     rows<Layer, float>, rows<Layer, double>,
    rows<RMS, float>,    rows<RMS, double>,  add_summands<float>,
    add_summands<double>};

template <class T>
constexpr VectorKernels vector_kernels = {gather_vector<T>, scatter_vector<T>, multiply_history<T>, combine_rows<T>,
                                          join_gathered,    join_multiplied,   join_combined};
constexpr VectorTable vectors = {vector_kernels<float>, vector_kernels<double>};

#define FASTOPT_TEXT_(a) #a
#define FASTOPT_TEXT(a) FASTOPT_TEXT_(a)
#define FASTOPT_JOIN_(a, b) a##b
#define FASTOPT_JOIN(a, b) FASTOPT_JOIN_(a, b)

constexpr KernelTable table = {FASTOPT_TEXT(FASTOPT_ISA),
                               rules,
                               sizeof rules / sizeof rules[0],
                               reductions,
                               sizeof reductions / sizeof reductions[0],
                               Prologue::scalar_names,
                               &dropout,
                               &norm,
                               &vectors};

}  // namespace
}  // namespace fastopt

extern "C" const fastopt::KernelTable* FASTOPT_JOIN(fastopt_kernels_, FASTOPT_ISA)() { return &fastopt::table; }
