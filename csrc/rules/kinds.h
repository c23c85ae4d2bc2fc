// What happens to one element in each kind of rule (list.h): one definition for every CPU and for CUDA. Gradients come
// as the prologue leaves them. Constants are made from a `source`, which a device has: prologue(), rule<Rule>() and
// scale(). `is_identity`: nothing would change.
#pragma once

#include "rules/prologue.h"

namespace fastopt {
namespace {

// Whether a rule applies a decoupled decay itself, and says which.
template <class Rule, class = void>
constexpr bool decays_itself = false;
template <class Rule>
constexpr bool decays_itself<Rule, decltype(void(&Rule::template decay<float>))> = true;

template <class Rule>
struct OnePass {
    static constexpr const char* scalar_names = Rule::scalar_names;
    static constexpr int states = Rule::states;
    static constexpr bool reads_param = true, reads_grad = true, reads_scratch = false, writes_param = true;
    static constexpr bool may_be_cautious = true;

    template <class T>
    struct Constants {
        Prologue::Scalars<T> common;
        typename Rule::template Scalars<T> own;

        template <class Source>
        FASTOPT_HD explicit Constants(const Source& source)
            : common(source.prologue()), own(source.template rule<Rule>()) {}
        FASTOPT_HD bool is_identity() const { return false; }
    };

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Constants<T>& c) {
        param = Prologue::decayed(param, c.common);
        Rule::update(param, grad, state, c.own);
    }

    // By what the parameter shrinks.
    template <class T>
    FASTOPT_HD static T decay(const Constants<T>& c) {
        if constexpr (decays_itself<Rule>) return Rule::decay(c.own);
        return c.common.decay;
    }
};

template <class Rule>
struct StateOnly {
    static constexpr const char* scalar_names = Rule::scalar_names;
    static constexpr int states = Rule::states;
    static constexpr bool reads_param = true, reads_grad = false, reads_scratch = false, writes_param = true;
    static constexpr bool may_be_cautious = false;

    template <class T>
    struct Constants {
        typename Rule::template Scalars<T> own;

        template <class Source>
        FASTOPT_HD explicit Constants(const Source& source) : own(source.template rule<Rule>()) {}
        FASTOPT_HD bool is_identity() const { return false; }
    };

    template <class T>
    FASTOPT_HD static void update(T& param, T, T* state, const Constants<T>& c) {
        Rule::update(param, state, c.own);
    }
};

template <class Rule>
struct GradOnly {
    static constexpr const char* scalar_names = Rule::scalar_names;
    static constexpr int states = Rule::states;
    static constexpr bool reads_param = true, reads_grad = true, reads_scratch = false, writes_param = false;
    static constexpr bool may_be_cautious = false;

    template <class T>
    struct Constants {
        typename Rule::template Scalars<T> own;

        template <class Source>
        FASTOPT_HD explicit Constants(const Source& source) : own(source.template rule<Rule>()) {}
        FASTOPT_HD bool is_identity() const { return false; }
    };

    template <class T>
    FASTOPT_HD static void update(T&, T grad, T* state, const Constants<T>& c) {
        Rule::update(grad, state, c.own);
    }
};

// The first pass of a scaled rule: what it reads, and the two numbers of an element whose squares are summed. It stores
// nothing.
template <class Rule>
struct ScaledMeasure {
    static constexpr int first_state = 0, states = Rule::measured_states;
    static constexpr bool reads_param = Rule::measures_param, reads_grad = true;
    static constexpr bool squares = true, first_is_param = true;

    template <class T>
    FASTOPT_HD static void measure(T param, T grad, T* state, const typename Rule::template Scalars<T>& c, T& first,
                                   T& second) {
        first = param;
        second = Rule::measured(param, grad, state, c);
    }
};

// The first pass of a grouped rule, whose two terms are summed as they are.
template <class Rule>
struct GroupedMeasure {
    static constexpr int first_state = Rule::states - Rule::measured_states, states = Rule::measured_states;
    static constexpr bool reads_param = true, reads_grad = true;
    static constexpr bool squares = false, first_is_param = false;

    template <class T>
    FASTOPT_HD static void measure(T param, T grad, T* state, const typename Rule::template Scalars<T>& c, T& first,
                                   T& second) {
        Rule::measure(param, grad, state, c, first, second);
    }
};

// The second pass of a scaled rule.
template <class Rule>
struct ScaledApply {
    static constexpr const char* scalar_names = Rule::scalar_names;
    static constexpr int states = Rule::states;
    static constexpr bool reads_param = true, reads_grad = true, reads_scratch = true, writes_param = true;
    static constexpr bool may_be_cautious = false;

    template <class T>
    struct Constants : OnePass<Rule>::template Constants<T> {
        T scale;

        template <class Source>
        FASTOPT_HD explicit Constants(const Source& source)
            : OnePass<Rule>::template Constants<T>(source), scale(source.scale()) {}
    };

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Constants<T>& c) {
        param = Prologue::decayed(param, c.common);
        Rule::update(param, grad, state, c.own, c.scale);
    }
};

// The second pass of a grouped rule. It leaves alone the states after those that the rule updates.
template <class Rule>
struct GroupedApply : ScaledApply<Rule> {
    static constexpr int states = Rule::updated_states;
};

// Gradients that are passed as parameters.
struct Clip {
    static constexpr const char* scalar_names = "";
    static constexpr int states = 0;
    static constexpr bool reads_param = true, reads_grad = false, reads_scratch = false, writes_param = true;
    static constexpr bool may_be_cautious = false;

    template <class T>
    struct Constants {
        Prologue::Scalars<T> common;

        template <class Source>
        FASTOPT_HD explicit Constants(const Source& source) : common(source.prologue()) {}
        FASTOPT_HD bool is_identity() const { return !Prologue::changes_grad(common); }
    };

    template <class T>
    FASTOPT_HD static void update(T& param, T, T*, const Constants<T>& c) {
        Prologue::clip(&param, 1, c.common);
    }
};

}  // namespace
}  // namespace fastopt
