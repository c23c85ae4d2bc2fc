from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._checks import check_adam, check_range
from ._fused import FusedOptimizer
from ._master import exact_value
from ._program import Number, Scalars, number
from ._sharded import local
from ._shared import is_on_device
from ._update import COUPLED, HALF, OWN, CommonOptions, Decay, Group, Part, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PRODIGY = Update("prodigy", ("exp_avg", "exp_avg_sq", "s", "p0"), shares=True)

# What the sums over all parameters are made with; the package takes it from the first group.
_ALIKE = ("betas", "beta3", "use_bias_correction", "d0", "d_coef", "growth_rate")


class Prodigy(FusedOptimizer):
    r"""Prodigy in two fused passes: Adam that finds its learning rate.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1)\, d\, g, \quad
        v \leftarrow \beta_2 v + (1-\beta_2)\, d^2 g^2, \quad
        s \leftarrow \beta_3 s + \frac{d}{d_0}\, d\, \text{lr}\; g

    .. math::
        r \leftarrow \beta_3 r + \frac{d}{d_0}\, d\, \text{lr}\, \langle g, p_0 - p\rangle, \quad
        d' = \max\left(d,\; \text{d\_coef}\; r / \lVert s \rVert_1\right)

    .. math::
        p \leftarrow p - d\, \text{lr} \left(\frac{m}{\sqrt{v} + d'\, \text{eps}} + \lambda\, p\right), \quad
        d \leftarrow d'

    with the first values :math:`p_0` of the parameters. The sums :math:`r` and :math:`\lVert s \rVert_1` go over all
    parameters of all groups. The groups have :math:`d` as ``d``, :math:`r` as ``d_numerator``, the largest estimate as
    ``d_max`` and the number of steps as ``k``: ``group["d"] * group["lr"]`` is the rate to log. On a CUDA device they
    are 0-dim tensors there, and a step does not wait for them. Steps before the first gradient that is not 0 move no
    parameter.

    A group whose ``lr`` is 0 stands still and is not in the sums. Groups may have different ``lr``, and enter the sums
    with theirs. They need the same ``betas``, ``beta3``, ``use_bias_correction``, ``d0``, ``d_coef`` and
    ``growth_rate``.

    Args:
        params: tensors, ``(name, tensor)`` pairs or group dicts; float32, float64, bfloat16, float16 or
            complex, any shape, all on the CPU or all on one CUDA device.
        lr: factor of the learning rate that is found, for schedules; a float or a 1-element tensor (default: 1).
        betas: decay rates of the two averages, in [0, 1) (default: (0.9, 0.999)).
        beta3: decay rate of the sums, in [0, 1); None for the root of the second beta (default: None).
        eps: added to the root, times :math:`d` (default: 1e-8).
        weight_decay: :math:`\lambda` (default: 0).
        decouple: decays the parameter; False adds the decay to the gradient, as L2 (default: True).
        use_bias_correction: corrects Adam's averages, in ``lr`` (default: False).
        safeguard_warmup: leaves ``lr`` out of :math:`s`, so that a warm-up does not inflate :math:`d`
            (default: False).
        d0: the first :math:`d`, less than the best one (default: 1e-6).
        d_coef: factor of the estimate, the way to tune it (default: 1).
        growth_rate: how much :math:`d` may grow in a step, as a factor of at least 1 (default: inf).
        maximize: ascends instead.
        capturable: keeps the counts on the device, so that a CUDA graph can capture the step, and GradScaler
            need not wait; on a CUDA device it always does (default: False).
        **common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`.

    Raises:
        ValueError: a hyperparameter is out of range, or, from a step, not the same in all groups.

    Examples:
        >>> optimizer = fastopt.Prodigy(model.parameters(), weight_decay=0.01)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Mishchenko and Defazio, *Prodigy: An Expeditiously Adaptive Parameter-Free Learner*, arXiv 2306.06101.
    """

    _sparse_hint = ", please consider SparseAdam instead"
    _shared = ("d", "d_max", "d_numerator", "k")
    _more_group_keys = frozenset(_shared)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        *,
        maximize: bool = False,
        capturable: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "beta3": beta3,
            "eps": eps,
            "weight_decay": weight_decay,
            "decouple": decouple,
            "use_bias_correction": use_bias_correction,
            "safeguard_warmup": safeguard_warmup,
            "d": d0,
            "d0": d0,
            "d_max": d0,
            "d_numerator": 0.0,
            "d_coef": d_coef,
            "k": 0,
            "growth_rate": growth_rate,
            "maximize": maximize,
            "capturable": capturable,
        }
        super().__init__(params, defaults)
        self._extend(common)

    def add_param_group(self, param_group: Group) -> None:
        if isinstance(param_group, dict) and "d0" in param_group:
            param_group = {"d": param_group["d0"], "d_max": param_group["d0"], **param_group}
        super().add_param_group(param_group)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_adam(group)
        if group["beta3"] is not None:
            check_range("beta3 value", group["beta3"], below=1.0)
        check_range("d_coef value", group["d_coef"])
        for key in ("eps", "d0"):
            check_range(f"{key} value", group[key])
            if group[key] == 0:
                raise ValueError(f"Invalid {key} value: 0")
        check_range("growth_rate value", group["growth_rate"])
        if group["growth_rate"] < 1:
            raise ValueError(f"Invalid growth_rate value: {group['growth_rate']}, less than 1")

    def _option(self, group: Group, key: str, otherwise: Any = None) -> Any:
        # Only the device knows d there, so it computes the scalars.
        if key == "capturable" and is_on_device(self):
            return True
        return super()._option(group, key, otherwise)

    def _parts(self, group: Group) -> list[Part]:
        first = self.param_groups[0]
        for key in _ALIKE:
            if group[key] != first[key]:
                raise ValueError(f"{key}: the groups need the same, not {group[key]} and {first[key]}")
        return super()._parts(group)

    def _update(self, group: Group) -> Update:
        return _PRODIGY

    def _decay(self, group: Group) -> Decay:
        return OWN if group["decouple"] else COUPLED

    def _state_type(self, param: Tensor, group: Group, key: str) -> torch.dtype:
        kind = super()._state_type(param, group, key)
        # In a half type, s would stand still: it changes by less than a thousandth in a step. float16 has no numbers as
        # small as d^2 g^2, and the averages would become 0.
        wide = param.dtype in HALF and (key == "s" or (kind == torch.float16 and key != "p0"))
        return torch.float32 if wide else kind

    def _new_state(self, param: Tensor, group: Group, key: str) -> Tensor:
        state = super()._new_state(param, group, key)
        if key == "p0":
            local(state).copy_(exact_value(param, self.state.get(param) or {}))
        return state

    def _move_on(self, *numbers: float) -> None:
        d, d_max, d_numerator, k = numbers
        for group in self.param_groups:
            group.update(d=d, d_max=d_max, d_numerator=d_numerator, k=int(k))

    def _why_bold(self, group: Group) -> str | None:
        return "estimates its step size from whole updates"

    def _scalars(self, group: Group, t: Number, *_: Number) -> Scalars:
        beta1, beta2 = group["betas"]
        d, d0, lr = group["d"], group["d0"], number(group["lr"])
        rate = d * lr
        if group["use_bias_correction"]:
            k = group["k"] + 1
            rate = rate * ((1.0 - beta2**k) ** 0.5 / (1.0 - beta1**k))
        return {
            "beta1": beta1,
            "grad_weight": d * (1.0 - beta1),
            "beta2": beta2,
            "square_weight": d * d * (1.0 - beta2),
            "beta3": math.sqrt(beta2) if group["beta3"] is None else group["beta3"],
            "s_weight": d / d0 * (d if group["safeguard_warmup"] else rate),
            "step_size": rate,
            "weight_decay": number(group["weight_decay"]) if group["decouple"] else 0.0,
            "eps": group["eps"],
            "d0": d0,
            "d_coef": group["d_coef"],
            "growth_rate": group["growth_rate"],
        }
