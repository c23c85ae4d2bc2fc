from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._fused import FusedOptimizer
from ._moments import moment_scalars
from ._program import Number, Scalars, number
from ._update import CommonOptions, Group, Part, Update
from .adam import ADAM

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SparseAdam(FusedOptimizer, torch.optim.SparseAdam):
    r"""Adam for sparse gradients: only the rows that a gradient touches change, and so do their states.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
        p \leftarrow p - \text{lr}\,\frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\, \frac{m}{\sqrt{v} + \text{eps}}

    ``t`` counts the steps of a parameter, not those of a row. ``eps`` is added before the bias correction, as in torch.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.SparseAdam``; dense, float32,
            float64, bfloat16 or float16, any shape, with sparse gradients (``nn.Embedding(sparse=True)``), on the
            CPU or a CUDA device.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.999)).
        eps: added to the root (default: 1e-8).
        maximize: ascends instead.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`. Those that penalize or store
            whole parameters (``l1``, ``master``, ``ema``, ...) are errors at the step.

    Raises:
        ValueError: a hyperparameter is out of range, or a parameter is sparse or complex.
        RuntimeError: a gradient is dense; use :class:`fastopt.Adam` for its parameter.

    Examples:
        >>> embedding = torch.nn.Embedding(50_000, 256, sparse=True)
        >>> optimizer = fastopt.SparseAdam(embedding.parameters())
        >>> embedding(torch.tensor([3, 5])).sum().backward()
        >>> optimizer.step()

    Reference: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015 (arXiv 1412.6980).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(params, lr, betas, eps, maximize)
        self._extend(common)

    def _update(self, group: Group) -> Update:
        return ADAM

    def _parts(self, group: Group) -> list[Part]:
        for param in group["params"]:
            if param.grad is not None and not param.grad.is_sparse:
                raise RuntimeError(
                    f"SparseAdam does not support dense gradients, please consider Adam instead ({self._name(param)})"
                )
        return super()._parts(group)

    def to_torch(self) -> torch.optim.SparseAdam:
        other: Any = super().to_torch()
        for state in other.state.values():
            state["step"] = int(state["step"])  # with a tensor, torch computes its corrections in float32
        return other  # type: ignore[no-any-return]

    def _sparse(self, group: Group) -> str | None:
        return "rows"

    def _why_bold(self, group: Group) -> str | None:
        return "updates rows of a parameter, and a mask has a mean over the whole"

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        beta1, beta2 = betas = number(group["betas"][0]), number(group["betas"][1])
        return {
            **moment_scalars(betas),
            "step_size": number(group["lr"]) * (1.0 - beta2**t) ** 0.5 / (1.0 - beta1**t),
            "root_correction": 1.0,
            "eps": group["eps"],
        }
