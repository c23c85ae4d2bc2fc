// Every rule with the name Python uses. Adding a rule takes one header and one line here.
#pragma once

#include "rules/adabound.h"
#include "rules/adadelta.h"
#include "rules/adafactor.h"
#include "rules/adagrad.h"
#include "rules/adam.h"
#include "rules/adamax.h"
#include "rules/adan.h"
#include "rules/ademamix.h"
#include "rules/adopt.h"
#include "rules/asgd.h"
#include "rules/lamb.h"
#include "rules/lars.h"
#include "rules/lion.h"
#include "rules/lookahead.h"
#include "rules/muon.h"
#include "rules/nadam.h"
#include "rules/prodigy.h"
#include "rules/radam.h"
#include "rules/rmsprop.h"
#include "rules/rprop.h"
#include "rules/schedule_free.h"
#include "rules/sgd.h"
#include "rules/stable_adamw.h"

// RULE: one element at a time. STATE_ONLY: the same without a gradient. GRAD_ONLY: the gradient moves the states, and
// the parameter stays. SCALED: the same with one number for the tensor, from the squares of its parameter and of what
// the rule measures. GROUPED: the same with one number for all tensors of the step, from two sums over all of them.
// MULTI_PASS: several passes with other sums between them; CPU and CUDA each have a struct of that name. CLIP: not a
// rule, but the prologue's clipping, which writes to the gradients.
#define FASTOPT_RULES(RULE, STATE_ONLY, GRAD_ONLY, SCALED, GROUPED, MULTI_PASS, CLIP) \
    RULE("adabound", AdaBound<false>)                                                 \
    RULE("adabound_amsbound", AdaBound<true>)                                         \
    RULE("adadelta", Adadelta)                                                        \
    RULE("adagrad", Adagrad)                                                          \
    RULE("adam", Adam<false>)                                                         \
    RULE("adam_amsgrad", Adam<true>)                                                  \
    RULE("adamax", Adamax)                                                            \
    RULE("adan", Adan)                                                                \
    RULE("ademamix", AdEMAMix)                                                        \
    RULE("adopt", Adopt)                                                              \
    RULE("asgd", Asgd)                                                                \
    RULE("lion", Lion)                                                                \
    RULE("nadam", NAdam)                                                              \
    RULE("radam", RAdam)                                                              \
    RULE("rmsprop", RmsProp<false, false>)                                            \
    RULE("rmsprop_momentum", RmsProp<true, false>)                                    \
    RULE("rmsprop_centered", RmsProp<false, true>)                                    \
    RULE("rmsprop_centered_momentum", RmsProp<true, true>)                            \
    RULE("rprop", Rprop)                                                              \
    RULE("schedule_free_adamw", ScheduleFreeAdamW)                                    \
    RULE("schedule_free_sgd", ScheduleFreeSgd)                                        \
    RULE("sgd", Sgd)                                                                  \
    RULE("sgd_momentum", SgdMomentum<false>)                                          \
    RULE("sgd_nesterov", SgdMomentum<true>)                                           \
    STATE_ONLY("lookahead", Lookahead)                                                \
    GRAD_ONLY("muon_momentum", MuonMomentum)                                          \
    SCALED("adafactor", AdafactorVector)                                              \
    SCALED("lamb", Lamb)                                                              \
    SCALED("lars", Lars<false, false>)                                                \
    SCALED("lars_momentum", Lars<true, false>)                                        \
    SCALED("lars_nesterov", Lars<true, true>)                                         \
    SCALED("stable_adamw", StableAdamW)                                               \
    GROUPED("prodigy", Prodigy)                                                       \
    MULTI_PASS("adafactor_factored", AdafactorMatrix)                                 \
    CLIP("clip")
