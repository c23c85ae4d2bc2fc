"""Converts torch's optimizers to ours, and one of ours to another in the middle of training."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ._all import ALL, FAMILY
from ._fused import FusedOptimizer
from ._storage import KEYS
from ._to_torch import rebuilt, torch_class
from ._update import CommonOptions, Group
from .lbfgs import LBFGS

Fused = TypeVar("Fused", bound=FusedOptimizer)

# Options that mean the same to every optimizer.
_KEPT = ("weight_decay", "maximize", "foreach", "fused", *CommonOptions.__annotations__)


def from_torch(optimizer: Optimizer) -> FusedOptimizer | LBFGS:
    """Returns the fastopt equivalent of a torch optimizer, in the middle of training or before it.

    Parameters and states are shared, not copied: do not step the old one any more. Groups keep all
    their options, ``initial_lr`` included, so that a scheduler can be resumed; hooks and schedulers
    belong to the old optimizer and have to be made anew.

    Args:
        optimizer: an instance of exactly a class of torch.optim that fastopt has.

    Raises:
        TypeError: fastopt has no equivalent of its class.
        RuntimeError: it uses ``differentiable=True``.

    Examples:
        >>> optimizer = fastopt.from_torch(optimizer)
    """
    found = [cls for cls in (*FAMILY, LBFGS) if torch_class(cls) is type(optimizer)]
    if not found:
        raise TypeError(f"fastopt has no equivalent of {type(optimizer).__module__}.{type(optimizer).__qualname__}")
    ours = rebuilt(found[0], optimizer, dropped=())
    for group in ours.param_groups:
        ours._check_group(group)
    for param, state in optimizer.state.items():
        ours.state[param] = dict(state)
    return ours  # type: ignore[no-any-return]


def switch(optimizer: FusedOptimizer, cls: type[Fused], *, lr: float | Tensor, **options: Any) -> Fused:
    """Turns an optimizer into one of another class, in place, in the middle of training.

    The object stays the same, so schedulers, GradScalers and hooks go on. Every group keeps its parameters,
    ``weight_decay``, ``maximize`` and the common options (``l1``, ``max_grad_norm``, ...) unless they are given
    here, and its learning rate's ratio to the first group's; other options are those given or the defaults
    of ``cls``. States start anew, but for masters and averages.

    A scheduler that goes on from the current learning rate (StepLR, CosineAnnealingLR, ExponentialLR, ...) goes on
    from ``lr``. One that starts from its base rates (LambdaLR) is told of the new ones by
    ``scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]``. What a scheduler or you keep
    in a group stays there. OneCycleLR and CyclicLR, which also cycle the momentum of one class, have to be made anew.

    Args:
        optimizer: an optimizer of fastopt; for a Lookahead, give its ``optimizer``.
        cls: the class it becomes.
        lr: the learning rate of the first group from now on.
        options: other arguments of ``cls``.

    Returns:
        The same object.

    Raises:
        TypeError: ``optimizer`` or ``cls`` is not fastopt's, or ``cls`` has no such option.
        ValueError: an option is out of range, or a group has a ``weight_decay`` and ``cls`` has none.
            Nothing has changed then.

    Examples:
        >>> fastopt.switch(optimizer, fastopt.SGD, lr=0.05, momentum=0.9)  # was Adam
    """
    if type(optimizer) not in ALL:
        hint = "; switch its .optimizer" if hasattr(optimizer, "optimizer") else ""
        if hasattr(optimizer, "_host"):
            hint = ", which is offloaded: switch before offload()"
        raise TypeError(f"switch cannot start from {type(optimizer).__name__}{hint}")
    if cls not in ALL:
        raise TypeError(f"switch cannot go to {getattr(cls, '__name__', cls)}")
    probe = cls([torch.empty(0, 0)], lr=lr, **options)  # type: ignore[call-arg]
    defaults = probe.defaults
    groups = [_switched(group, optimizer, defaults, lr, options) for group in optimizer.param_groups]
    for group in groups:
        probe._check_group(group)
        if group.get("weight_decay", 0) != 0 and "weight_decay" not in defaults:
            raise ValueError(f"{cls.__name__} has no weight_decay: {group['weight_decay']}; set the groups' to 0")
        if "weight_decay" not in defaults:
            group.pop("weight_decay", None)

    optimizer.__class__ = cls
    optimizer.defaults = defaults
    for param, state in optimizer.state.items():
        optimizer.state[param] = {key: state[key] for key in KEYS if key in state}
    for group, new in zip(optimizer.param_groups, groups, strict=True):
        group.clear()
        group.update(new)
    optimizer._patch_step_function()  # updates the class's name in profiles
    return optimizer  # type: ignore[return-value]


def _switched(group: Group, optimizer: FusedOptimizer, defaults: Group, lr: Any, options: Group) -> Group:
    def base(of: Group) -> float:
        return float(of["initial_lr"] if "initial_lr" in of else of["lr"])

    first = optimizer.param_groups[0]
    ratio = base(group) / base(first) if base(first) else 1.0
    dropped = {*optimizer.defaults, "base_lr"} - {*_KEPT}
    kept = {key: value for key, value in group.items() if key not in dropped}
    kept = {key: value for key, value in kept.items() if key not in ("foreach", "fused") or key in defaults}
    new = {**defaults, **kept, **options}
    new["lr"] = lr if ratio == 1.0 else float(lr) * ratio
    now = float(group["lr"])
    for key in ("initial_lr", "max_lr", "min_lr"):  # a scheduler has set them
        if key in group:
            new[key] = float(new["lr"]) * (float(group[key]) / now if now else 1.0)
    if "final_lr" in defaults:
        new["base_lr"] = float(new["lr"])  # as AdaBound notes it
    return new
