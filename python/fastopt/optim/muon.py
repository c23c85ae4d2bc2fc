from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .._compat import Muon as TorchMuon
from ._checks import check_betas
from ._chosen import Some
from ._directions import DIRECTION, Directions
from ._program import Number, Scalars, number
from ._update import DECOUPLED, CommonOptions, Decay, Group, Part, Update
from .adam import ADAM, AdamRule

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MOMENTUM = Update("muon_momentum", ("momentum_buffer", DIRECTION), counts=False)
_LR_FUNCTIONS = (None, "original", "match_rms_adamw")


class Muon(AdamRule, TorchMuon):  # type: ignore[misc]
    r"""Muon: momentum whose direction is made orthogonal, for the matrices of hidden layers; AdamW for everything else.

    .. math::
        B \leftarrow \mu B + (1-\mu)\, g, \quad
        O = \text{NewtonSchulz}\big((1-\mu)\, g + \mu B\big), \quad
        p \leftarrow (1 - \text{lr}\,\lambda)\, p - \text{lr}\, s\, O

    ``s`` is :math:`\sqrt{\max(1, \text{rows}/\text{columns})}`, or for ``adjust_lr_fn="match_rms_adamw"``
    :math:`0.2\sqrt{\max(\text{rows}, \text{columns})}`. Momentum is one fused pass, decay and update another. Between
    them are torch's matrix products, of all matrices of one shape together: their bits, unlike everything else here,
    depend on the machine and the number of threads. The step needs memory for one more copy of the gradients.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts, as in ``torch.optim.Muon``; float32, float64, bfloat16
            or float16, of 2 dimensions unless ``flatten`` or ``use_muon=False``, on the CPU or a CUDA device.
            :func:`fastopt.muon_groups` makes the groups of a model.
        lr: learning rate; a float or a 1-element tensor (default: 1e-3).
        weight_decay: :math:`\lambda`, decoupled (default: 0.1).
        momentum: :math:`\mu` (default: 0.95).
        nesterov: False takes :math:`B` as the direction (default: True).
        ns_coefficients: of the Newton-Schulz iteration (default: (3.4445, -4.7750, 2.0315)).
        eps: what the norm of the direction is at least; of an AdamW group, what is added to the root (default: 1e-7).
        ns_steps: steps of the iteration, below 100 (default: 5).
        adjust_lr_fn: ``"original"`` (None), or ``"match_rms_adamw"``, which goes with AdamW's learning rates.
        flatten: takes parameters of 3 and more dimensions as matrices of their first dimension and all others.
        use_muon: of a group: False updates it as :class:`fastopt.AdamW` does, whatever the dimensions.
        betas: of a group without Muon (default: (0.9, 0.95)).
        maximize: ascends instead.
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range, or a parameter is no matrix.
        RuntimeError: from a step: a parameter is complex, or a gradient sparse.

    Examples:
        >>> optimizer = fastopt.Muon(fastopt.muon_groups(model), lr=0.02)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024; Liu et al., *Muon is
    scalable for LLM training*, arXiv 2502.16982.
    """

    _sparse_hint = ""
    _is_separable = False  # its matrices are multiplied in batches
    _no_numbers = AdamRule._no_numbers | {"adjust_lr_fn"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        flatten: bool = False,
        use_muon: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        maximize: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        own = {"flatten": flatten, "use_muon": use_muon, "betas": betas, "maximize": maximize}
        _check_numbers({**defaults, **own})  # before the parameters, as in torch
        Optimizer.__init__(self, params, {**defaults, **own})  # torch's Muon has matrices alone
        self._extend(common, **own)

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        try:
            self._check_matrices(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        _check_numbers(group)

    def _check_matrices(self, group: Group) -> None:
        if not group["use_muon"]:
            return
        for param in group["params"]:
            if param.ndim < 2 or (param.ndim > 2 and not group["flatten"]):
                raise ValueError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {param.size()}"
                )

    def _parts(self, group: Group) -> list[Part]:
        if group["use_muon"]:
            self._check_matrices(group)
            for param in group["params"]:
                if param.grad is not None and param.is_complex():
                    raise RuntimeError(f"Muon does not support complex parameters ({self._name(param)})")
        return super()._parts(group)

    def _update(self, group: Group) -> Update:
        return _MOMENTUM if group["use_muon"] else ADAM

    def _scalars(self, group: Group, t: Number, *carried: Number) -> Scalars:
        if not group["use_muon"]:
            return super()._scalars(group, t, *carried)
        momentum = number(group["momentum"])
        return {"one_minus_momentum": 1.0 - momentum, "momentum_weight": momentum if group["nesterov"] else 1.0}

    def _state_keys(self) -> set[str]:
        return self._keys_of(_MOMENTUM, ADAM) - {DIRECTION}

    def _decay(self, group: Group) -> Decay:
        return DECOUPLED

    def _caution(self, group: Group) -> tuple[bool, bool]:
        masks, decays = super()._caution(group)
        if not group["use_muon"]:
            return masks, decays
        if masks:
            raise ValueError("cautious: a mask would undo what makes Muon's updates orthogonal")
        return False, False  # the decay is a matter of the second half (_directions.py)

    def _new_state(self, param: Tensor, group: Group, key: str) -> Tensor:
        if key == DIRECTION:
            return torch.empty_like(param, dtype=self._state_type(param, group, key))
        return super()._new_state(param, group, key)

    def _run(self, engine_step: Any, loss_scale: float, some: Some | None = None) -> None:
        with Directions(self, some) as directions:
            super()._run(engine_step, loss_scale, some)
            directions.apply(engine_step)


def _check_numbers(group: Group) -> None:
    if isinstance(group["lr"], Tensor) and group["lr"].numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    names = {"lr": "Learning rate", "momentum": "momentum", "weight_decay": "weight decay", "eps": "eps"}
    for key, name in names.items():
        if not group[key] >= 0:
            raise ValueError(f"{name} should be >= 0 but is: {group[key]}")
    if group["adjust_lr_fn"] not in _LR_FUNCTIONS:
        raise ValueError(f"Adjust learning rate function {group['adjust_lr_fn']} is not supported")
    if len(group["ns_coefficients"]) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    if not isinstance(group["ns_steps"], int) or not 0 <= group["ns_steps"] < 100:
        raise ValueError(f"ns_steps should be an integer from 0 to 99 but is: {group['ns_steps']}")
    check_betas(group["betas"])
