"""Traces one ``forward`` with ``torch.fx``."""

from __future__ import annotations

import enum
import inspect
import operator
import sys
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

from .._adapted import become
from . import arguments
from .arguments import OTHER

MORE = "fastopt_more"  # the name under which a trace passes **kwargs on
_PLAIN = (bool, int, float, str, type(None), enum.Enum, torch.dtype)
_CONTAINERS = (list, tuple, set, frozenset)
_NOT_KEPT = object()
_BASES = set(dir(nn.Module()))  # attributes of every module, which are no options of a forward


def traced(module: nn.Module, cls: type[nn.Module], fixed: dict[str, Any]) -> tuple[fx.Graph, dict[str, Any]]:
    """Traces the ``forward`` of ``cls`` with values of some arguments. Returns the graph, and the attributes that
    ``forward`` read."""
    return _traced(module, cls, fixed, {})


def tried(
    module: nn.Module, cls: type[nn.Module], fixed: dict[str, Any], instead: dict[str, Any] | None = None
) -> fx.Graph:
    """Traces, with other values ``instead`` of some attributes, and removes the constants that a trace leaves in the
    module."""
    there = set(vars(module))
    try:
        return _traced(module, cls, fixed, instead or {})[0]
    finally:
        for name in set(vars(module)) - there:
            del module.__dict__[name]


def _traced(
    module: nn.Module, cls: type[nn.Module], fixed: dict[str, Any], instead: dict[str, Any]
) -> tuple[fx.Graph, dict[str, Any]]:
    reads: dict[str, Any] = {}

    def noted(self: nn.Module, name: str) -> Any:
        value = instead[name] if name in instead else cls.__getattribute__(self, name)
        if name == "training" or name not in _BASES:
            kept = _kept(value)
            if kept is not _NOT_KEPT:
                reads[name] = kept
        return value

    own = type(module)
    become(module, type(cls.__name__, (cls,), {"__getattribute__": noted}))
    try:
        return _Tracer(cls, fixed).trace(module), reads
    finally:
        become(module, own)


def _kept(value: Any) -> Any:
    """Copies a value to compare it later, because lists and dicts may change in place."""
    if isinstance(value, _PLAIN):
        return value
    kind = type(value)
    if kind in _CONTAINERS:
        parts = [_kept(part) for part in value]
        return _NOT_KEPT if any(part is _NOT_KEPT for part in parts) else kind(parts)
    if kind is dict:
        parts = [_kept(part) for part in value.values()]
        return _NOT_KEPT if any(part is _NOT_KEPT for part in parts) else dict(zip(value, parts, strict=True))
    return _NOT_KEPT


def is_still(now: Any, kept: Any) -> bool:
    """Whether an attribute still equals what was read from it; it may have become a tensor."""
    if type(now) is not type(kept):
        return False
    return bool((now if isinstance(now, _PLAIN) else _kept(now)) == kept)


def _in_place(name: str) -> Any:
    def operate(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    return operate


_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")
# torch.fx itself takes ``x += y`` for ``x = x + y``, and other names of the same tensor would keep the old values.
_Proxy = type("_Proxy", (fx.Proxy,), {f"__{name}__": _in_place(name) for name in _IN_PLACE})


class _Tracer(fx.Tracer):
    """Traces the root's ``forward`` only, for some fixed arguments."""

    def __init__(self, cls: type[nn.Module], fixed: dict[str, Any]) -> None:
        super().__init__()
        self._cls, self._fixed = cls, fixed
        self._code = getattr(inspect.unwrap(cls.forward), "__code__", None)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)  # type: ignore[no-any-return]

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Gives ``forward`` its arguments; torch.fx itself does not know how to pass ``**kwargs`` on."""
        forward: Any = self._cls.forward
        parameters = arguments.parameters_of(forward)
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        args: list[Any] = [self.root]
        kwargs: dict[str, Any] = {}
        for p in parameters:
            if p.kind is p.VAR_KEYWORD:
                if self._code is None or not arguments.is_passed_on(self._code, p.name):
                    raise TraceError(f"it looks into **{p.name}")
                kwargs[MORE] = self.create_proxy("placeholder", f"**{p.name}", (), {})
                continue
            proxy = self.create_proxy("placeholder", p.name, () if p.default is p.empty else (p.default,), {})
            value = self._fixed.get(p.name, OTHER)
            value = proxy if value is OTHER else value
            if p.kind is p.KEYWORD_ONLY:
                kwargs[p.name] = value
            else:
                args.append(value)
        return (lambda: forward(*args, **kwargs)), []

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # The frame above this one is torch's nn.Module.__call__. Functions may have parameters for what is in **kwargs.
        if MORE in kwargs and sys._getframe(2).f_code is not self._code:
            raise TraceError("a function that it calls takes its **kwargs")
        return super().call_module(m, forward, args, kwargs)
