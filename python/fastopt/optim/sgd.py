from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._moments import momentum_scalars
from ._program import Number, Scalars, number
from ._update import CommonOptions, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PLAIN = Update("sgd", (), counts=False)
_MOMENTUM = Update("sgd_momentum", ("momentum_buffer",), counts=False)
_NESTEROV = Update("sgd_nesterov", ("momentum_buffer",), counts=False)


class SGD(FusedOptimizer, torch.optim.SGD):
    r"""Stochastic gradient descent, with momentum, Nesterov's form, or neither, in one fused pass.

    .. math::
        v \leftarrow \mu v + (1 - \text{dampening})\, g, \qquad
        p \leftarrow p - \text{lr}\, v \quad\text{or, Nesterov,}\quad p - \text{lr}\,(g + \mu v)

    A parameter's first velocity is its gradient, undamped, whenever that gradient arrives. Sparse gradients
    are taken as in torch; the velocity is dense.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.SGD``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        momentum: :math:`\mu` (default: 0).
        dampening: keeps that part of a gradient out of the velocity (default: 0).
        weight_decay: L2 penalty, added to the gradient (default: 0).
        nesterov: looks ahead along the velocity; needs momentum and no dampening.
        maximize: ascends instead.
        foreach: accepted and without effect, as every step is fused.
        fused: True has GradScaler hand its scale over to the step (default: None); no other effect.
        differentiable: not supported.
        lr_in_momentum: puts the learning rate inside the velocity,
            :math:`v \leftarrow \mu v + \text{lr}\, g,\; p \leftarrow p - v`: the same as long as ``lr``
            is constant, gentler when it changes. The buffer's meaning differs from torch's.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.
        RuntimeError: ``differentiable=True``.

    Examples:
        >>> optimizer = fastopt.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Sutskever et al., *On the importance of initialization and momentum in deep learning*,
    ICML 2013.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        lr_in_momentum: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        self._extend(common, lr_in_momentum=lr_in_momentum)

    def _update(self, group: Group) -> Update:
        if group["momentum"] == 0:
            return _PLAIN
        return _NESTEROV if group["nesterov"] else _MOMENTUM

    def _sparse(self, group: Group) -> str | None:
        return "rows" if group["momentum"] == 0 else "dense"

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        return momentum_scalars(group, t) if group["momentum"] != 0 else {"lr": number(group["lr"])}
