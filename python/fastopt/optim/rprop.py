from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._program import Number, Scalars
from ._update import CommonOptions, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_RPROP = Update("rprop", ("prev", "step_size"))


class Rprop(FusedOptimizer, torch.optim.Rprop):
    r"""Rprop, a step size per element, in one fused pass.

    .. math::
        \delta \leftarrow \text{clamp}(\delta \cdot \{\eta^+, 1, \eta^-\}), \qquad
        p \leftarrow p - \text{sign}(g)\, \delta

    A step size grows while the gradient keeps its sign, and shrinks when it changes, after which the
    element rests for a step. ``lr`` is the first step size.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.Rprop``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-2).
        etas: the factors :math:`\eta^-` and :math:`\eta^+` (default: (0.5, 1.2)).
        step_sizes: the smallest and the largest step size (default: (1e-6, 50)).
        maximize: ascends instead.
        foreach: accepted and without effect, as every step is fused.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; for parameters on a CUDA device (default: False).
        differentiable: not supported.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.
        RuntimeError: ``differentiable=True``.

    Examples:
        >>> optimizer = fastopt.Rprop(model.parameters())
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Riedmiller and Braun, *A direct adaptive method for faster backpropagation learning*, ICNN 1993.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            etas,
            step_sizes,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )
        self._extend(common)

    def _update(self, group: Group) -> Update:
        return _RPROP

    def _new_state(self, param: Tensor, group: Group, key: str) -> Tensor:
        state, lr = super()._new_state(param, group, key), float(group["lr"])
        if key == "step_size":
            state.fill_(complex(lr, lr) if param.is_complex() else lr)
        return state

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        (eta_minus, eta_plus), (smallest, largest) = group["etas"], group["step_sizes"]
        return {
            "eta_minus": eta_minus,
            "eta_plus": eta_plus,
            "step_size_min": smallest,
            "step_size_max": largest,
        }
