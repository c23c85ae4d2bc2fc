from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._compat import Adafactor as TorchAdafactor
from ._fused import FusedOptimizer
from ._program import Number, Scalars, number, smaller
from ._update import DECOUPLED, CommonOptions, Decay, Group, Part, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_VECTOR = Update("adafactor", ("variance",), sums=True)
_MATRIX = Update("adafactor_factored", ("row_var", "col_var"), sums=True)


class Adafactor(FusedOptimizer, TorchAdafactor):  # type: ignore[misc]
    r"""Adafactor, whose second moment is kept by row and by column, in three fused passes.

    .. math::
        R \leftarrow \text{mean of } g^2 \text{ by row}, \quad C \leftarrow \text{by column, as averages}, \quad
        u = \frac{g}{\max\big(\sqrt{R\, C / \text{mean}(R)},\, \epsilon_1\big)}, \quad
        p \leftarrow p - \frac{\max(\epsilon_2, \text{RMS}(p))\, \rho_t}{\max(1, \text{RMS}(u) / d)}\, u

    with :math:`\rho_t = \min(\text{lr}, 1/\sqrt t)`. The last two dimensions are factored; vectors and
    scalars keep the whole second moment. A step takes scratch memory for sums: 4 % of a large float32 matrix,
    but up to 4 times a tensor of 3 x 3 kernels, or of a single row or column; beyond 4 MiB it is freed.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.Adafactor``; float32,
            float64, bfloat16 or float16, any shape, on the CPU or a CUDA device. Row-major matrices are fastest.
        lr: largest relative step size; a float or a 1-element tensor (default: 1e-2).
        beta2_decay: the averages' weight of the past is :math:`1 - t^\text{beta2\_decay}` (default: -0.8).
        eps: :math:`\epsilon_1` (None: the machine epsilon of the parameter's type) and :math:`\epsilon_2`
            (default: (None, 1e-3)).
        d: clips updates by their root mean square (default: 1).
        weight_decay: decays the parameter by ``1 - lr * weight_decay`` (default: 0).
        foreach: accepted and without effect, as every step is fused.
        maximize: ascends instead.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range.
        RuntimeError: a parameter is complex.

    Examples:
        >>> optimizer = fastopt.Adafactor(model.parameters(), lr=1e-2)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Shazeer and Stern, arXiv 1804.04235.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        TorchAdafactor.__init__(self, params, lr, beta2_decay, eps, d, weight_decay, foreach=foreach, maximize=maximize)
        self._extend(common)

    def _parts(self, group: Group) -> list[Part]:
        """Splits parameters by number of dimensions, and by type, on which the default of eps depends."""
        indices: dict[tuple[bool, torch.dtype], list[int]] = {}
        for i, param in enumerate(group["params"]):
            dtype = param.dtype
            if dtype.is_complex and param.grad is not None:
                raise RuntimeError(f"Adafactor does not support complex parameters ({self._name(param)})")
            if group.get("master") is not None and not dtype.is_complex:
                dtype = torch.promote_types(dtype, torch.float32)  # of what is updated
            indices.setdefault((param.dim() > 1, dtype), []).append(i)
        return [
            (_MATRIX if factored else _VECTOR, functools.partial(self._scalars_for, group, dtype), chosen)
            for (factored, dtype), chosen in indices.items()
        ]

    def _state_keys(self) -> set[str]:
        return self._keys_of(_MATRIX, _VECTOR)

    def _decay(self, group: Group) -> Decay:
        return DECOUPLED

    def _state_shape(self, shape: torch.Size, key: str) -> torch.Size:
        if key == "row_var":
            return torch.Size((*shape[:-1], 1))
        if key == "col_var":
            return torch.Size((*shape[:-2], 1, shape[-1]))
        return shape

    def _new_state(self, param: Tensor, group: Group, key: str) -> Tensor:
        if key == "variance":
            return super()._new_state(param, group, key)
        return param.new_zeros(self._state_shape(param.shape, key), dtype=self._state_type(param, group, key))

    def _why_bold(self, group: Group) -> str | None:
        return "scales its update by the root mean square of the parameter"

    def _scalars_for(self, group: Group, dtype: torch.dtype, t: Number) -> Scalars:
        eps1, eps2 = group["eps"]
        if eps1 is None:
            eps1 = torch.finfo(dtype).eps
        return {
            "one_minus_beta2": t ** group["beta2_decay"],
            "rho": smaller(number(group["lr"]), t**-0.5),
            "limit": 1.0 / eps1 if eps1 else math.inf,
            "eps1": eps1,
            "eps2": eps2,
            "d": group["d"],
        }
