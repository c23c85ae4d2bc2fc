"""Gradient descent with momentum, Nesterov's form, and the learning rate inside the velocity."""

from __future__ import annotations

from typing import Any

from .half import Array
from .pipeline import rule


@rule("sgd")
def sgd(param: Array, grad: Array, *, lr: Any) -> tuple[Array, ...]:
    return (param - lr * grad,)


@rule("sgd_momentum")
def sgd_momentum(
    param: Array,
    grad: Array,
    momentum_buffer: Array,
    *,
    momentum: Any,
    grad_weight: Any,
    look_ahead: Any,
    step_size: Any,
) -> tuple[Array, ...]:
    """``look_ahead`` is Nesterov's; it is not used here."""
    velocity = momentum * momentum_buffer + grad_weight * grad
    return param - step_size * velocity, velocity


@rule("sgd_nesterov")
def sgd_nesterov(
    param: Array,
    grad: Array,
    momentum_buffer: Array,
    *,
    momentum: Any,
    grad_weight: Any,
    look_ahead: Any,
    step_size: Any,
) -> tuple[Array, ...]:
    velocity = momentum * momentum_buffer + grad_weight * grad
    direction = look_ahead * grad + momentum * velocity
    return param - step_size * direction, velocity
