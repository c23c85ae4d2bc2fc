from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._checks import check_range
from ._program import Number, Scalars
from ._schedule_free import ScheduleFree
from ._update import CommonOptions, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SGD = Update("schedule_free_sgd", ("z",), counts=False)


class ScheduleFreeSGD(ScheduleFree):
    r"""Schedule-Free SGD, which averages its steps instead of lowering the learning rate, in one fused pass.

    .. math::
        z \leftarrow z - \text{lr}\; g, \qquad
        x \leftarrow (1 - c)\, x + c\, z, \qquad
        y \leftarrow (1 - \beta)\, z + \beta\, x

    with the gradient :math:`g` at :math:`y`, :math:`\beta` the ``momentum`` and :math:`c`, the weight of this step
    among those of all. :meth:`train` makes the parameters :math:`y`, which they are at first, and :meth:`eval` makes
    them :math:`x`. A step in evaluation is an error. Steps and weights are counted by parameter group.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, on the CPU or a CUDA device.
        lr: learning rate, larger than that of SGD with a schedule; a float or a 1-element tensor (default: 1.0).
        momentum: :math:`\beta`, how much of :math:`x` is in :math:`y`, in (0, 1) (default: 0.9).
        weight_decay: L2 penalty at :math:`y`, added to the gradient (default: 0).
        warmup_steps: steps of a group in which its learning rate grows linearly from 0 (default: 0).
        r: a step's weight in the average grows with this power of its number (default: 0).
        weight_lr_power: and with this power of the largest learning rate so far (default: 2.0).
        foreach: accepted and without effect, as every step is fused.
        maximize: ascends instead.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.

    Examples:
        >>> optimizer = fastopt.ScheduleFreeSGD(model.parameters(), lr=1.0)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()
        >>> optimizer.eval()  # the parameters are x
        >>> validate(model)
        >>> optimizer.train()

    Reference: Defazio et al., *The Road Less Scheduled*, arXiv 2405.15682.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
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
            "momentum": momentum,
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
        check_range("momentum value", group["momentum"], below=1.0)
        if group["momentum"] == 0:
            raise ValueError(f"Invalid momentum value: {group['momentum']}, from which eval() cannot get x")

    def _update(self, group: Group) -> Update:
        return _SGD

    def _beta(self, group: Group) -> float:
        beta: float = group["momentum"]
        return beta

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        return self._moving(group)
