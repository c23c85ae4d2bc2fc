"""One update of one parameter: load, prologue, rule, store.

All arithmetic is in the compute type: float32 for float32, bfloat16 and float16 parameters, float64
for float64. Every operation is rounded once, to nearest; nothing is contracted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import half
from .half import Array
from .math import sign

# A rule takes (param, grad, *states, *, scalars...) and returns (param, *states).
RULES: dict[str, Callable[..., tuple[Array, ...]]] = {}


def rule(name: str) -> Callable[[Callable[..., tuple[Array, ...]]], Callable[..., tuple[Array, ...]]]:
    """Registers a rule under the name its kernel has."""

    def register(function: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
        RULES[name] = function
        return function

    return register


def unscale(grad: Array, *, loss_scale: Any) -> Array:
    """AMP: what is written back to the gradient, and what the update goes on with."""
    return grad / loss_scale if loss_scale != 1 else grad


def prologue(
    param: Array, grad: Array, *, grad_factor: Any, weight_decay: Any, l1: Any, decay: Any
) -> tuple[Array, Array]:
    """Clip and maximize, L2, L1, decoupled decay; a part that is off changes no bit."""
    if grad_factor != 1:
        grad = grad * grad_factor
    if weight_decay != 0:
        grad = grad + weight_decay * param
    if l1 != 0:
        grad = grad + l1 * sign(param)
    return param * decay, grad


def update(
    name: str,
    param: Array,
    grad: Array,
    states: list[Array],
    common: Mapping[str, float],
    scalars: Mapping[str, float],
) -> None:
    """Updates the flat arrays in place.

    Args:
        name: the rule.
        param, grad, states: 1-D arrays of equal length; bfloat16 as ``half.bfloat16`` (uint16).
        common: the prologue's scalars, in double.
        scalars: the rule's, in double; both are rounded once, to the compute type.
    """
    compute = np.float64 if param.dtype == np.float64 else np.float32
    with np.errstate(all="ignore"):
        rounded = {key: compute(value) for key, value in common.items()}
        loss_scale = rounded.pop("loss_scale")
        wide_grad = unscale(half.load(grad), loss_scale=loss_scale)
        if loss_scale != 1:
            half.store(wide_grad, grad)
        wide_param, wide_grad = prologue(half.load(param), wide_grad, **rounded)
        results = RULES[name](
            wide_param,
            wide_grad,
            *map(half.load, states),
            **{key: compute(value) for key, value in scalars.items()},
        )
        for result, out in zip(results, [param, *states], strict=True):
            half.store(result, out)
