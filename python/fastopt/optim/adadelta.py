from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._program import Number, Scalars, number
from ._update import CommonOptions, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ADADELTA = Update("adadelta", ("square_avg", "acc_delta"))


class Adadelta(FusedOptimizer, torch.optim.Adadelta):
    r"""Adadelta in one fused pass.

    .. math::
        s \leftarrow \rho s + (1-\rho) g^2, \quad
        d = \frac{\sqrt{a + \text{eps}}}{\sqrt{s + \text{eps}}}\, g, \quad
        a \leftarrow \rho a + (1-\rho) d^2, \quad p \leftarrow p - \text{lr}\, d

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.Adadelta``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1.0).
        rho: decay rate of the averages, in [0, 1] (default: 0.9).
        eps: added below both roots (default: 1e-6).
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
        >>> optimizer = fastopt.Adadelta(model.parameters())
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Zeiler, arXiv 1212.5701.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            rho,
            eps,
            weight_decay,
            foreach,
            capturable=capturable,
            maximize=maximize,
            differentiable=differentiable,
        )
        self._extend(common)

    def _update(self, group: Group) -> Update:
        return _ADADELTA

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        rho = group["rho"]
        return {"lr": number(group["lr"]), "rho": rho, "one_minus_rho": 1.0 - rho, "eps": group["eps"]}
