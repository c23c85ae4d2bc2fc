"""Merges calls of a traced ``forward``: a norm, what is added before or after it, and the activation after it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn import functional as F

from .._norm import fusion
from .._norm.fusion import Activation
from .tracer import MORE

_NEW_SUM = {operator.add, torch.add, "add"}
_ADD = {*_NEW_SUM, operator.iadd, "add_"}
_FUNCTIONS: dict[Any, Activation] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), Activation("relu")),
    **dict.fromkeys((F.silu,), Activation("silu")),
    **dict.fromkeys((F.relu6,), Activation("relu6")),
    **dict.fromkeys((F.hardswish,), Activation("hardswish")),
}


def merge(module: nn.Module, graph: fx.Graph) -> list[str]:
    """Merges all that can run in one pass. Returns the names of what it merged, the norm first."""
    after = [_merge_after(module, node) for node in list(graph.nodes)]
    before = [_merge_before(module, node) for node in list(graph.nodes)]
    return [name for name in after + before if name]


def pass_on(graph: fx.Graph) -> bool:
    """Makes calls pass ``**kwargs`` on as traced. Returns whether there are any."""
    more = [node for node in graph.nodes if node.op == "placeholder" and str(node.target).startswith("**")]
    for node in [user for placeholder in more for user in placeholder.users]:
        if node.op != "call_module" or node.kwargs.get(MORE) not in more or node.all_input_nodes.count(more[0]) != 1:
            raise TraceError("it does not only pass its **kwargs on")
        named = {name: value for name, value in node.kwargs.items() if name != MORE}
        with graph.inserting_before(node):
            called = graph.get_attr(str(node.target))
            new = graph.call_function(_call, (called, node.args, named, node.kwargs[MORE]))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    return bool(more)


def _call(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], more: dict[str, Any]) -> Any:
    return module(*args, **named, **more)


def _merge_before(module: nn.Module, node: fx.Node) -> str:
    """Merges an addition and the norm of the sum, if ``node`` is such an addition. Returns their names, or ""."""
    if node.op not in ("call_function", "call_method") or node.target not in _NEW_SUM or node.kwargs:
        return ""
    if len(node.args) != 2 or not all(isinstance(arg, fx.Node) for arg in node.args) or not node.users:
        return ""
    graph = node.graph
    norm = next(other for other in graph.nodes if other in node.users)  # an earlier user might change the sum in place
    if norm.op != "call_module" or norm.args != (node,) or norm.kwargs:
        return ""
    if not fusion.adds_before(module.get_submodule(str(norm.target))):
        return ""
    with graph.inserting_before(node):
        called = graph.get_attr(str(norm.target))
        both = graph.call_function(fusion.add_and_normalize, (called, *node.args))
        parts = [graph.call_function(operator.getitem, (both, index)) for index in (0, 1)]
    for old, new in ((norm, parts[0]), (node, parts[1])):
        old.replace_all_uses_with(new)
        graph.erase_node(old)
    return f"{norm.target} + add before"


def _merge_after(module: nn.Module, node: fx.Node) -> str:
    """Merges a norm and what is added and applied after it, if ``node`` is the last of them. Returns their names."""
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
        first = total.args[0]
        changed = total.target not in _NEW_SUM and (first.op == "placeholder" or len(first.users) > 1)  # type: ignore[union-attr]
        # What others see has to change in place; a result of a norm is nowhere else.
        for one, other in (total.args, total.args[::-1])[: 1 if changed else 2]:
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
