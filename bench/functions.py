"""What all operations that are functions share: how a step calls one, and what memory it moves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .operation import Array, Maker, Operation, Step, Tensors, Traffic, Walk

Function = Callable[..., Tensor]
Functions = dict[str, Function]  # by competitor; each takes the tensors of a case
Way = Callable[[Function], Maker]  # makes steps of a function


def forward(function: Function) -> Maker:
    return lambda tensors: partial(function, *tensors)


def backward(function: Function) -> Maker:
    """Steps through the backward pass of a graph that already exists."""

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


NAMES: dict[Way, str] = {forward: "", backward: " backward", forward_and_backward: " forward + backward"}


def _leaves(tensors: Tensors) -> Tensors:
    return [tensor for tensor in tensors if tensor.requires_grad]


def stepped(family: str, name: str, functions: Functions, way: Way, **more: Any) -> Operation:
    """The operation of these functions, ours and torch's, called by ``way``; ``more`` completes the description."""
    makers = {who: way(function) for who, function in functions.items()}
    return Operation(family=family, name=name, ours=makers.pop("fastopt"), rival="torch", others=makers, **more)


def moved(maps: int, way: Way, size: int, grads: int, kept: bool, inplace: bool = False) -> Traffic:
    """The traffic of a function of ``maps`` inputs, each as large as the result: ``size`` bytes.

    Args:
        grads: how many gradients of that size it makes.
        kept: whether they need the first input in addition to the result's gradient.
        inplace: whether the first input becomes the result.
    """
    inputs = [Array(size) for _ in range(maps)]
    result = [] if inplace else [Array(size, fresh=True)]
    updated = inputs[:1] if inplace else []
    there = Walk(tuple(inputs[len(updated) :]), tuple(updated), tuple(result))
    made = tuple(Array(size, fresh=True) for _ in range(grads))
    back = Walk((Array(size), *inputs[: int(kept)]), written=made)
    return [[walk] for walk, takes in ((there, way is not backward), (back, way is not forward)) if takes]
