from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_betas, check_range
from ._program import Number, Scalars
from ._schedule_free import ScheduleFree
from ._update import OWN, CommonOptions, Decay, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ADAMW = Update("schedule_free_adamw", ("z", "exp_avg_sq"), counts=False)


class ScheduleFreeAdamW(ScheduleFree):
    r"""Schedule-Free AdamW, which averages its steps instead of lowering the learning rate, in one fused pass.

    .. math::
        u = \frac{g}{\sqrt{v}\,/\sqrt{1-\beta_2^k} + \text{eps}} + \lambda\, y, \qquad
        z \leftarrow z - \text{lr}\; u, \qquad
        x \leftarrow (1 - c)\, x + c\, z, \qquad
        y \leftarrow (1 - \beta_1)\, z + \beta_1 x

    with Adam's average square :math:`v`, the gradient :math:`g` at :math:`y` and :math:`c`, the weight of step
    :math:`k` among those of all steps. :meth:`train` makes the parameters :math:`y`, which they are at first, and
    :meth:`eval` makes them :math:`x`. A step in evaluation is an error. ``k`` and the weights belong to the parameter
    group.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 2.5e-3).
        betas: how much of :math:`x` is in :math:`y`, in (0, 1), and the decay rate of the squares, in [0, 1)
            (default: (0.9, 0.999)).
        eps: added to the root, after bias correction (default: 1e-8).
        weight_decay: :math:`\lambda`, a part of the direction (default: 0).
        warmup_steps: steps of a group in which its learning rate grows linearly from 0 (default: 0).
        r: a step's weight in the average grows with this power of its number (default: 0).
        weight_lr_power: and with this power of the largest learning rate so far (default: 2.0).
        foreach: accepted and without effect, as every step is fused.
        maximize: ascends instead.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.ScheduleFreeAdamW(model.parameters(), lr=2.5e-3)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()
        >>> optimizer.eval()  # the parameters are x
        >>> validate(model)
        >>> optimizer.train()

    Reference: Defazio et al., *The Road Less Scheduled*, arXiv 2405.15682.
    """

    _sparse_hint = ", please consider SparseAdam instead"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)
        self._extend(common)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_betas(group["betas"])
        if group["betas"][0] == 0:
            raise ValueError(f"Invalid beta parameter at index 0: {group['betas'][0]}, from which eval() cannot get x")
        check_range("epsilon value", group["eps"])

    def _update(self, group: Group) -> Update:
        return _ADAMW

    def _decay(self, group: Group) -> Decay:
        return OWN

    def _beta(self, group: Group) -> float:
        beta: float = group["betas"][0]
        return beta

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        _, beta2 = group["betas"]
        return {
            "beta2": beta2,
            "one_minus_beta2": 1.0 - beta2,
            "root_correction": (1.0 - beta2 ** (group["k"] + 1)) ** -0.5,
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
            **self._moving(group),
        }
