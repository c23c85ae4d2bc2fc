from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_adam, check_range
from ._fused import FusedOptimizer
from ._program import Number, Scalars, number, select
from ._update import COUPLED, OWN, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ADOPT = Update("adopt", ("exp_avg", "exp_avg_sq"))


class ADOPT(FusedOptimizer):
    r"""ADOPT, Adam that converges with any :math:`\beta_2`, in one fused pass.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1)\,
        \text{clamp}\Big(\frac{g}{\max(\sqrt v,\, \text{eps})},\; \pm (t-1)^{\text{clip\_exp}}\Big), \qquad
        p \leftarrow p - \text{lr}\; m, \qquad
        v \leftarrow \beta_2 v + (1-\beta_2)\, g^2

    A gradient is divided by a :math:`v` that it is not part of. A parameter's first step only sets :math:`v = g^2`, and
    moves nothing else.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.9999)).
        eps: what the root is at least (default: 1e-6).
        clip_exp: divided gradients are clamped to plus or minus this power of ``t - 1``; None: not clamped
            (default: 0.25).
        weight_decay: L2 penalty, added to the gradient (default: 0).
        decouple: decays the parameter by ``1 - lr * weight_decay`` instead, from its second step on.
        maximize: ascends instead.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; for parameters on a CUDA device (default: False).
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.ADOPT(model.parameters(), lr=1e-3, weight_decay=0.01, decouple=True)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Taniguchi et al., *ADOPT: Modified Adam Can Converge with Any β2 with the Optimal Rate*,
    arXiv 2411.02853.
    """

    _sparse_hint = ", please consider SparseAdam instead"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        clip_exp: float | None = 0.25,
        weight_decay: float = 0,
        decouple: bool = False,
        *,
        maximize: bool = False,
        capturable: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "clip_exp": clip_exp,
            "weight_decay": weight_decay,
            "decouple": decouple,
            "maximize": maximize,
            "capturable": capturable,
        }
        super().__init__(params, defaults)
        self._extend(common)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_adam(group)
        if group["clip_exp"] is not None:
            check_range("clip_exp value", group["clip_exp"])

    def _update(self, group: Group) -> Update:
        return _ADOPT

    def _decay(self, group: Group) -> Decay:
        return OWN if group["decouple"] else COUPLED  # the prologue's would decay in the first step too

    def _is_decay_apart(self, group: Group) -> bool:
        return bool(group["decouple"])

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        lr, (beta1, beta2), clip_exp = number(group["lr"]), group["betas"], group["clip_exp"]
        shrink = 1.0 - lr * number(group["weight_decay"]) if group["decouple"] else 1.0
        first = t == 1

        def unless_first(otherwise: Number, in_first: float) -> Number:
            return select(first, lambda: in_first, lambda: otherwise)

        return {
            "first": unless_first(0.0, 1.0),
            "one_minus_beta1": 1.0 - beta1,
            "beta2": unless_first(beta2, 0.0),
            "one_minus_beta2": unless_first(1.0 - beta2, 1.0),
            "clip": math.inf if clip_exp is None else (t - 1.0) ** clip_exp,
            "lr": lr,
            "shrink": unless_first(shrink, 1.0),
            "eps": group["eps"],
        }
