from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._program import Number, Scalars, number
from ._update import CommonOptions, Group, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ADAGRAD = Update("adagrad", ("sum",))


class Adagrad(FusedOptimizer, torch.optim.Adagrad):
    r"""Adagrad in one fused pass.

    .. math::
        s \leftarrow s + g^2, \qquad
        p \leftarrow p - \frac{\text{lr}}{1 + (t - 1)\,\text{lr\_decay}}\, \frac{g}{\sqrt{s} + \text{eps}}

    States exist from construction on, as in torch. Sparse gradients update the rows they touch.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.Adagrad``; float32,
            float64, bfloat16, float16 or complex, any shape, on the CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-2).
        lr_decay: see the formula (default: 0).
        weight_decay: L2 penalty, added to the gradient (default: 0).
        initial_accumulator_value: :math:`s` at the start, also per parameter group (default: 0).
        eps: added to the root (default: 1e-10).
        maximize: ascends instead.
        foreach: accepted and without effect, as every step is fused.
        fused: True has GradScaler hand its scale over to the step (default: None); no other effect.
        differentiable: not supported.
        eps_inside_sqrt: divides by :math:`\sqrt{s + \text{eps}}`.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.
        RuntimeError: ``differentiable=True``.

    Examples:
        >>> optimizer = fastopt.Adagrad(model.parameters(), lr=0.01)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Duchi et al., *Adaptive Subgradient Methods*, JMLR 12, 2011.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        eps_inside_sqrt: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            lr_decay,
            weight_decay,
            initial_accumulator_value,
            eps,
            foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )
        self._extend(common, eps_inside_sqrt=eps_inside_sqrt)
        # torch has made the sums before it could know our options, and all with the same initial value.
        for group in self.param_groups:
            for param in group["params"]:
                wanted = self._state_type(param, group, "sum"), group["initial_accumulator_value"]
                if wanted != (param.dtype, initial_accumulator_value):
                    self.state[param]["sum"] = self._new_state(param, group, "sum")

    def _update(self, group: Group) -> Update:
        return _ADAGRAD

    def _sparse(self, group: Group) -> str | None:
        return "rows"

    def _new_state(self, param: Tensor, group: Group, key: str) -> Tensor:
        value = group["initial_accumulator_value"]
        return super()._new_state(param, group, key).fill_(complex(value, value) if param.is_complex() else value)

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        inside = group.get("eps_inside_sqrt")
        return {
            "step_size": number(group["lr"]) / (1.0 + (t - 1) * group["lr_decay"]),
            "eps": 0.0 if inside else group["eps"],
            "eps_inside": group["eps"] if inside else 0.0,
        }
