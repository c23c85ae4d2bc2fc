from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._program import Number, Scalars, larger, number
from ._update import CommonOptions, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ASGD = Update("asgd", ("ax",), carried=("eta", "mu"))


class ASGD(FusedOptimizer, torch.optim.ASGD):
    r"""Averaged stochastic gradient descent in one fused pass.

    .. math::
        p \leftarrow (1 - \lambda \eta_t)\, p - \eta_t\, g, \qquad
        \bar p \leftarrow \bar p + \mu_t (p - \bar p)

    with :math:`\eta_{t+1} = \text{lr} / (1 + \lambda\,\text{lr}\,t)^\alpha` and
    :math:`\mu_{t+1} = 1 / \max(1, t - t_0)`; the average is the state ``ax``.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.ASGD``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-2).
        lambd: :math:`\lambda` (default: 1e-4).
        alpha: how fast :math:`\eta` falls (default: 0.75).
        t0: the step at which averaging begins (default: 1e6).
        weight_decay: L2 penalty, added to the gradient (default: 0).
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
        >>> optimizer = fastopt.ASGD(model.parameters(), t0=1000)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Polyak and Juditsky, *Acceleration of stochastic approximation by averaging*, SIAM J. Control 30, 1992.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            lambd,
            alpha,
            t0,
            weight_decay,
            foreach,
            maximize,
            differentiable,
            capturable,
        )
        self._extend(common)

    _carried = _ASGD.carried

    def _update(self, group: Group) -> Update:
        return _ASGD

    def _first_value(self, group: Group, key: str) -> float:
        return float(group["lr"]) if key == "eta" else 1.0

    def _why_bold(self, group: Group) -> str | None:
        return "averages the updated parameter in the same rule"

    def _scalars(self, group: Group, t: Number, *carried: Number) -> Scalars:
        lr, lambd, (eta, mu) = number(group["lr"]), group["lambd"], carried
        return {
            "step_size": eta,
            "shrink": 1.0 - lambd * eta,
            "average_weight": mu,
            "eta": lr / (1.0 + lambd * lr * t) ** group["alpha"],
            "mu": 1.0 / larger(1.0, t - group["t0"]),
        }
