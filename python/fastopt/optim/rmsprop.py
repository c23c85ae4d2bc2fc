from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._program import Number, Scalars, number
from ._update import CommonOptions, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RMSprop(FusedOptimizer, torch.optim.RMSprop):
    r"""RMSprop, centered or not, with momentum or without, in one fused pass.

    .. math::
        s \leftarrow \alpha s + (1 - \alpha)\, g^2, \qquad
        v \leftarrow \mu v + \frac{g}{\sqrt{s} + \text{eps}}, \qquad p \leftarrow p - \text{lr}\, v

    Where rounding makes the centered variance negative it is taken as 0; torch takes its root, which is NaN.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.RMSprop``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-2).
        alpha: decay rate of the averages (default: 0.99).
        eps: added to the root (default: 1e-8).
        weight_decay: L2 penalty, added to the gradient (default: 0).
        momentum: :math:`\mu` (default: 0).
        centered: divides by the root of an estimated variance, :math:`s - \bar g^2`.
        maximize: ascends instead.
        foreach: accepted and without effect, as every step is fused.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; for parameters on a CUDA device (default: False).
        differentiable: not supported.
        eps_inside_sqrt: divides by :math:`\sqrt{s + \text{eps}}`, as TensorFlow does.
        lr_in_momentum: puts the learning rate inside the velocity, :math:`v \leftarrow \mu v + \text{lr}\,
            g / \dots,\; p \leftarrow p - v`: the same as long as ``lr`` is constant.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.
        RuntimeError: ``differentiable=True``.

    Examples:
        >>> optimizer = fastopt.RMSprop(model.parameters(), lr=1e-3, momentum=0.9)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Hinton, *Neural Networks for Machine Learning*, lecture 6; centered: Graves, arXiv 1308.0850.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        eps_inside_sqrt: bool = False,
        lr_in_momentum: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            alpha,
            eps,
            weight_decay,
            momentum,
            centered,
            capturable,
            foreach,
            maximize,
            differentiable,
        )
        self._extend(common, eps_inside_sqrt=eps_inside_sqrt, lr_in_momentum=lr_in_momentum)

    def _update(self, group: Group) -> Update:
        rule, states = "rmsprop", ["square_avg"]
        if group["centered"]:
            rule += "_centered"
        if group["momentum"] > 0:
            rule += "_momentum"
            states.append("momentum_buffer")
        if group["centered"]:
            states.append("grad_avg")
        return Update(rule, tuple(states))

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        lr, alpha, eps = number(group["lr"]), group["alpha"], group["eps"]
        eps_inside = group.get("eps_inside_sqrt")
        lr_inside = group.get("lr_in_momentum") and group["momentum"] > 0
        return {
            "alpha": alpha,
            "one_minus_alpha": 1.0 - alpha,
            "eps": 0.0 if eps_inside else eps,
            "eps_inside": eps if eps_inside else 0.0,
            "momentum": group["momentum"],
            "grad_weight": lr if lr_inside else 1.0,
            "step_size": 1.0 if lr_inside else lr,
        }
