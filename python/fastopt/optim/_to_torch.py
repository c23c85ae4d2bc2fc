"""Converts our optimizers to torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ._codes import decoded
from ._declared import Declared


def torch_class(cls: type[Optimizer]) -> Any:
    """Returns the class of torch.optim that one of ours replaces, or None."""
    found = [base for base in cls.__mro__ if base.__module__.startswith("torch.optim") and base is not Optimizer]
    return found[0] if found and cls not in found else None


def to_torch(optimizer: Declared) -> Optimizer:
    """See ``FusedOptimizer.to_torch``."""
    cls = torch_class(type(optimizer))
    if cls is None:
        raise TypeError(f"torch has no {type(optimizer).__name__}")
    known = set(cls([torch.empty(0, 0)]).defaults)
    ours: Any = type(optimizer)
    neutral = ours([torch.empty(0, 0)]).defaults
    own = [key for key in neutral if key not in known]  # a loaded optimizer.defaults has more keys, which are torch's
    for group in optimizer.param_groups:
        for key in own:
            is_torchs = key in ("state_dtype", "rounding_seed") or group.get(key) == "nearest"
            if not is_torchs and group.get(key, neutral[key]) != neutral[key]:
                shown = "" if key == "copies" else f": {group[key]}"
                raise ValueError(f"torch.optim.{cls.__name__} has no {key}{shown}")
    theirs = rebuilt(cls, optimizer, dropped=own)
    for group in optimizer.param_groups:
        for param in group["params"]:
            for key in theirs.state.get(param, {}):  # torch's Adagrad has made them from the defaults
                if key != "step":
                    theirs.state[param][key] = _in_type_of(param, optimizer._new_state(param, group, key))
    for param, state in optimizer.state.items():
        theirs.state[param] = {
            key: value if key == "step" or key in optimizer._carried else _in_type_of(param, value)
            for key, value in decoded(state).items()
        }
    return theirs  # type: ignore[no-any-return]


def rebuilt(cls: Any, optimizer: Optimizer, dropped: Any) -> Any:
    """Makes another optimizer for copies of the same groups, without the options in ``dropped``."""
    other = cls([{"params": list(group["params"])} for group in optimizer.param_groups])
    other.defaults.update({key: value for key, value in optimizer.defaults.items() if key not in dropped})
    for new, old in zip(other.param_groups, optimizer.param_groups, strict=True):
        new.update({key: value for key, value in old.items() if key not in ("params", *dropped)})
    return other


def _in_type_of(param: Tensor, value: Any) -> Any:
    """Casts a state to its parameter's type, which torch's kernels need."""
    return value.to(param.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
