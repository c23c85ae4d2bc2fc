"""RMSprop (Hinton's lecture 6), centered (Graves, arXiv 1308.0850), with momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .math import lerp, maximum
from .pipeline import rule


def _rule(name: str, *, momentum_buffer: bool, centered: bool) -> None:
    """Registers a variant; its states are those of square_avg, momentum_buffer and grad_avg that it needs."""

    def rmsprop(
        param: Array,
        grad: Array,
        *states: Array,
        alpha: Any,
        one_minus_alpha: Any,
        eps: Any,
        eps_inside: Any,
        momentum: Any,
        grad_weight: Any,
        step_size: Any,
    ) -> tuple[Array, ...]:
        square_avg = alpha * states[0] + (one_minus_alpha * grad) * grad
        new = [square_avg]
        variance = square_avg
        if centered:
            grad_avg = lerp(states[-1], grad, one_minus_alpha)
            variance = maximum(square_avg - grad_avg * grad_avg, np.zeros_like(square_avg))
        root = np.sqrt(variance + eps_inside) + eps
        if momentum_buffer:
            velocity = momentum * states[1] + (grad_weight * grad) / root
            new.append(velocity)
            param = param - step_size * velocity
        else:
            param = param - (step_size * grad) / root
        if centered:
            new.append(grad_avg)
        return param, *new

    rule(name, states=1 + momentum_buffer + centered)(rmsprop)


_rule("rmsprop", momentum_buffer=False, centered=False)
_rule("rmsprop_momentum", momentum_buffer=True, centered=False)
_rule("rmsprop_centered", momentum_buffer=False, centered=True)
_rule("rmsprop_centered_momentum", momentum_buffer=True, centered=True)
