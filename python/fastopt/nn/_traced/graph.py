"""Traces a module's ``forward``, and finds out what the trace depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import fx, nn

from . import arguments
from .arguments import OTHER
from .merge import merge, pass_on
from .tracer import is_still, traced, tried


class Recipe(NamedTuple):
    """What a trace is made for.

    Attributes:
        training: the mode.
        fixed: the arguments on which it depends whether they are None, True, False or something else.
        ignored: flags of the module that ``forward`` reads without effect.
    """

    training: bool
    fixed: dict[str, Any]
    ignored: tuple[str, ...]


class Graph(NamedTuple):
    """A traced ``forward``, the attributes it relies on, the names of what it runs in one pass, and which calls it
    takes: ``asked`` returns the fixed arguments of a call, and ``refused`` are names of arguments."""

    forward: Callable[..., Any]
    reads: dict[str, Any]
    found: list[str]
    recipe: Recipe
    asked: Callable[..., tuple[Any, ...]] | None
    refused: frozenset[str]

    def takes(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether ``forward`` of ``module`` would do now, with these arguments, what was traced."""
        for name, value in self.reads.items():
            if not is_still(getattr(module, name, self), value):
                return False
        if self.refused:
            for name in kwargs:
                if name in self.refused:
                    return False
        if self.asked is not None:
            now = self.asked(module, *args, **kwargs)
            for value, kept in zip(now, self.recipe.fixed.values(), strict=True):
                if arguments.is_flag(value) if kept is OTHER else value is not kept:
                    return False
        return True


def explore(module: nn.Module, cls: type[nn.Module], given: dict[str, Any]) -> list[Graph]:
    """Traces for training and for evaluation. ``given`` are the optional arguments of an example. Returns one graph
    where ``forward`` does not ask which it is."""
    was = module.training
    try:
        recipes = [_recipe(module, cls, training, given) for training in (was, not was)]
    finally:
        module.__dict__["training"] = was
    return graphs_of(module, cls, recipes)


def graphs_of(module: nn.Module, cls: type[nn.Module], recipes: list[Recipe]) -> list[Graph]:
    was = module.training
    found: list[Graph] = []
    try:
        for recipe in recipes:
            module.__dict__["training"] = recipe.training
            graph = _graph_of(module, cls, recipe)
            if graph.found and all(graph.reads != other.reads for other in found):
                found.append(graph)
    finally:
        module.__dict__["training"] = was
    return found


def _recipe(module: nn.Module, cls: type[nn.Module], training: bool, given: dict[str, Any]) -> Recipe:
    """Finds out which of the given arguments and of the flags change what ``forward`` does."""
    module.__dict__["training"] = training
    fixed = {name: value for name, value in given.items() if value is not OTHER}
    for name in given:
        rest = {other: value for other, value in fixed.items() if other != name}
        if _asks(module, cls, rest, name):
            fixed.setdefault(name, OTHER)
        else:
            fixed = rest
    graph, reads = traced(module, cls, fixed)
    flags = [name for name, value in reads.items() if isinstance(value, bool) and name != "training"]
    ignored = tuple(name for name in flags if _ignores(module, cls, fixed, name, not reads[name], graph))
    return Recipe(training, fixed, ignored)


def _asks(module: nn.Module, cls: type[nn.Module], fixed: dict[str, Any], name: str) -> bool:
    """Whether it makes a difference to ``forward`` if an argument is None, True, False or a tensor, other than that it
    is passed on."""
    try:
        free = tried(module, cls, fixed)
        for value in (None, True, False):
            if _text(free, {name: value}) != _text(tried(module, cls, {**fixed, name: value}), {}):
                return True
    except Exception:  # a forward that is given a Proxy may raise anything
        return True
    return False


def _ignores(module: nn.Module, cls: type[nn.Module], fixed: Any, name: str, other: bool, graph: fx.Graph) -> bool:
    """Whether ``forward`` does the same if one of the module's flags has its ``other`` value."""
    try:
        return _text(tried(module, cls, fixed, {name: other}), {}) == _text(graph, {})
    except Exception:
        return False


def _text(graph: fx.Graph, values: dict[str, Any]) -> list[str]:
    """Describes a graph in which some arguments have values."""
    indices = {node: index for index, node in enumerate(graph.nodes)}

    def shown(node: fx.Node) -> Any:
        is_given = node.op == "placeholder" and node.target in values
        return values[str(node.target)] if is_given else f"node {indices[node]}"

    nodes = [node for node in graph.nodes if node.op != "placeholder"]
    return [repr((n.op, n.target, fx.node.map_arg(n.args, shown), fx.node.map_arg(n.kwargs, shown))) for n in nodes]


def _graph_of(module: nn.Module, cls: type[nn.Module], recipe: Recipe) -> Graph:
    graph, reads = traced(module, cls, recipe.fixed)
    asked = _asked(module, graph, list(recipe.fixed)) if recipe.fixed else None
    found = merge(module, graph)
    more = pass_on(graph)
    made = type(fx.GraphModule(module, graph)).forward
    left = {name: value for name, value in reads.items() if name not in recipe.ignored}
    refused = arguments.names_in_decorators(cls.forward) if more else frozenset()
    return Graph(made, left, found, recipe, asked, refused)


def _asked(module: nn.Module, graph: fx.Graph, names: list[str]) -> Callable[..., tuple[Any, ...]]:
    """Makes a function with the parameters of a traced ``forward`` that returns those of these names."""
    made = fx.Graph()
    nodes = {node.target: made.node_copy(node) for node in graph.nodes if node.op == "placeholder"}
    made.output(tuple(nodes[name] for name in names))
    return type(fx.GraphModule(module, made)).forward
