"""One update of one parameter: load, prologue, rule, store.

All arithmetic is in the compute type: float32 for float32, bfloat16 and float16 parameters, float64
for float64. Every operation is rounded once, to nearest; nothing is contracted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import half
from .caution import Caution, no_parameter, updated
from .half import Array
from .math import clamp, sign
from .reductions import squares, sum_of, total
from .statistics import NOTHING_MEASURED, statistics
from .storage import NOTHING, Kept


class Rule(NamedTuple):
    """A rule takes (param, grad, *states, *, scalars...) and returns (param, *states).

    A scaled rule also takes the keyword scale, a number for the whole tensor: ``scale(squares of the parameter, squares
    of what is measured, elements, **scalars)``, with unrounded scalars. What is measured is the first result of
    ``measured(param, grad, *states, **scalars)``, whose parameter is not decayed yet.

    A grouped rule's scale is a number for all tensors of a step. ``measured`` returns two terms, which are summed;
    ``weighted(sum, shared, **scalars)`` is a tensor's first sum with its group's weight; ``scale(first, second, shared,
    **scalars)`` takes the sums over all tensors, and moves on the numbers that all groups share.
    """

    function: Callable[..., tuple[Array, ...]]
    states: int
    scalars: tuple[str, ...]
    reads_grad: bool  # if not, the rule takes no grad
    writes_param: bool  # if not, the parameter stays as it is, without its decay too
    factored: bool  # the rule also takes the keyword shape, (matrices, rows, columns)
    decays: bool  # the rule applies the decoupled decay itself; it also takes the keywords decay and exact
    measured: Callable[..., tuple[Array, ...]] | None  # of a scaled or grouped rule
    scale: Callable[..., float] | None
    own_decay: str | None  # the scalar that shrinks the parameter, instead of the prologue's
    weighted: Callable[..., float] | None  # of a grouped rule


RULES: dict[str, Rule] = {}
_BOLD = Caution()
_EXTRA = ("exact", "decay", "shape", "scale")


def rule(
    name: str,
    *,
    states: int | None = None,
    reads_grad: bool = True,
    writes_param: bool = True,
    factored: bool = False,
    decays: bool = False,
    measured: Callable[..., tuple[Array, ...]] | None = None,
    scale: Callable[..., float] | None = None,
    own_decay: str | None = None,
    weighted: Callable[..., float] | None = None,
) -> Callable[[Callable[..., tuple[Array, ...]]], Callable[..., tuple[Array, ...]]]:
    """Registers a rule under the name its kernel has; ``states`` counts what its signature does not show."""

    def register(function: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
        parameters = inspect.signature(function).parameters.values()
        tensors = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        scalars = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _EXTRA)
        count = tensors - 1 - reads_grad if states is None else states
        kind = reads_grad, writes_param, factored, decays, measured, scale, own_decay, weighted
        RULES[name] = Rule(function, count, scalars, *kind)
        return function

    return register


def rules() -> dict[str, tuple[int, tuple[str, ...], bool, bool]]:
    """See ``csrc/engine/optim/rule_table.h``."""
    return {name: (rule.states, rule.scalars, rule.reads_grad, rule.factored) for name, rule in RULES.items()}


def unscale(grad: Array, *, loss_scale: Any) -> Array:
    """Divides by AMP's scale. The result is written back to the gradient and enters the update."""
    return grad / loss_scale if loss_scale != 1 else grad


def clip_coefficient(max_norm: float, norm: float) -> float:
    """Returns the factor that brings gradients of a norm down to ``max_norm``: at most 1, and NaN where the norm is."""
    coefficient = max_norm / (norm + 1e-6)
    return 1.0 if coefficient >= 1 else coefficient


def clip(grad: Array, *, grad_factor: Any, max_grad_value: Any) -> Array:
    """Clips by norm and by value, and applies ``maximize``; a part that is off changes no bit."""
    if grad_factor != 1:
        grad = grad * grad_factor
    if max_grad_value <= np.finfo(grad.dtype).max:
        grad = clamp(grad, -max_grad_value, max_grad_value)
    return grad


def penalize(param: Array, grad: Array, *, weight_decay: Any, l1: Any) -> Array:
    """Adds the L2 and L1 penalties."""
    if weight_decay != 0:
        grad = grad + weight_decay * param
    if l1 != 0:
        grad = grad + l1 * sign(param)
    return grad


class _Loaded(NamedTuple):
    """Everything in the compute type: the operands, with the gradient as the rule reads it, and the rule's scalars."""

    param: Array
    grad: Array | None
    states: list[Array]
    scalars: dict[str, Any]
    decay: Any


def _load(
    param: Array,
    grad: Array | None,
    states: list[Array],
    common: Mapping[str, float],
    scalars: Mapping[str, float],
    kept: Kept,
    writes: bool,
) -> _Loaded:
    """``writes``: stores the unscaled gradient."""
    compute = _compute_type(param)
    c = {key: compute(value) for key, value in common.items()}
    rounded = {key: compute(value) for key, value in scalars.items()}
    wide_param, wide_grad = kept.load_param(param), None
    if grad is not None:
        wide_grad = unscale(half.load(grad).astype(compute), loss_scale=c["loss_scale"])
        if writes and c["loss_scale"] != 1:
            half.store(wide_grad, grad)
        wide_grad = clip(wide_grad, grad_factor=c["grad_factor"], max_grad_value=c["max_grad_value"])
        wide_grad = penalize(wide_param, wide_grad, weight_decay=c["weight_decay"], l1=c["l1"])
    loaded = [kept.load_state(k, state) for k, state in enumerate(states)]
    return _Loaded(wide_param, wide_grad, loaded, rounded, c["decay"])


def _compute_type(param: Array) -> Any:
    return np.float64 if param.dtype == np.float64 else np.float32


def terms(
    name: str,
    param: Array,
    grad: Array | None,
    states: list[Array],
    common: Mapping[str, float],
    scalars: Mapping[str, float],
    shared: Array,
    kept: Kept = NOTHING,
) -> tuple[float, float]:
    """Returns a tensor's two sums of a grouped rule. Writes nothing."""
    rule = RULES[name]
    assert rule.measured is not None
    assert rule.weighted is not None
    with np.errstate(all="ignore"):
        loaded = _load(param, grad, states, common, scalars, kept, writes=False)
        first, second = rule.measured(loaded.param, loaded.grad, *loaded.states, **loaded.scalars)
        return rule.weighted(sum_of(first), shared, **scalars), sum_of(second)


def join(name: str, sums: list[tuple[float, float]], shared: Array, scalars: Mapping[str, float]) -> float:
    """Returns the scale of all tensors of a step from their sums, and moves on the shared numbers."""
    rule = RULES[name]
    assert rule.scale is not None
    with np.errstate(all="ignore"):
        first, second = (total(np.array(column)) for column in zip(*sums, strict=True))
        return rule.scale(first, second, shared, **scalars)


def update(
    name: str,
    param: Array,
    grad: Array | None,
    states: list[Array],
    common: Mapping[str, float],
    scalars: Mapping[str, float],
    shape: tuple[int, int, int] | None = None,
    kept: Kept = NOTHING,
    measures: bool = False,
    caution: Caution = _BOLD,
    scale: float | None = None,
) -> tuple[float, ...]:
    """Updates the flat arrays in place. Returns statistics, if it measures.

    Args:
        name: the rule; "clip" applies :func:`clip` to ``param`` itself.
        param, grad, states: 1-D arrays; bfloat16 as ``half.bfloat16`` (uint16).
        common: the prologue's scalars, in double.
        scalars: the rule's scalars, in double. Both are rounded once, to the compute type.
        shape: the shape of a factored rule's parameter, (matrices, rows, columns).
        kept: how the parameter and its states are kept.
        measures: whether a monitor asks for statistics, of a rule that reads a gradient.
        caution: what is cautious, where the rule's update does not depend on the parameter.
        scale: of a grouped rule, what :func:`join` returned.
    """
    if param.size == 0:
        return NOTHING_MEASURED
    compute = _compute_type(param)
    with np.errstate(all="ignore"):
        if name == "clip":
            limits = {key: compute(common[key]) for key in ("grad_factor", "max_grad_value")}
            half.store(clip(kept.load_param(param), **limits), param)
            return ()
        chosen = RULES[name]
        operands = _load(param, grad, states, common, scalars, kept, writes=True)
        wide_param, wide_grad, loaded, rounded, decay = operands
        before = wide_param.copy() if measures else None
        tensors = [wide_param]
        if wide_grad is not None:
            moved = no_parameter(wide_param) if any(caution) else wide_param
            tensors = [moved if chosen.decays else moved * decay, wide_grad]
        if chosen.decays:
            rounded |= {"exact": scalars, "decay": decay}
        if chosen.factored:
            rounded["shape"] = shape
        if scale is not None:
            rounded["scale"] = compute(scale)
        elif chosen.measured is not None and chosen.scale is not None:
            measured, *_ = chosen.measured(wide_param, wide_grad, *loaded, **rounded)
            sums = sum_of(squares(wide_param)), sum_of(squares(measured))
            rounded["scale"] = compute(chosen.scale(*sums, param.size, **scalars))
        new_param, *new_states = chosen.function(*tensors, *loaded, **rounded)
        if any(caution) and wide_grad is not None:
            decay = rounded[chosen.own_decay] if chosen.own_decay else decay
            new_param = updated(caution, wide_param, new_param, wide_grad, decay)
        after = kept.store_param(new_param, param) if chosen.writes_param else wide_param
        for k, (result, out) in enumerate(zip(new_states, states, strict=True)):
            kept.store_state(k, result, out)
        if grad is None or before is None:
            return ()
        return statistics(half.load(grad).astype(compute), before, after, shape)
