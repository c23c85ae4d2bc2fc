// Every rule, by the name Python asks for. Adding a rule is one header and one line here.
#pragma once

#include "adam.h"
#include "sgd.h"

#define FASTOPT_RULES(RULE)                  \
    RULE("adam", Adam<false>)                \
    RULE("adam_amsgrad", Adam<true>)         \
    RULE("sgd", Sgd)                         \
    RULE("sgd_momentum", SgdMomentum<false>) \
    RULE("sgd_nesterov", SgdMomentum<true>)
