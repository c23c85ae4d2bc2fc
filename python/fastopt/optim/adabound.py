from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_adam, check_range
from ._fused import FusedOptimizer
from ._moments import moment_scalars
from ._program import Number, Scalars, number
from ._update import COUPLED, DECOUPLED, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ADABOUND = Update("adabound", ("exp_avg", "exp_avg_sq"))
_AMSBOUND = Update("adabound_amsbound", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))


class AdaBound(FusedOptimizer):
    r"""AdaBound or AMSBound, Adam that turns into SGD, in one fused pass.

    .. math::
        \eta = \text{clamp}\Big(\frac{\text{lr}\sqrt{1-\beta_2^t}}{1-\beta_1^t}\,\frac{1}{\sqrt v + \text{eps}},\;
        f\,\big(1 - \tfrac{1}{\gamma t + 1}\big),\; f\,\big(1 + \tfrac{1}{\gamma t}\big)\Big), \qquad
        p \leftarrow p - \eta\, m

    with Adam's moments :math:`m`, :math:`v` and :math:`f = \text{final\_lr} \cdot \text{lr} / \text{base\_lr}`, so
    that a schedule of ``lr`` also moves the bounds. ``base_lr``, the learning rate that a group began with, is an
    entry of the group; where it is 0, :math:`f` is ``final_lr`` as soon as ``lr`` is not 0.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.999)).
        final_lr: the learning rate of the SGD it turns into (default: 0.1).
        gamma: how fast the bounds close in, in [0, 1) (default: 1e-3).
        eps: added to the root, which is not bias-corrected (default: 1e-8).
        weight_decay: L2 penalty, added to the gradient (default: 0).
        amsbound: divides by the largest ``v`` so far.
        maximize: ascends instead.
        decoupled_weight_decay: decays the parameter by ``1 - lr * weight_decay`` instead.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.AdaBound(model.parameters(), lr=1e-3, final_lr=0.1)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Luo et al., *Adaptive Gradient Methods with Dynamic Bound of Learning Rate*, ICLR 2019.
    """

    _more_group_keys = frozenset({"base_lr"})

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsbound: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "final_lr": final_lr,
            "gamma": gamma,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsbound": amsbound,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)
        self._extend(common)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_adam(group)
        check_range("final learning rate", group["final_lr"])
        check_range("gamma parameter", group["gamma"], below=1.0)

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.setdefault("base_lr", float(group["lr"]))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # other implementations keep it elsewhere
            group.setdefault("base_lr", float(group["lr"]))

    def _update(self, group: Group) -> Update:
        return _AMSBOUND if group["amsbound"] else _ADABOUND

    def _decay(self, group: Group) -> Decay:
        return DECOUPLED if group["decoupled_weight_decay"] else COUPLED

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        lr, base_lr, gamma = number(group["lr"]), group["base_lr"], group["gamma"]
        beta1, beta2 = group["betas"]
        final = group["final_lr"] * (lr / base_lr if base_lr else number(lr != 0))
        return {
            **moment_scalars(group["betas"]),
            "step_size": lr * (1.0 - beta2**t) ** 0.5 / (1.0 - beta1**t),
            "lower_bound": final * (1.0 - 1.0 / (gamma * t + 1.0)),
            "upper_bound": final * (1.0 + 1.0 / (gamma * t)) if gamma else math.inf,
            "eps": group["eps"],
        }
