from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._moments import moment_scalars
from ._program import Number, Scalars, number
from ._update import COUPLED, DECOUPLED, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_NADAM = Update("nadam", ("exp_avg", "exp_avg_sq"), carried=("mu_product",))


class NAdam(FusedOptimizer, torch.optim.NAdam):
    r"""NAdam, Adam with Nesterov's momentum, in one fused pass.

    .. math::
        \mu_t = \beta_1 (1 - \tfrac12\, 0.96^{t \psi}), \qquad
        p \leftarrow p - \text{lr}\, \frac{\frac{1-\mu_t}{1-\mu_1 \cdots \mu_t}\, g
        + \frac{\mu_{t+1}}{1-\mu_1 \cdots \mu_{t+1}}\, m}{\sqrt{v / (1-\beta_2^t)} + \text{eps}}

    The moments :math:`m` and :math:`v` are Adam's; the product of the :math:`\mu` is kept as ``mu_product``.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.NAdam``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 2e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.999)).
        eps: added to the root, after bias correction (default: 1e-8).
        weight_decay: L2 penalty, added to the gradient (default: 0).
        momentum_decay: :math:`\psi` (default: 4e-3).
        decoupled_weight_decay: decays the parameter by ``1 - lr * weight_decay`` instead.
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
        >>> optimizer = fastopt.NAdam(model.parameters(), lr=2e-3)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Dozat, *Incorporating Nesterov Momentum into Adam*, ICLR workshop 2016.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            momentum_decay,
            decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
        )
        self._extend(common)

    _carried = _NADAM.carried

    def _update(self, group: Group) -> Update:
        return _NADAM

    def _decay(self, group: Group) -> Decay:
        return DECOUPLED if group["decoupled_weight_decay"] else COUPLED

    def _first_value(self, group: Group, key: str) -> float:
        return 1.0

    def _scalars(self, group: Group, t: Number, *carried: Number) -> Scalars:
        lr, (beta1, beta2) = number(group["lr"]), group["betas"]
        mu, mu_next = (beta1 * (1.0 - 0.5 * 0.96 ** (n * group["momentum_decay"])) for n in (t, t + 1))
        mu_product = carried[0] * mu
        return {
            **moment_scalars(group["betas"]),
            "grad_step": lr * (1.0 - mu) / (1.0 - mu_product),
            "momentum_step": lr * mu_next / (1.0 - mu_product * mu_next),
            "root_correction": (1.0 - beta2**t) ** -0.5,
            "eps": group["eps"],
            "mu_product": mu_product,
        }
