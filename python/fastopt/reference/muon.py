"""Muon's momentum (torch.optim.Muon). The matrix products are torch's (``optim/_newton_schulz.py``)."""

from __future__ import annotations

from typing import Any

from .half import Array
from .math import lerp
from .pipeline import rule


@rule("muon_momentum", writes_param=False)
def muon_momentum(
    param: Array,
    grad: Array,
    momentum_buffer: Array,
    direction: Array,
    *,
    one_minus_momentum: Any,
    momentum_weight: Any,
) -> tuple[Array, ...]:
    momentum_buffer = lerp(momentum_buffer, grad, one_minus_momentum)
    return param, momentum_buffer, lerp(grad, momentum_buffer, momentum_weight)
