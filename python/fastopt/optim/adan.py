from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_adam
from ._fused import FusedOptimizer
from ._program import Number, Scalars, number, select
from ._update import DECOUPLED, OWN, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ADAN = Update("adan", ("exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad"))


class Adan(FusedOptimizer):
    r"""Adan, Adam with a Nesterov momentum made of changes of the gradient, in one fused pass.

    .. math::
        d = g_t - g_{t-1}, \qquad m \leftarrow \beta_1 m + (1-\beta_1)\, g, \qquad
        q \leftarrow \beta_2 q + (1-\beta_2)\, d, \qquad
        n \leftarrow \beta_3 n + (1-\beta_3)\, (g + \beta_2 d)^2, \qquad
        p \leftarrow \frac{1}{1 + \text{lr}\,\lambda} \Big(p - \text{lr}\,
        \frac{m / (1-\beta_1^t) + \beta_2\, q / (1-\beta_2^t)}{\sqrt{n}\,/\sqrt{1-\beta_3^t} + \text{eps}}\Big)

    :math:`d` is 0 in a parameter's first step. The previous gradient, as it entered the update, is a state.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the averages of the gradient, of its changes and of the squares, in [0, 1)
            (default: (0.98, 0.92, 0.99)).
        eps: added to the root, after bias correction (default: 1e-8).
        weight_decay: :math:`\lambda`, by which the stepped parameter is divided (default: 0).
        no_prox: decays the parameter by ``1 - lr * weight_decay`` before the step instead, as AdamW does.
        maximize: ascends instead.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; for parameters on a CUDA device (default: False).
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.Adan(model.parameters(), lr=1e-3, weight_decay=0.02)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Xie et al., *Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models*,
    arXiv 2208.06677.
    """

    _sparse_hint = ", please consider SparseAdam instead"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0,
        no_prox: bool = False,
        *,
        maximize: bool = False,
        capturable: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "no_prox": no_prox,
            "maximize": maximize,
            "capturable": capturable,
        }
        super().__init__(params, defaults)
        self._extend(common)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_adam(group, 3)

    def _update(self, group: Group) -> Update:
        return _ADAN

    def _decay(self, group: Group) -> Decay:
        return DECOUPLED if group["no_prox"] else OWN

    def _why_bold(self, group: Group) -> str | None:
        if group["no_prox"] or group["weight_decay"] == 0:
            return None
        return "divides the updated parameter by its decay, unless no_prox=True"

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        lr, (beta1, beta2, beta3) = number(group["lr"]), group["betas"]
        return {
            "first": select(t == 1, lambda: 1.0, lambda: 0.0),
            "one_minus_beta1": 1.0 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1.0 - beta2,
            "beta3": beta3,
            "one_minus_beta3": 1.0 - beta3,
            "step_size": lr / (1.0 - beta1**t),
            "diff_step": lr * beta2 / (1.0 - beta2**t),
            "root_correction": (1.0 - beta3**t) ** -0.5,
            "eps": group["eps"],
            "shrink": 1.0 if group["no_prox"] else 1.0 / (1.0 + lr * number(group["weight_decay"])),
        }
