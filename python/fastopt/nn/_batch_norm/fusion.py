"""What can run as one with a batch normalization, decided at each call by what calls both.

A module is itself when anybody else calls it. Only what runs the norm and the activation one after the other
(``Sequential``, a traced ``forward``) hands the activation to the norm, and only while neither does more than its
class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..._compat import has_any_global_hook
from .composite import ACTIVATIONS


class Activation(NamedTuple):
    """One that the kernels apply; ``name`` as ``batch_norm`` takes it."""

    name: str
    negative_slope: float = 0.01


# A condition on attributes goes with it: kernels know these values only.
_Reader: TypeAlias = Callable[[Any], Activation | None]
_PLAIN = {name: Activation(name) for name in ACTIVATIONS}
_KNOWN: dict[type[nn.Module], _Reader] = {
    nn.ReLU: lambda m: _PLAIN["relu"],
    nn.ReLU6: lambda m: _PLAIN["relu6"] if (m.min_val, m.max_val) == (0, 6) else None,
    nn.LeakyReLU: lambda m: Activation("leaky_relu", m.negative_slope),
    nn.ELU: lambda m: _PLAIN["elu"] if m.alpha == 1 else None,
    nn.SiLU: lambda m: _PLAIN["silu"],
    nn.GELU: lambda m: _PLAIN["gelu"] if m.approximate == "none" else None,
    nn.Hardswish: lambda m: _PLAIN["hardswish"],
}
_FORWARDS = {cls: cls.forward for cls in _KNOWN}
_CALL = nn.Module.__call__


def calls_are_watched() -> bool:
    """Whether somebody is to see each module run: ``torch.fx``, or hooks on all modules."""
    if torch.compiler.is_compiling():
        return False
    return nn.Module.__call__ is not _CALL or has_any_global_hook()


def does_more(module: nn.Module) -> str:
    """Why a call of ``module`` is more than its class's ``forward``; "" where it is not."""
    own = module.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return "has hooks"
    if "forward" in own:
        return "has a forward of its own"
    return "" if own.get("_compiled_call_impl") is None else "is compiled by itself"


def add_activation(cls: type[nn.Module], known: Activation) -> None:
    """``cls`` is another package's, whatever its arguments."""
    if cls not in _KNOWN:
        _KNOWN[cls], _FORWARDS[cls] = (lambda _: known), cls.forward


def activation_of(module: nn.Module) -> Activation | None:
    """What ``module`` applies, where a kernel has it and nobody would miss the call of ``module``."""
    cls = type(module)
    reader = _KNOWN.get(cls)
    if reader is None or cls.forward is not _FORWARDS[cls] or does_more(module):
        return None
    return reader(module)


def why_no_activation(module: nn.Module) -> str:
    """The reason for None."""
    cls = type(module)
    if cls not in _KNOWN:
        return f"{cls.__name__} is no activation of the kernels"
    if why := does_more(module):
        return f"{cls.__name__} {why}"
    return f"{module} has other arguments than the kernel's" if cls.forward is _FORWARDS[cls] else "patched"


def is_identity(module: nn.Module) -> bool:
    return type(module) is nn.Identity and not does_more(module)


def takes_activation(module: Any) -> bool:
    """Whether ``module`` can be asked to add a residual and to apply an activation: a norm of ours or a Sequential that
    ends in one, without hooks, and not a subclass with another ``forward``."""
    cls = type(module)
    if cls.forward is not getattr(cls, "_forward_of_ours", None):
        return False
    return not does_more(module) and bool(module._ends_in_norm())


def normalize(
    module: Any, input: Tensor, residual: Tensor | None, after: nn.Module | Activation | None, *between: nn.Module
) -> Tensor:
    """``after(between(module(input)) + residual)``, as one where that is possible now.

    Args:
        module: anything; a norm of ours, or a Sequential that ends in one, for it to be possible.
        after: None for nothing.
        between: ``nn.Identity``, for it to be possible.
    """
    known = activation_of(after) if isinstance(after, nn.Module) else after
    if (known is not None or after is None) and takes_activation(module) and all(map(is_identity, between)):
        return module._normalize_and(input, residual, known)
    y = module(input)
    for part in between:
        y = part(y)
    return finish(y, residual, after)


def finish(y: Tensor, residual: Tensor | None, after: nn.Module | Activation | None) -> Tensor:
    """What follows a norm, by torch's operations."""
    if residual is not None:
        y = y + residual
    if after is None:
        return y
    if isinstance(after, nn.Module):
        return after(y)
    return ACTIVATIONS[after.name](y, after.negative_slope)
