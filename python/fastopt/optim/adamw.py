from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._update import COUPLED, DECOUPLED, CommonOptions, Decay, Group
from .adam import AdamRule

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AdamW(AdamRule, torch.optim.AdamW):
    r"""Adam with decoupled weight decay, in one fused pass.

    .. math::
        p \leftarrow (1 - \text{lr}\,\lambda)\, p, \quad\text{then Adam's update}

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.AdamW``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.999)).
        eps: added to the root, after bias correction (default: 1e-8).
        weight_decay: :math:`\lambda` (default: 1e-2).
        amsgrad: divides by the largest second moment so far.
        maximize: ascends instead.
        foreach: accepted and without effect, as every step is fused.
        fused: True has GradScaler hand its scale over to the step (default: None); no other effect.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; for parameters on a CUDA device (default: False).
        differentiable: not supported.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.
        RuntimeError: ``differentiable=True``.

    Examples:
        >>> optimizer = fastopt.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Loshchilov and Hutter, arXiv 1711.05101.
    """

    _more_group_keys = frozenset({"decoupled_weight_decay"})

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
        self._extend(common)

    def _decay(self, group: Group) -> Decay:
        # As in torch from 2.7 on, a group may say otherwise.
        return DECOUPLED if group.get("decoupled_weight_decay", True) else COUPLED
