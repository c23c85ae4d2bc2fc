from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_adam
from ._fused import FusedOptimizer
from ._program import Number, Scalars, number
from ._update import OWN, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_STABLE_ADAMW = Update("stable_adamw", ("exp_avg_sq", "exp_avg"), sums=True)


class StableAdamW(FusedOptimizer):
    r"""StableAdamW in two fused passes: AdamW whose learning rate falls, tensor by tensor, where gradients jump.

    .. math::
        \text{lr}' = \frac{\text{lr}}{\max\big(1, \sqrt{\text{mean}(g^2 / \max(v, \text{eps}^2))}\big)}, \qquad
        p \leftarrow (1 - \text{lr}'\, \lambda)\, p - \text{lr}'\, \frac{m}{\sqrt v + \text{eps}}

    with averages :math:`m`, :math:`v` whose betas :math:`\beta\, (1 - \beta^{t-1}) / (1 - \beta^t)` take the place of
    Adam's bias corrections.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.99)).
        eps: added to the root, and what the root is at least for the mean (default: 1e-6).
        weight_decay: :math:`\lambda`, decoupled (default: 0.01).
        maximize: ascends instead.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; for parameters on a CUDA device (default: False).
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.StableAdamW(model.parameters(), lr=1e-3)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Wortsman et al., *Stable and low-precision training for large-scale vision-language models*,
    arXiv 2304.13013.
    """

    _sparse_hint = ", please consider SparseAdam instead"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
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
            "maximize": maximize,
            "capturable": capturable,
        }
        super().__init__(params, defaults)
        self._extend(common)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_adam(group)

    def _update(self, group: Group) -> Update:
        return _STABLE_ADAMW

    def _decay(self, group: Group) -> Decay:
        return OWN  # by the learning rate of the tensor

    def _why_bold(self, group: Group) -> str | None:
        return "scales its update by a number of the whole tensor"

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        beta1, beta2 = group["betas"]
        return {
            "one_minus_beta1": (1.0 - beta1) / (1.0 - beta1**t),
            "beta2": beta2 * (1.0 - beta2 ** (t - 1.0)) / (1.0 - beta2**t),
            "one_minus_beta2": (1.0 - beta2) / (1.0 - beta2**t),
            "eps": group["eps"],
            "weight_decay": number(group["weight_decay"]),
            "lr": number(group["lr"]),
        }
