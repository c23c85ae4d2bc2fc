from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._program import Number, Scalars, number
from ._update import CommonOptions, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ADAMAX = Update("adamax", ("exp_avg", "exp_inf"))


class Adamax(FusedOptimizer, torch.optim.Adamax):
    r"""Adamax, Adam with the infinity norm, in one fused pass.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad
        u \leftarrow \max(\beta_2 u,\, |g| + \text{eps}), \quad
        p \leftarrow p - \frac{\text{lr}}{1-\beta_1^t}\, \frac{m}{u}

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.Adamax``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 2e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.999)).
        eps: added to the gradient's magnitude (default: 1e-8).
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
        >>> optimizer = fastopt.Adamax(model.parameters(), lr=2e-3)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Kingma and Ba, arXiv 1412.6980, section 7.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )
        self._extend(common)

    def _update(self, group: Group) -> Update:
        return _ADAMAX

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        beta1, beta2 = group["betas"]
        return {
            "one_minus_beta1": 1.0 - beta1,
            "beta2": beta2,
            "step_size": number(group["lr"]) / (1.0 - beta1**t),
            "eps": group["eps"],
        }
