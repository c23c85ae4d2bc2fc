#include "engine/optim/rule_table.h"

#include <unordered_map>

#include "engine/workers/dispatch.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// Built once and never freed, because static destructors may run after Python has ended.
const std::unordered_map<std::string, Rule>& all_rules() {
    static const auto* rules = [] {
        auto* map = new std::unordered_map<std::string, Rule>;
        const KernelTable& table = kernels();
        for (int i = 0; i < table.rule_count; ++i) {
            const RuleEntry& entry = table.rules[i];
            map->emplace(entry.name,
                         Rule{i, entry.states, entry.reads_grad, entry.factored, ScalarNames(entry.scalar_names)});
        }
        return map;
    }();
    return *rules;
}

}  // namespace

const Rule& find_rule(const std::string& name) {
    const auto found = all_rules().find(name);
    if (found == all_rules().end()) throw py::key_error("no rule '" + name + "'");
    return found->second;
}

int find_reduction(const std::string& name) {
    const KernelTable& table = kernels();
    for (int i = 0; i < table.reduction_count; ++i)
        if (name == table.reductions[i].name) return i;
    throw py::key_error("no reduction '" + name + "'");
}

const ScalarNames& prologue_names() {
    static const auto* names = new ScalarNames(kernels().prologue_names);
    return *names;
}

py::dict describe_rules() {
    py::dict all;
    for (const auto& [name, rule] : all_rules())
        all[py::str(name)] = py::make_tuple(rule.states, rule.scalars.as_tuple(), rule.reads_grad, rule.factored);
    return all;
}

}  // namespace fastopt
