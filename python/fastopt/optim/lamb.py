from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_adam
from ._fused import FusedOptimizer
from ._moments import moment_scalars
from ._program import Number, Scalars, number
from ._update import OWN, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LAMB = Update("lamb", ("exp_avg", "exp_avg_sq"), sums=True)


class LAMB(FusedOptimizer):
    r"""LAMB in two fused passes: Adam for large batches, with each tensor's step scaled by its norm.

    .. math::
        u = \frac{m / (1-\beta_1^t)}{\sqrt{v}\,/\sqrt{1-\beta_2^t} + \text{eps}} + \lambda\, p, \qquad
        p \leftarrow p - \text{lr}\, \frac{\lVert p \rVert}{\lVert u \rVert}\, u

    with Adam's moments :math:`m`, :math:`v`. The ratio of the norms is 1 where either is 0, and where
    :math:`\lambda` is 0 (biases, norms), unless ``always_adapt``.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.999)).
        eps: added to the root, after bias correction (default: 1e-6).
        weight_decay: :math:`\lambda`, a part of the direction and therefore of the ratio (default: 0.01).
        always_adapt: takes the ratio even where ``weight_decay`` is 0.
        maximize: ascends instead.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; for parameters on a CUDA device (default: False).
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.LAMB(model.parameters(), lr=1e-3)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: You et al., *Large Batch Optimization for Deep Learning: Training BERT in 76 minutes*, arXiv 1904.00962.
    """

    _sparse_hint = ", please consider SparseAdam instead"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        always_adapt: bool = False,
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
            "always_adapt": always_adapt,
            "maximize": maximize,
            "capturable": capturable,
        }
        super().__init__(params, defaults)
        self._extend(common)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_adam(group)

    def _update(self, group: Group) -> Update:
        return _LAMB

    def _decay(self, group: Group) -> Decay:
        return OWN

    def _why_bold(self, group: Group) -> str | None:
        return "scales its update by the norm of the parameter"

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        beta1, beta2 = group["betas"]
        weight_decay = number(group["weight_decay"])
        return {
            **moment_scalars(group["betas"]),
            "correction": 1.0 / (1.0 - beta1**t),
            "root_correction": (1.0 - beta2**t) ** -0.5,
            "eps": group["eps"],
            "weight_decay": weight_decay,
            "lr": number(group["lr"]),
            "adapts": 1.0 if group["always_adapt"] or weight_decay != 0 else 0.0,
        }
