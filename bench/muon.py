"""Muon's step, whose matrix products take most of the time."""

from __future__ import annotations

import fastopt

from .agreement import moves
from .operation import Case, Input, Operation
from .optimizers import parameters
from .peers import variants
from .shapes import gpt2

RIVAL = "torch.optim.Muon"
LR = 0.5  # three steps move a bfloat16 parameter by much more than its rounding


def _hidden(width: int) -> Input:
    """The matrices of a GPT-2's hidden layers."""
    shapes = tuple(shape for shape in gpt2(width, 50257, 1024)[2:] if len(shape) == 2)
    return Input(f"GPT-2 of width {width}, {len(shapes)} matrices", shapes)


OPERATION = Operation(
    family="muon",
    name="Muon",
    tensors=parameters,
    ours=lambda params: fastopt.Muon(params, lr=LR).step,
    rival=RIVAL,
    others=variants(RIVAL, lr=LR),
    traffic=None,
    agreement=moves(0.1),
)
OPERATIONS = (OPERATION,)


def on_cpu() -> list[Case]:
    return [Case(OPERATION, _hidden(width), quick=width == 192) for width in (768, 192)]


def on_cuda() -> list[Case]:
    return [Case(OPERATION, _hidden(768), quick=True)]
