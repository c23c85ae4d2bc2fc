"""The class of traced modules."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._adapted import Adapted, adapted, become, origin
from .._norm import fusion
from . import arguments
from .graph import Graph, explore, graphs_of


class Traced(Adapted):
    _graphs: list[Graph]
    _shows_arguments = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not fusion.calls_are_watched():
            for graph in self._graphs:
                if graph.takes(self, args, kwargs):
                    return graph.forward(self, *args, **kwargs)
        return self._origin.forward(self, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graphs": [graph.recipe for graph in self._graphs]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__["_graphs"] = graphs_of(self, self._origin, state["_graphs"])


def trace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Gives ``module`` a ``forward`` that runs in one pass what it can, in calls like the one with these arguments.
    Returns why it cannot, or ""."""
    try:
        graphs = explore(module, type(module), arguments.optional(type(module).forward, args, kwargs))
    except Exception as error:  # a forward that is given a Proxy may raise anything
        return f"torch.fx cannot trace its forward: {(str(error) or type(error).__name__).splitlines()[0]}"
    if not graphs:
        return "its forward has no norm next to an addition or an activation"
    if not any(graph.takes(module, args, kwargs) for graph in graphs):
        return "a decorator of its forward may look at an argument of the example that forward does not name"
    become(module, adapted(Traced, type(module)))
    module.__dict__["_graphs"] = graphs
    return ""


def untrace(module: nn.Module) -> None:
    cls = origin(module)
    if cls is not None and isinstance(module, Traced):
        become(module, cls)
        module.__dict__.pop("_graphs", None)
