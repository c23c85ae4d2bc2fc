"""A step of LBFGS: one iteration with a full history, on a quadratic whose gradient takes one product."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import fastopt

from .agreement import moves
from .operation import Array, Case, Input, Maker, Operation, Step, Tensors, Traffic, Walk
from .optimizers import parameters

LR = 0.01  # so that hundreds of steps do not reach the minimum
SUFFIX = {torch.float32: "", torch.float64: " float64"}


def _stepped(pairs: int, make: Any) -> Maker:
    def maker(params: Tensors) -> Step:
        """All parameters are parts of one tensor, and so are their gradients: the closure has one operation."""
        flat = torch.cat([param.detach().reshape(-1) for param in params])
        weights, grad = torch.linspace(0.5, 2, flat.numel()).to(flat), torch.empty_like(flat)
        numels = [param.numel() for param in params]
        for param, value, its_grad in zip(params, flat.split(numels), grad.split(numels), strict=True):
            param.data, param.grad = value.view(param.shape), its_grad.view(param.shape)

        def closure() -> float:
            torch.mul(weights, flat, out=grad)
            return 0.0

        optimizer = make(params, lr=LR, max_iter=1, tolerance_grad=0, history_size=pairs)
        start = flat.clone()
        for _ in range(pairs + 2):
            optimizer.step(closure)
        flat.copy_(start)  # results are compared from here on

        def step() -> None:  # the loss is no result to compare
            optimizer.step(closure)

        return step

    return maker


def _traffic(pairs: int, params: Tensors) -> Traffic:
    """The history is read twice; one pair of it is written."""
    size = sum(param.numel() for param in params) * params[0].element_size()

    def vector() -> Array:
        return Array(size)

    history = tuple(vector() for _ in range(2 * pairs - 2))
    newest = (vector(), vector())
    param, grad, flat_grad, previous, direction, weights, base = (vector() for _ in range(7))
    return [
        [Walk(read=(weights, param), written=(grad,))],
        [Walk(read=(grad, previous, direction), written=(flat_grad,))],
        [Walk(read=(*history, flat_grad, previous, direction), written=newest)],
        [Walk(read=(*history, *newest, flat_grad), written=(direction,))],
        [Walk(read=(param,), written=(base,))],
        [Walk(read=(base, direction), written=(param,))],
    ]


def _operation(pairs: int) -> Operation:
    return Operation(
        family="quasi_newton",
        name=f"LBFGS of {pairs} pairs",
        tensors=parameters,
        ours=_stepped(pairs, fastopt.LBFGS),
        rival="torch.optim.LBFGS",
        others={"torch default": _stepped(pairs, torch.optim.LBFGS)},
        traffic=partial(_traffic, pairs),
        agreement=moves(0.1),
    )


OPERATIONS = (MANY, FEW) = (_operation(100), _operation(20))


def _cut(numel: int, count: int) -> tuple[tuple[int, ...], ...]:
    return ((numel // count,),) * count


def on_cpu() -> list[Case]:
    sizes = [(10_000, 10), (10_000, 1000), (100_000, 10), (100_000, 1000)]
    small = [
        Case(
            MANY,
            Input(f"{numel // 1000}k in {count} tensors{SUFFIX[dtype]}", _cut(numel, count), dtype),
            quick=numel == 10_000,
        )
        for numel, count in sizes
        for dtype in (torch.float32, torch.float64)
    ]
    large = [
        Case(MANY, Input("1M in 10 tensors", _cut(1_000_000, 10))),
        Case(FEW, Input("16M in 10 tensors", _cut(16_000_000, 10))),
    ]
    return [*small, *large]


def on_cuda() -> list[Case]:
    return [Case(MANY, Input("1M in 10 tensors", _cut(1_000_000, 10)), quick=True)]
