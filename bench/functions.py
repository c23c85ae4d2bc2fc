"""What cases of functions have in common: ways to step through one, and floors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .case import Case, Floor, Maker, Peers, Tensors
from .measure import Step, repeated

Shape = tuple[int, ...]
Function = Callable[..., Tensor]
Competitors = dict[str, Function]  # "fastopt" first; each takes the tensors of a case
Way = Callable[[Function], Maker]  # to step through a function


def forward(function: Function) -> Maker:
    return lambda tensors: partial(function, *tensors)


def backward(function: Function) -> Maker:
    """Along a graph that is there."""

    def make(tensors: Tensors) -> Step:
        result = function(*tensors)
        grad, leaves = torch.randn_like(result), _leaves(tensors)
        return lambda: torch.autograd.grad(result, leaves, grad, retain_graph=True)

    return make


def forward_and_backward(function: Function) -> Maker:
    def make(tensors: Tensors) -> Step:
        grad, leaves = torch.randn_like(tensors[0]), _leaves(tensors)
        return lambda: torch.autograd.grad(function(*tensors), leaves, grad)

    return make


def _leaves(tensors: Tensors) -> Tensors:
    return [tensor for tensor in tensors if tensor.requires_grad]


FLOORS: Peers = {
    "clone": lambda tensors: tensors[0].clone,
    "copy_": lambda tensors: partial(torch.empty_like(tensors[0]).copy_, tensors[0]),
}


def case(
    name: str,
    competitors: Competitors,
    tensors: Callable[[], Tensors],
    step: Way,
    bytes: int,
    floor: str | None,
    quick: bool,
) -> Case:
    """One function, stepped through by ``step``, over a floor named in ``FLOORS``."""
    makers = {who: step(function) for who, function in competitors.items()}
    bound = Floor(floor, lambda _: repeated(FLOORS[floor](tensors()))) if floor else None
    return Case(name, tensors, makers.pop("fastopt"), "torch", makers, bytes, bound, quick)
