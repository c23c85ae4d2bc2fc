"""Finds the tests about one thing: an optimizer, a member of the dropout family, a norm. `make check K=Lion` runs them.

A test is about the names in its own name, in the ids of its parameters and in its module's name:
``test_mask[dropout2d]``, ``test_equals_reference[Lion(lr=0.01)]``, ``test_lookahead.py``. pytest's ``-k Adam`` would
also take AdamW.
"""

from __future__ import annotations

import re

import fastopt
from fastopt.nn import functional


def _key(name: str) -> str:
    """One spelling for all: Dropout2d is dropout2d, BatchNorm is batch_norm."""
    return name.lower().replace("_", "")


_OPTIMIZERS = [name for name in fastopt.optim.__all__ if isinstance(getattr(fastopt.optim, name), type)]
_FUNCTIONS = [name for name in functional.__all__ if "drop" in name or "norm" in name]
_NORMS = [name for name in fastopt.nn.__all__ if "Norm" in name]
THINGS = {
    _key(name): name
    for name in sorted({*_OPTIMIZERS, *_FUNCTIONS, *_NORMS} - {"CommonOptions", "Optimizer"}, key=str.lower)
}

# Longest first: feature_alpha_dropout must not count as alpha_dropout. Any word may have underscores.
_NAMES = "|".join("_?".join(key) for key in sorted(THINGS, key=len, reverse=True))
_NAMED = re.compile(rf"(?<![a-z0-9])({_NAMES})(?![a-z0-9])", re.IGNORECASE)


def things_of(nodeid: str) -> set[str]:
    return {THINGS[_key(name)] for name in _NAMED.findall(nodeid)}


def thing(name: str) -> str:
    """Finds a thing by any spelling of its name."""
    if _key(name) not in THINGS:
        raise ValueError(f"no tests are about {name!r}; there are: {', '.join(THINGS.values())}")
    return THINGS[_key(name)]
