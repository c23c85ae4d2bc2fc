"""Lets the RMSNorm classes of Hugging Face's models run on our kernels, in their order of rounding.

These classes stand in more than a hundred files of ``transformers``, and in models' own code, so their places say
nothing. A class is taken if its name ends in RMSNorm or T5LayerNorm and the instructions of its ``forward`` are those
of a form below, up to the names of locals and of epsilon. ``transformers`` is never imported.
"""

from __future__ import annotations

import dis
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ._adapted import Adapted, adapted
from .functional import rms_norm

Results: TypeAlias = tuple[Tensor, Tensor | None] | None
_NAMES = ("RMSNorm", "T5LayerNorm")
_EPSILONS = ("variance_epsilon", "eps")
_PLAIN = (Tensor, nn.Parameter)
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


class KnownRMSNorm(Adapted):
    """The base of the mixins. What ours would not do as theirs, such as float64 inputs, their own ``forward`` does."""

    _shows_arguments = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and type(args[0]) in _PLAIN:
            found = self._add_and_normalize(args[0], None)
            if found is not None:
                return found[0]
        return self._origin.forward(self, *args, **kwargs)

    def _adds_before(self) -> bool:
        return True

    def _add_and_normalize(self, input: Tensor, residual: Tensor | None) -> Results:
        """Returns the result, and the sum where there is a residual; None where theirs is another."""
        if input.dtype in _TYPES and input.ndim and input.device.type in ("cpu", "cuda"):
            weight = getattr(self, "weight", None)
            if weight is None or (type(weight) in _PLAIN and weight.shape == input.shape[-1:]):
                return self._normalized(input, residual, weight)
        return None

    def _normalized(self, input: Tensor, residual: Tensor | None, weight: Any) -> Results:
        raise NotImplementedError

    def _run(
        self, input: Tensor, residual: Tensor | None, weight: Tensor | None, rounded: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        own: Any = self
        eps = own.variance_epsilon if hasattr(self, "variance_epsilon") else own.eps
        how: dict[str, Any] = {"residual": residual, "return_sum": residual is not None, "round_before_weight": rounded}
        options = (input, input.shape[-1:], weight, eps)
        if input.is_cuda and torch.is_autocast_enabled("cuda"):  # it would widen the result, and theirs is as the input
            with torch.autocast("cuda", enabled=False):
                found = rms_norm(*options, **how)
        else:
            found = rms_norm(*options, **how)
        return (found, None) if residual is None else found


class RoundsFirst(KnownRMSNorm):
    """Rounds, then multiplies by the weight: Llama, Mistral, Qwen. A weight of another type decides the result's."""

    def _normalized(self, input: Tensor, residual: Tensor | None, weight: Any) -> Results:
        if weight is None:
            return None
        if weight.dtype == input.dtype:
            return self._run(input, residual, weight, rounded=True)
        y, total = self._run(input, residual, None)
        return weight * y, total


class RoundsToWeight(KnownRMSNorm):
    """As :class:`RoundsFirst`, but to the weight's type: T5."""

    def _normalized(self, input: Tensor, residual: Tensor | None, weight: Any) -> Results:
        if weight is None or weight.dtype != input.dtype:
            return None
        return self._run(input, residual, weight, rounded=True)


class RoundsLast(KnownRMSNorm):
    """Multiplies in float32 and rounds once: OLMo, Nemotron."""

    def _normalized(self, input: Tensor, residual: Tensor | None, weight: Any) -> Results:
        if weight is None or weight.dtype not in (torch.float32, input.dtype):
            return None
        return self._run(input, residual, weight)


class OnePlusWeight(KnownRMSNorm):
    """As :class:`RoundsLast`, by one plus the weight: Gemma, Qwen3-Next."""

    def _normalized(self, input: Tensor, residual: Tensor | None, weight: Any) -> Results:
        return None if weight is None else self._run(input, residual, 1.0 + weight.float())


class Weightless(KnownRMSNorm):
    def _normalized(self, input: Tensor, residual: Tensor | None, weight: Any) -> Results:
        return self._run(input, residual, None)


class _Llama:
    """One of the forms; they are compared, and never run."""

    def forward(self: Any, x: Any) -> Any:
        dtype = x.dtype
        x = x.to(torch.float32)
        square = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(square + self.eps)
        return self.weight * x.to(dtype)


class _T5:
    def forward(self: Any, x: Any) -> Any:
        square = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(square + self.eps)
        if self.weight.dtype in [torch.float16, torch.bfloat16]:
            x = x.to(self.weight.dtype)
        return self.weight * x


class _Olmo:
    def forward(self: Any, x: Any) -> Any:
        dtype = x.dtype
        x = x.to(torch.float32)
        square = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(square + self.eps)
        return (self.weight * x).to(dtype)


class _Nemotron:
    def forward(self: Any, x: Any) -> Any:
        dtype = x.dtype
        x = x.to(torch.float32)
        square = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(square + self.eps)
        return (self.weight.to(torch.float32) * x).to(dtype)


class _NanoChat:
    def _norm(self: Any, x: Any) -> Any:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self: Any, x: Any) -> Any:
        return self._norm(x.float()).type_as(x)


class _Llama4(_NanoChat):
    def forward(self: Any, x: Any) -> Any:
        y = self._norm(x.float()).type_as(x)
        return y * self.weight


class _Moshi(_NanoChat):
    def forward(self: Any, x: Any) -> Any:
        y = self._norm(x.float())
        y = y * self.weight.float()
        return y.type_as(x)


class _Gemma(_NanoChat):
    def forward(self: Any, x: Any) -> Any:
        y = self._norm(x.float())
        y = y * (1.0 + self.weight.float())
        return y.type_as(x)


def _instructions(function: Any) -> Any:
    """Returns the instructions, without the names of locals; None for what is no plain function."""
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    if "torch" in code.co_names and function.__globals__.get("torch") is not torch:
        return None
    if code.co_freevars or code.co_cellvars:
        return None
    bare = code.replace(co_varnames=tuple(f"local {i}" for i in range(code.co_nlocals)))
    found = [(step.opname, "eps" if step.argval in _EPSILONS else step.argval) for step in dis.get_instructions(bare)]
    return code.co_argcount, code.co_kwonlyargcount, code.co_flags & 0x0C, *map(repr, found)


def _key(cls: Any) -> Any:
    forward = _instructions(cls.forward)
    calls = forward is not None and "_norm" in cls.forward.__code__.co_names
    return forward, _instructions(getattr(cls, "_norm", None)) if calls else None


_FORMS: dict[Any, type[KnownRMSNorm]] = {
    _key(_Llama): RoundsFirst,
    _key(_Llama4): RoundsFirst,
    _key(_T5): RoundsToWeight,
    _key(_Olmo): RoundsLast,
    _key(_Nemotron): RoundsLast,
    _key(_Moshi): RoundsLast,
    _key(_Gemma): OnePlusWeight,
    _key(_NanoChat): Weightless,
}


def has_name(module: nn.Module) -> bool:
    return type(module).__name__.endswith(_NAMES)


def our_class(module: nn.Module) -> type[nn.Module] | None:
    """Returns the class that ``module`` can become, if its class is of a known form."""
    cls = type(module)
    if not has_name(module) or isinstance(module, Adapted) or cls.__module__.startswith(("torch.", "fastopt.")):
        return None
    epsilons = [name for name in _EPSILONS if isinstance(getattr(module, name, None), float)]
    if len(epsilons) != 1 or cls.__call__ is not nn.Module.__call__ or parametrize.is_parametrized(module):
        return None
    mixin = _FORMS.get(_key(cls))
    if mixin is None:
        return None
    return adapted(mixin, cls)
