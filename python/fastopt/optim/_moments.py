"""Scalars of what several rules share: Adam's two averages (``csrc/rules/moments.h``), SGD's velocity."""

from __future__ import annotations

from typing import Any

from ._program import Number, Scalars, number
from ._update import Group


def moment_scalars(betas: tuple[Any, Any]) -> Scalars:
    beta1, beta2 = betas
    return {"one_minus_beta1": 1.0 - beta1, "beta2": beta2, "one_minus_beta2": 1.0 - beta2}


def momentum_scalars(group: Group, t: Number) -> Scalars:
    """Of ``SgdMomentum`` in ``csrc/rules/sgd.h``. Without momentum the learning rate is outside."""
    lr, momentum = number(group["lr"]), number(group["momentum"])
    inside, outside = (lr, 1.0) if momentum != 0 and group.get("lr_in_momentum") else (1.0, lr)
    weight = 1.0 if t == 1 else 1.0 - number(group["dampening"])
    return {
        "momentum": momentum,
        "grad_weight": inside * weight,
        "look_ahead": inside,
        "step_size": outside,
    }
