"""Runs a ``forward``, traced by ``torch.fx``, that does norm, addition and activation in one pass.

Only the module's own ``forward`` is traced: what it calls stays a call. The trace is valid while all numbers, flags and
names that ``forward`` read from the module, alone or in lists and dicts, are unchanged. Otherwise the module runs as it
was written. Globals and attributes of other objects that ``forward`` reads are not compared.
"""

from __future__ import annotations

import enum
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F

from ._adapted import Adapted, adapted, become, origin
from ._norm import fusion
from ._norm.fusion import Activation

_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
_FUNCTIONS: dict[Any, Activation] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), Activation("relu")),
    **dict.fromkeys((F.silu,), Activation("silu")),
    **dict.fromkeys((F.relu6,), Activation("relu6")),
    **dict.fromkeys((F.hardswish,), Activation("hardswish")),
}
_PLAIN = (bool, int, float, str, type(None), enum.Enum, torch.dtype)
_CONTAINERS = (list, tuple, set, frozenset)
_NOT_KEPT = object()
_BASES = set(dir(nn.Module()))  # attributes of every module, which are no options of a forward


class Graph(NamedTuple):
    """A traced ``forward``, the values it relies on, and the names of what it runs in one pass."""

    forward: Callable[..., Any]
    reads: dict[str, Any]
    found: list[str]


class Traced(Adapted):
    _graphs: list[Graph]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not fusion.calls_are_watched():
            for graph in self._graphs:
                if all(_is_still(getattr(self, name, graph), value) for name, value in graph.reads.items()):
                    return graph.forward(self, *args, **kwargs)
        return self._origin.forward(self, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_graphs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__["_graphs"] = graphs_of(self, self._origin)


def trace(module: nn.Module) -> str:
    """Gives ``module`` a ``forward`` that runs in one pass what it can. Returns why it cannot, or ""."""
    try:
        graphs = graphs_of(module, type(module))
    except Exception as error:  # a forward that is given a Proxy may raise anything
        return f"torch.fx cannot trace its forward: {(str(error) or type(error).__name__).splitlines()[0]}"
    if not graphs:
        return "its forward has no norm followed by an addition or an activation"
    cls = adapted(Traced, type(module))
    if "forward" not in vars(cls):  # tools read its arguments
        cls.forward = functools.wraps(cls._origin.forward)(_forward)  # type: ignore[attr-defined]
    become(module, cls)
    module.__dict__["_graphs"] = graphs
    return ""


def _forward(self: Traced, *args: Any, **kwargs: Any) -> Any:
    return Traced.forward(self, *args, **kwargs)


def untrace(module: nn.Module) -> None:
    cls = origin(module)
    if cls is not None and isinstance(module, Traced):
        become(module, cls)
        module.__dict__.pop("_graphs", None)


def graphs_of(module: nn.Module, cls: type[nn.Module]) -> list[Graph]:
    """Traces for training and for evaluation. Returns one graph where ``forward`` does not ask which it is."""
    was = module.training
    own = type(module)
    found: list[Graph] = []
    try:
        for training in (was, not was):
            module.__dict__["training"] = training
            graph = _graph_of(module, cls)
            if graph.found and all(graph.reads != other.reads for other in found):
                found.append(graph)
    finally:
        module.__dict__["training"] = was
        become(module, own)
    return found


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


def _is_still(now: Any, kept: Any) -> bool:
    """Whether an attribute still equals what :func:`_kept` has copied; it may have become a tensor."""
    if type(now) is not type(kept):
        return False
    return bool((now if isinstance(now, _PLAIN) else _kept(now)) == kept)


class _Tracer(fx.Tracer):
    """Traces the root's ``forward`` only."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _graph_of(module: nn.Module, cls: type[nn.Module]) -> Graph:
    reads: dict[str, Any] = {}

    def noted(self: nn.Module, name: str) -> Any:
        value = cls.__getattribute__(self, name)
        if name == "training" or name not in _BASES:
            kept = _kept(value)
            if kept is not _NOT_KEPT:
                reads[name] = kept
        return value

    become(module, type(cls.__name__, (cls,), {"__getattribute__": noted}))
    tracer = _Tracer()
    graph = tracer.trace(module)
    become(module, cls)
    found = [_merge(module, node) for node in list(graph.nodes)]
    made = type(fx.GraphModule(module, graph)).forward
    return Graph(made, reads, [name for name in found if name])


def _merge(module: nn.Module, node: fx.Node) -> str:
    """Merges norm, addition and activation into ``node``, if it is the last of them. Returns their names, or ""."""
    after = _activation(module, node)
    adds = node.op in ("call_function", "call_method") and node.target in _ADD
    if after is None and not (adds and not _is_activated(module, node)):
        return ""
    total = node if after is None else _operand(node)
    if total is None or (after is not None and len(total.users) != 1):
        return ""
    residual: fx.Node | None = None
    chain = _norm_before(module, total)
    if chain is None:
        if total.op not in ("call_function", "call_method") or total.target not in _ADD or len(total.args) != 2:
            return ""
        if total.kwargs or not all(isinstance(arg, fx.Node) for arg in total.args):
            return ""
        for one, other in (total.args, total.args[::-1]):
            chain = _norm_before(module, one)
            adds = chain is not None and fusion.takes_residual(module.get_submodule(str(chain[0].target)))
            if adds and chain is not None and one is not other and not _leads_to(chain[0], other):
                residual = other  # type: ignore[assignment]
                break
        else:
            return ""
        assert chain is not None
    norm, between = chain
    graph = node.graph
    with graph.inserting_before(node):
        modules = [graph.get_attr(str(part.target)) for part in (norm, *between)]
        act: Any = after
        if isinstance(after, nn.Module):
            act = graph.get_attr(str(node.target))
        elif isinstance(after, Activation):
            act = graph.call_function(Activation, tuple(after))
        new = graph.call_function(fusion.normalize, (modules[0], norm.args[0], residual, act, *modules[1:]))
    node.replace_all_uses_with(new)
    for old in (node, total, *reversed(between), norm):
        if not old.users and old in graph.nodes:
            graph.erase_node(old)
    parts = [str(norm.target)] + ["add"] * (residual is not None)
    if after is not None:
        parts.append(after.name if isinstance(after, Activation) else str(node.target))
    return " + ".join(parts)


def _operand(node: fx.Node) -> fx.Node | None:
    return node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None


def _activation(module: nn.Module, node: fx.Node) -> nn.Module | Activation | None:
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        part = module.get_submodule(str(node.target))
        return part if fusion.activation_of(part) is not None else None
    if node.op in ("call_function", "call_method") and len(node.args) == 1 and not set(node.kwargs) - {"inplace"}:
        return _FUNCTIONS.get(node.target)
    return None


def _is_activated(module: nn.Module, node: fx.Node) -> bool:
    """Whether an activation follows an addition, with which it will be merged."""
    users = list(node.users)
    return len(users) == 1 and _activation(module, users[0]) is not None


def _norm_before(module: nn.Module, node: Any) -> tuple[fx.Node, list[fx.Node]] | None:
    """Returns the call of a norm and the identities between it and ``node``, if each has one user."""
    between: list[fx.Node] = []
    while isinstance(node, fx.Node) and node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        part = module.get_submodule(str(node.target))
        if len(node.users) != 1:
            return None
        if fusion.takes_activation(part):
            return node, between[::-1]
        if not fusion.is_identity(part):
            return None
        between.append(node)
        node = node.args[0]
    return None


def _leads_to(node: fx.Node, other: Any) -> bool:
    """Whether ``other`` is computed from ``node``."""
    seen, waiting = set(), [other]
    while waiting:
        now = waiting.pop()
        if now is node:
            return True
        if now not in seen:
            seen.add(now)
            waiting.extend(now.all_input_nodes)
    return False
