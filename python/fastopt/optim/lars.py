from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_lr, check_range
from ._fused import FusedOptimizer
from ._moments import momentum_scalars
from ._program import Number, Scalars, number
from ._update import OWN, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PLAIN = Update("lars", (), counts=False, sums=True)
_MOMENTUM = Update("lars_momentum", ("momentum_buffer",), counts=False, sums=True)
_NESTEROV = Update("lars_nesterov", ("momentum_buffer",), counts=False, sums=True)


class LARS(FusedOptimizer):
    r"""LARS in two fused passes: SGD for large batches, with each tensor's gradient scaled by its norms.

    .. math::
        r = \frac{\eta\, \lVert p \rVert}{\lVert g \rVert + \lambda\, \lVert p \rVert + \text{eps}}, \qquad
        v \leftarrow \mu v + (1 - \text{dampening})\, r\, (g + \lambda\, p), \qquad
        p \leftarrow p - \text{lr}\, v

    The local rate :math:`r` is 1 where either norm is 0, and where :math:`\lambda` is 0 (biases, norms), unless
    ``always_adapt``. A parameter's first velocity is not dampened.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: global learning rate; a float or a 1-element tensor (default: 1.0).
        momentum: :math:`\mu`; 0 keeps no velocity (default: 0.9).
        dampening: keeps that part of a gradient out of the velocity (default: 0).
        weight_decay: :math:`\lambda`, a part of the direction and of the local rate (default: 5e-4).
        nesterov: looks ahead along the velocity; needs momentum and no dampening.
        trust_coefficient: :math:`\eta`, the length of a step relative to the parameter's (default: 1e-3).
        eps: added to the denominator of the local rate (default: 1e-8).
        always_adapt: takes the local rate even where ``weight_decay`` is 0.
        maximize: ascends instead.
        lr_in_momentum: puts the learning rate inside the velocity, as the paper does: the same as long as ``lr`` is
            constant, gentler when it changes.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.LARS(fastopt.param_groups(model, weight_decay=5e-4), lr=1.0)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: You et al., *Large Batch Training of Convolutional Networks*, arXiv 1708.03888.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        dampening: float = 0,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        always_adapt: bool = False,
        *,
        maximize: bool = False,
        lr_in_momentum: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "always_adapt": always_adapt,
            "maximize": maximize,
            "lr_in_momentum": lr_in_momentum,
        }
        super().__init__(params, defaults)
        self._extend(common)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_lr(group["lr"])
        check_range("momentum value", group["momentum"])
        check_range("weight_decay value", group["weight_decay"])
        check_range("trust_coefficient value", group["trust_coefficient"])
        check_range("epsilon value", group["eps"])
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _update(self, group: Group) -> Update:
        if group["momentum"] == 0:
            return _PLAIN
        return _NESTEROV if group["nesterov"] else _MOMENTUM

    def _decay(self, group: Group) -> Decay:
        return OWN

    def _why_bold(self, group: Group) -> str | None:
        return "scales its update by the norm of the parameter"

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        weight_decay = number(group["weight_decay"])
        return {
            **momentum_scalars(group, t),
            "weight_decay": weight_decay,
            "trust_coefficient": group["trust_coefficient"],
            "eps": group["eps"],
            "adapts": 1.0 if group["always_adapt"] or weight_decay != 0 else 0.0,
        }
