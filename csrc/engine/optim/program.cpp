#include "engine/optim/program.h"

#include <algorithm>
#include <iterator>

namespace py = pybind11;

namespace fastopt {
namespace {

struct OperationEntry {
    const char* name;
    size_t operands;
};

#define FASTOPT_ENTRY(name, operands, value) {#name, operands},
constexpr OperationEntry operations[] = {FASTOPT_OPERATIONS(FASTOPT_ENTRY)};
#undef FASTOPT_ENTRY

// Reads a program's instructions in order, so that each uses only values computed before it.
class Reader {
   public:
    Program read(const py::tuple& source, const Rule& rule) {
        if (source.size() != 6) throw py::value_error("not a program");
        for (const py::handle constant : source[0]) add_constant(constant.cast<double>());
        for (const py::handle instruction : source[1]) add_instruction(instruction.cast<py::tuple>());
        read_places(prologue_names(), source[2], program_.prologue);
        read_places(rule.scalars, source[3], program_.rule);
        const auto carried = source[4].cast<py::tuple>();
        if (carried.size() > kMaxCarried) throw py::value_error("too many carried states");
        for (size_t k = 0; k < carried.size(); ++k) program_.carried[k] = place(carried[k].cast<double>());
        if (!source[5].is_none()) program_.average_weight = place(source[5].cast<double>());
        return program_;
    }

   private:
    void add_constant(double value) {
        if (constants_ == kMaxProgramConstants) throw py::value_error("a program with too many constants");
        program_.constants[constants_++] = value;
    }

    void add_instruction(const py::tuple& source) {
        if (program_.instruction_count == kMaxInstructions) throw py::value_error("a program of too many operations");
        if (source.empty()) throw py::value_error("an operation without a name");
        const auto name = source[0].cast<std::string>();
        const auto* const entry = std::find_if(std::begin(operations), std::end(operations),
                                               [&](const OperationEntry& known) { return name == known.name; });
        if (entry == std::end(operations)) throw py::key_error("no operation '" + name + "'");
        if (source.size() != 1 + entry->operands) throw py::value_error("'" + name + "' has other operands");
        Instruction instruction{static_cast<Operation>(entry - operations), {}};
        for (size_t i = 0; i < entry->operands; ++i) instruction.operands[i] = place(source[1 + i].cast<double>());
        program_.instructions[program_.instruction_count++] = instruction;
    }

    void read_places(const ScalarNames& names, const py::dict& source, Operand* out) const {
        double places[kMaxScalars] = {};
        names.read(source, places);
        for (int i = 0; i < kMaxScalars; ++i) out[i] = place(places[i]);
    }

    Operand place(double value) const {
        if (!(value >= -constants_ && value < kInputs + program_.instruction_count))
            throw py::value_error("a program uses a value it does not have");
        return static_cast<Operand>(value);
    }

    Program program_{};
    int constants_ = 0;
};

py::dict named(const ScalarNames& names, const double* values) {
    py::dict result;
    for (const py::handle name : names.as_tuple()) result[name] = *values++;
    return result;
}

}  // namespace

Program read_program(const py::tuple& program, const Rule& rule) { return Reader().read(program, rule); }

py::tuple evaluate_program(const py::tuple& program, const std::string& rule,
                           const std::array<double, kInputs>& inputs) {
    const Rule& found = find_rule(rule);
    const Program read = read_program(program, found);
    Constants c{};
    evaluate(read, inputs.data(), c);
    py::tuple carried(program[4].cast<py::tuple>().size());
    for (size_t k = 0; k < carried.size(); ++k) carried[k] = c.carried[k];
    return py::make_tuple(named(prologue_names(), c.prologue), named(found.scalars, c.rule), carried);
}

}  // namespace fastopt
