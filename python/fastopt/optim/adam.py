from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._compat import accepted
from ._fused import FusedOptimizer
from ._moments import moment_scalars
from ._program import Number, Scalars, number
from ._update import COUPLED, DECOUPLED, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

ADAM = Update("adam", ("exp_avg", "exp_avg_sq"))
_AMSGRAD = Update("adam_amsgrad", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))


class AdamRule(FusedOptimizer):
    """The update Adam and AdamW share."""

    _sparse_hint = ", please consider SparseAdam instead"

    def _update(self, group: Group) -> Update:
        return _AMSGRAD if group["amsgrad"] else ADAM

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        beta1, beta2 = betas = number(group["betas"][0]), number(group["betas"][1])
        return {
            **moment_scalars(betas),
            "step_size": number(group["lr"]) / (1.0 - beta1**t),
            "root_correction": (1.0 - beta2**t) ** -0.5,
            "eps": group["eps"],
        }


class Adam(AdamRule, torch.optim.Adam):
    r"""Adam, or AMSGrad, in one fused pass.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
        p \leftarrow p - \frac{\text{lr}}{1-\beta_1^t}\,
        \frac{m}{\sqrt{v}\,/\sqrt{1-\beta_2^t} + \text{eps}}

    Every parameter counts its own ``t``. States have the parameter's type; bfloat16 and float16
    parameters are updated in float32 and rounded once.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.Adam``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.999)).
        eps: added to the root, after bias correction (default: 1e-8).
        weight_decay: L2 penalty, added to the gradient (default: 0).
        amsgrad: divides by the largest ``v`` so far.
        foreach: accepted and without effect, as every step is fused.
        fused: True has GradScaler hand its scale over to the step (default: None); no other effect.
        maximize: ascends instead.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; for parameters on a CUDA device (default: False).
        differentiable: not supported.
        decoupled_weight_decay: decays as AdamW does.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.
        RuntimeError: ``differentiable=True``.

    Examples:
        >>> optimizer = fastopt.Adam(model.parameters(), lr=1e-3)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Kingma and Ba, arXiv 1412.6980; AMSGrad: Reddi et al., *On the Convergence of Adam and Beyond*,
    ICLR 2018.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            **accepted(torch.optim.Adam, decoupled_weight_decay=decoupled_weight_decay),
        )
        self._extend(common, decoupled_weight_decay=decoupled_weight_decay)

    def _decay(self, group: Group) -> Decay:
        return DECOUPLED if group.get("decoupled_weight_decay") else COUPLED
