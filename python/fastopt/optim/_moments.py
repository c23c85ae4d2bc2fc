"""Scalars of the two averages of Adam and its relatives: ``csrc/rules/moments.h``."""

from __future__ import annotations

from typing import Any

from ._program import Scalars


def moment_scalars(betas: tuple[Any, Any]) -> Scalars:
    beta1, beta2 = betas
    return {"one_minus_beta1": 1.0 - beta1, "beta2": beta2, "one_minus_beta2": 1.0 - beta2}
