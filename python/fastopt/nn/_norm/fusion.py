"""Decides at each call what runs in one pass with a normalization.

Code that runs a norm and an activation one after the other (``Sequential``, a traced ``forward``) hands the activation
to the norm, while neither module does more than its class. For any other caller the modules stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..._compat import has_any_global_hook
from ..._runtime import PLAIN
from .._tracing import exporting
from .activations import FUNCTIONS
from .checks import HALF


class Activation(NamedTuple):
    """An activation that the kernels apply; ``name`` is what ``batch_norm`` takes."""

    name: str
    negative_slope: float = 0.01


# A reader checks the module's attributes where the kernels know only one value of them.
_Reader: TypeAlias = Callable[[Any], Activation | None]
_PLAIN = {name: Activation(name) for name in FUNCTIONS}
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
_TYPES = (torch.float32, torch.float64, *HALF)


def calls_are_watched() -> bool:
    """Whether ``torch.fx``, or a hook on all modules, has to see each module run."""
    if torch.compiler.is_compiling():
        return False
    return nn.Module.__call__ is not _CALL or has_any_global_hook()


def does_more(module: nn.Module) -> str:
    """Says why a call of ``module`` does more than its class's ``forward``; "" where it does not."""
    own = module.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return "has hooks"
    if "forward" in own:
        return "has a forward of its own"
    return "" if own.get("_compiled_call_impl") is None else "is compiled by itself"


def add_activation(cls: type[nn.Module], known: Activation) -> None:
    """Adds a class of another package that is ``known`` with any arguments."""
    if cls not in _KNOWN:
        _KNOWN[cls], _FORWARDS[cls] = (lambda _: known), cls.forward


def activation_of(module: nn.Module) -> Activation | None:
    """Returns the activation of ``module``, if a kernel has it and the module's call does nothing else."""
    cls = type(module)
    reader = _KNOWN.get(cls)
    if reader is None or cls.forward is not _FORWARDS[cls] or does_more(module):
        return None
    return reader(module)


def why_no_activation(module: nn.Module) -> str:
    """Says why :func:`activation_of` returns None."""
    cls = type(module)
    if cls not in _KNOWN:
        return f"{cls.__name__} is no activation of the kernels"
    if why := does_more(module):
        return f"{cls.__name__} {why}"
    return f"{module} has other arguments than the kernel's" if cls.forward is _FORWARDS[cls] else "patched"


def is_identity(module: nn.Module) -> bool:
    return type(module) is nn.Identity and not does_more(module)


def takes_activation(module: Any) -> bool:
    """Whether ``module`` can apply an activation itself: it is a norm of ours or a Sequential that
    ends in one, without hooks, and its class has not changed ``forward``."""
    return _can(module, "_ends_in_norm")


def _can(module: Any, how: str) -> bool:
    cls = type(module)
    if cls.forward is not getattr(cls, "_forward_of_ours", None) or does_more(module):
        return False
    says = getattr(module, how, None)
    return says is not None and bool(says())


def takes_residual(module: Any) -> bool:
    """Whether ``module`` can also add a residual to its result. The norms of single samples add theirs before."""
    return takes_activation(module) and bool(module._adds_after())


def adds_before(module: Any) -> bool:
    """Whether ``module`` can normalize a sum and return it as well: it is a norm of single samples, without hooks, and
    its class has not changed ``forward``."""
    return _can(module, "_adds_before")


def add_and_normalize(module: Any, input: Tensor, residual: Tensor) -> tuple[Any, Any]:
    """Computes ``sum = input + residual`` and ``module(sum)``, in one pass where that is possible now. Both need not be
    tensors. Returns the result and the sum."""
    if _adds_alike(input, residual) and adds_before(module):
        both = module._add_and_normalize(input, residual)
        if both is not None:
            return both
    total = input + residual
    return module(total), total


def _adds_alike(input: Any, residual: Any) -> bool:
    """Whether the kernels' sum of two tensors is torch's, its type, layout and device included."""
    if type(input) not in PLAIN or type(residual) not in PLAIN or input.is_nested or residual.is_nested:
        return False
    if input.dtype != residual.dtype or input.dtype not in _TYPES or {input.layout, residual.layout} != {torch.strided}:
        return False
    if input.device != residual.device or input.shape != residual.shape or exporting():
        return False
    if input.is_cuda and torch.is_autocast_enabled("cuda"):  # the kernels would widen the sum as well
        return False
    return input.is_contiguous() and residual.is_contiguous()


def normalize(
    module: Any, input: Tensor, residual: Tensor | None, after: nn.Module | Activation | None, *between: nn.Module
) -> Tensor:
    """Computes ``after(between(module(input)) + residual)``, in one pass where that is possible now.

    Args:
        module: any module; one pass takes a norm of ours, or a Sequential that ends in one.
        after: the activation, or None.
        between: any modules; one pass takes ``nn.Identity`` only.
    """
    known = activation_of(after) if isinstance(after, nn.Module) else after
    if (known is not None or after is None) and takes_activation(module) and all(map(is_identity, between)):
        return module._normalize_and(input, residual, known)
    y = module(input)
    for part in between:
        y = part(y)
    return finish(y, residual, after)


def finish(y: Tensor, residual: Tensor | None, after: nn.Module | Activation | None) -> Tensor:
    """Adds and activates the result of a norm by torch's operations."""
    if residual is not None:
        y = y + residual
    if after is None:
        return y
    if isinstance(after, nn.Module):
        return after(y)
    return FUNCTIONS[after.name](y, after.negative_slope)
