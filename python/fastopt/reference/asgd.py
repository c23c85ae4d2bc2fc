"""ASGD (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from typing import Any

from .half import Array
from .math import lerp
from .pipeline import rule


@rule("asgd")
def asgd(
    param: Array, grad: Array, ax: Array, *, step_size: Any, shrink: Any, average_weight: Any
) -> tuple[Array, ...]:
    """``step_size`` is eta, ``shrink`` is 1 - lambd * eta, ``average_weight`` is mu."""
    param = param * shrink - step_size * grad
    return param, lerp(ax, param, average_weight)
