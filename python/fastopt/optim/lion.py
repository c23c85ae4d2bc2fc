from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_betas, check_lr, check_range
from ._fused import FusedOptimizer
from ._program import Number, Scalars, number
from ._update import DECOUPLED, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LION = Update("lion", ("exp_avg",), counts=False)


class Lion(FusedOptimizer):
    r"""Lion, which steps by the sign of an interpolated momentum, in one fused pass.

    .. math::
        p \leftarrow (1 - \text{lr}\,\lambda)\, p - \text{lr}\; \text{sign}(\beta_1 m + (1-\beta_1) g), \qquad
        m \leftarrow \beta_2 m + (1-\beta_2) g

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: learning rate, 3 to 10 times smaller than AdamW's; a float or a 1-element tensor (default: 1e-4).
        betas: of the interpolation and of the average, in [0, 1) (default: (0.9, 0.99)).
        weight_decay: :math:`\lambda`, decoupled; 3 to 10 times larger than AdamW's (default: 0).
        maximize: ascends instead.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.Lion(model.parameters(), lr=1e-4, weight_decay=0.1)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Chen et al., *Symbolic Discovery of Optimization Algorithms*, arXiv 2302.06675.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})
        self._extend(common)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_lr(group["lr"])
        check_betas(group["betas"])
        check_range("weight_decay value", group["weight_decay"])

    def _update(self, group: Group) -> Update:
        return _LION

    def _decay(self, group: Group) -> Decay:
        return DECOUPLED

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        beta1, beta2 = group["betas"]
        return {
            "lr": number(group["lr"]),
            "beta1": beta1,
            "one_minus_beta1": 1.0 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1.0 - beta2,
        }
