"""The operations: one description of each serves its benchmark and the test of its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Shape = tuple[int, ...]
Tensors = list[Tensor]
Step = Callable[[], object]
Maker = Callable[[Tensors], Step]  # prepares what a step needs, and returns the step
Competitors = dict[str, Maker]  # by name, such as "torch fused"; "fastopt" is the first


@dataclass(frozen=True)
class Input:
    """The size and type that an operation is measured on."""

    label: str
    shapes: tuple[Shape, ...]
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.contiguous_format

    @property
    def elements(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes)


@dataclass(frozen=True, eq=False)
class Array:
    """Memory that a step goes through: equal arrays are the same memory."""

    bytes: int
    fresh: bool = False  # a new tensor at each step


@dataclass(frozen=True)
class Walk:
    """Arrays that a step goes through together."""

    read: tuple[Array, ...] = ()
    updated: tuple[Array, ...] = ()  # read and written
    written: tuple[Array, ...] = ()

    @property
    def bytes(self) -> int:
        moved = [*self.read, *self.updated, *self.updated, *self.written]
        return sum(array.bytes for array in moved)


# The least that a step has to move: passes, each over all tensors before the next one begins.
Traffic = list[list[Walk]]
# Takes the inputs, our results and another implementation's (or the tensors they changed): "", or how they differ.
Agreement = Callable[[Tensors, Tensors, Tensors], str]


@dataclass(frozen=True, eq=False)
class Operation:
    """A step on any input, and the implementations of it."""

    family: str
    name: str
    tensors: Callable[[Input], Tensors]  # makes new ones, on the default device
    ours: Maker
    rival: str  # what it is compared with
    others: Competitors  # how the rival can run here; empty if it is not installed
    traffic: Callable[[Tensors], Traffic] | None  # None if arithmetic decides
    agreement: Agreement
    package: str = ""  # a module that has the model; the case is skipped if it cannot be used

    @property
    def competitors(self) -> Competitors:
        return {"fastopt": self.ours, **self.others}


@dataclass(frozen=True)
class Point:
    """The place of a case on a curve."""

    curve: str
    x: int


COLD, HOT = "cold", "hot"


@dataclass(frozen=True)
class Case:
    """An operation on one input."""

    operation: Operation
    input: Input
    caches: str = ""  # "cold": filled with other memory before each step; "hot": as the last step left them
    quick: bool = False  # part of --quick
    threads: int | None = None  # of the CPU; None: as many as the run has
    point: Point | None = None
    only: Sequence[str] | None = None  # names of competitors, if not all take part
    name: str = field(init=False)

    def __post_init__(self) -> None:
        name = f"{self.operation.name}, {self.input.label}{', hot' if self.caches == HOT else ''}"
        object.__setattr__(self, "name", f"{self.point.curve}: {self.point.x}" if self.point else name)

    @property
    def family(self) -> str:
        return "scaling" if self.point else self.operation.family

    @property
    def competitors(self) -> Competitors:
        return {
            name: make
            for name, make in self.operation.competitors.items()
            if self.only is None or name in ("fastopt", *self.only)
        }

    def tensors(self, device: torch.device) -> Tensors:
        """Makes the same tensors each time."""
        torch.manual_seed(0)
        with device:
            return self.operation.tensors(self.input)

    def traffic(self) -> Traffic:
        """The operation's traffic; empty if arithmetic decides."""
        return self.operation.traffic(self.tensors(torch.device("meta"))) if self.operation.traffic else []

    @property
    def bytes(self) -> int:
        return sum(walk.bytes for walks in self.traffic() for walk in walks)

    def outcome(self, name: str, device: torch.device, steps: int = 3) -> Tensors:
        """The tensors that a competitor has changed, or the result that it returns, after some steps."""
        tensors = self.tensors(device)
        step = self.competitors[name](tensors)
        grads = [(tensor.grad, tensor.grad.clone()) for tensor in tensors if tensor.grad is not None]
        for _ in range(steps):
            for grad, value in grads:  # torch's foreach Nesterov writes to gradients, which training makes anew
                grad.copy_(value)
            result = step()
        if isinstance(result, Tensor):
            return [result.detach()]
        return [tensor.detach() for tensor in (tensors if result is None else result)]  # type: ignore[attr-defined]

    def disagreement(self, name: str, ours: Tensors, device: torch.device) -> str:
        """How a competitor's result differs from ours; "" if they agree."""
        inputs = [tensor.detach() for tensor in self.tensors(device)]
        return self.operation.agreement(inputs, ours, self.outcome(name, device))
