from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._moments import moment_scalars
from ._program import Number, Scalars, number, select
from ._update import COUPLED, DECOUPLED, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_RADAM = Update("radam", ("exp_avg", "exp_avg_sq"))


class RAdam(FusedOptimizer, torch.optim.RAdam):
    r"""RAdam, Adam that waits until its variance is known, in one fused pass.

    .. math::
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1-\beta_2^t}, \quad
        \rho_\infty = \frac{2}{1-\beta_2} - 1, \quad
        p \leftarrow p - \frac{\text{lr}}{1-\beta_1^t}\, m \cdot
        \begin{cases} r_t \sqrt{1-\beta_2^t} \,/\, (\sqrt v + \text{eps}) & \rho_t > 5 \\ 1 & \text{else}\end{cases}

    with :math:`r_t^2 = \frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}` and Adam's
    moments :math:`m`, :math:`v`.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.RAdam``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.999)).
        eps: added to the root, which is not bias-corrected (default: 1e-8).
        weight_decay: L2 penalty, added to the gradient (default: 0).
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
        >>> optimizer = fastopt.RAdam(model.parameters(), lr=1e-3)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Liu et al., arXiv 1908.03265.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
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
            decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
        )
        self._extend(common)

    def _update(self, group: Group) -> Update:
        return _RADAM

    def _decay(self, group: Group) -> Decay:
        return DECOUPLED if group["decoupled_weight_decay"] else COUPLED

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        beta1, beta2 = group["betas"]
        step_size = number(group["lr"]) / (1.0 - beta1**t)
        limit = 2.0 / (1.0 - beta2) - 1.0
        length = limit - 2.0 * t * beta2**t / (1.0 - beta2**t)  # of the average, in steps

        def correction() -> Number:
            rectification = (length - 4.0) * (length - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * length)
            return (rectification * (1.0 - beta2**t)) ** 0.5  # type: ignore[no-any-return]

        return {
            **moment_scalars(group["betas"]),
            "step_size": step_size * select(length > 5.0, correction, lambda: 1.0),
            "rectified": number(length > 5.0),
            "eps": group["eps"],
        }
