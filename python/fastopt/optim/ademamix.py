from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_adam, check_range
from ._fused import FusedOptimizer
from ._moments import moment_scalars
from ._program import Number, Scalars, number, select, smaller
from ._update import DECOUPLED, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ADEMAMIX = Update("ademamix", ("exp_avg_fast", "exp_avg_slow", "exp_avg_sq"))


class AdEMAMix(FusedOptimizer):
    r"""AdEMAMix, AdamW with a second, much slower average of the gradient, in one fused pass.

    .. math::
        m_2 \leftarrow \beta_{3,t}\, m_2 + (1-\beta_{3,t})\, g, \qquad
        p \leftarrow (1 - \text{lr}\,\lambda)\, p - \text{lr}\,
        \frac{m / (1-\beta_1^t) + \alpha_t\, m_2}{\sqrt{v}\,/\sqrt{1-\beta_2^t} + \text{eps}}

    with Adam's moments :math:`m`, :math:`v`. The slow average is not bias-corrected. :math:`\alpha_t` and
    :math:`\beta_{3,t}` grow to ``alpha`` and :math:`\beta_3` in ``t_alpha`` and ``t_beta3`` updates of the parameter.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the fast average, of the squares and of the slow average, in [0, 1)
            (default: (0.9, 0.999, 0.9999)).
        alpha: weight of the slow average (default: 5.0).
        t_alpha: updates in which the weight grows linearly from 0; None: constant (default: None).
        t_beta3: updates in which the slow average's decay rate grows from ``betas[0]``, the number of steps that it
            averages over linearly; None: constant (default: None).
        eps: added to the root, after bias correction (default: 1e-8).
        weight_decay: :math:`\lambda`, decoupled (default: 0).
        maximize: ascends instead.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; for parameters on a CUDA device (default: False).
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.AdEMAMix(model.parameters(), lr=1e-3, t_alpha=steps, t_beta3=steps)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Pagliardini et al., *The AdEMAMix Optimizer: Better, Faster, Older*, arXiv 2409.03137.
    """

    _sparse_hint = ", please consider SparseAdam instead"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        t_alpha: float | None = None,
        t_beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        capturable: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "alpha": alpha,
            "t_alpha": t_alpha,
            "t_beta3": t_beta3,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
        }
        super().__init__(params, defaults)
        self._extend(common)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_adam(group, 3)
        check_range("alpha value", group["alpha"])
        for key in ("t_alpha", "t_beta3"):
            if group[key] is not None and not group[key] > 0:
                raise ValueError(f"Invalid {key} value: {group[key]}")
        if group["t_beta3"] is not None and 0 in (group["betas"][0], group["betas"][2]):
            raise ValueError(f"Invalid betas for t_beta3, which takes logarithms of two of them: {group['betas']}")

    def _update(self, group: Group) -> Update:
        return _ADEMAMIX

    def _decay(self, group: Group) -> Decay:
        return DECOUPLED

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        lr, (beta1, beta2, beta3), alpha = number(group["lr"]), group["betas"], group["alpha"]
        if group["t_alpha"] is not None:
            alpha = smaller(t * alpha / group["t_alpha"], alpha)
        return {
            **moment_scalars((beta1, beta2)),
            "one_minus_beta3": 1.0 - _slow_decay(beta1, beta3, group["t_beta3"], t),
            "fast_step": lr / (1.0 - beta1**t),
            "slow_step": lr * alpha,
            "root_correction": (1.0 - beta2**t) ** -0.5,
            "eps": group["eps"],
        }


def _slow_decay(beta1: float, beta3: float, duration: float | None, t: Number) -> Number:
    """The decay rate whose half-life goes linearly from that of ``beta1`` to that of ``beta3``."""
    if duration is None:
        return beta3
    log1, log3 = math.log(beta1), math.log(beta3)

    def growing() -> Number:
        s = t / duration
        return smaller(beta1 ** (log3 / ((1.0 - s) * log3 + s * log1)), beta3)

    return select(t < duration, growing, lambda: beta3)
