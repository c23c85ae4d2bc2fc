"""LARS (arXiv 1708.03888), without momentum, with it, and in Nesterov's form."""

from __future__ import annotations

import math
from typing import Any

from .half import Array
from .pipeline import rule


def _gradient(param: Array, grad: Array, *states: Array, **_: Any) -> tuple[Array, ...]:
    return (grad,)


def _scale(
    param_squares: float,
    grad_squares: float,
    n: int,
    *,
    weight_decay: float,
    trust_coefficient: float,
    eps: float,
    adapts: float,
    **_: float,
) -> float:
    """Returns the local rate, which is 1 where either norm is 0 or NaN."""
    if adapts == 0 or not (param_squares > 0 and grad_squares > 0):
        return 1.0
    norm = math.sqrt(param_squares)
    return trust_coefficient * norm / (math.sqrt(grad_squares) + weight_decay * norm + eps)


def _rule(name: str, *, momentum_buffer: bool, nesterov: bool) -> None:
    """Registers a variant."""

    def lars(
        param: Array,
        grad: Array,
        *states: Array,
        momentum: Any,
        grad_weight: Any,
        look_ahead: Any,
        step_size: Any,
        weight_decay: Any,
        trust_coefficient: Any,
        eps: Any,
        adapts: Any,
        scale: Any,
    ) -> tuple[Array, ...]:
        scaled = scale * (grad + weight_decay * param if weight_decay != 0 else grad)
        velocities = [momentum * velocity + grad_weight * scaled for velocity in states]
        direction = velocities[0] if momentum_buffer else scaled
        if nesterov:
            direction = look_ahead * scaled + momentum * direction
        return param - step_size * direction, *velocities

    rule(name, states=int(momentum_buffer), measured=_gradient, scale=_scale)(lars)


_rule("lars", momentum_buffer=False, nesterov=False)
_rule("lars_momentum", momentum_buffer=True, nesterov=False)
_rule("lars_nesterov", momentum_buffer=True, nesterov=True)
