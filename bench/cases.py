"""All cases that are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from types import ModuleType

import torch

from . import (
    batch_norm,
    compiled,
    depth,
    dropout,
    monitor,
    muon,
    norms,
    optimizers,
    precision,
    quasi_newton,
    scaling,
    training,
)
from .machine import Cpu
from .operation import COLD, HOT, Case

MODULES: tuple[ModuleType, ...] = (
    optimizers,
    precision,
    monitor,
    muon,
    quasi_newton,
    dropout,
    batch_norm,
    norms,
    depth,
    training,
    compiled,
    scaling,
)
BY_CACHES = (
    "optimizers",
    "clip",
    "precision",
    "monitor",
    "sparse",
    "dropout",
    "batch_norm",
    "norms",
)  # families; a whole model fills the caches itself
FAMILIES = (
    "optimizers",
    "clip",
    "precision",
    "monitor",
    "muon",
    "quasi_newton",
    "sparse",
    "dropout",
    "batch_norm",
    "norms",
    "training",
    "compiled",
    "scaling",
)


def _by_caches(case: Case) -> list[Case]:
    """Doubles a case where caches matter: in training they are cold, because other layers run between two calls."""
    if case.family not in BY_CACHES or case.bytes > Cpu.evicted:
        return [case]
    return [replace(case, caches=COLD), replace(case, caches=HOT)]


def in_turn(chosen: Sequence[Case]) -> list[Case]:
    """A case of each family and type after the other: a run that is stopped has measured some of all."""
    groups: dict[tuple[str, torch.dtype], list[Case]] = {}
    for case in chosen:
        groups.setdefault((case.family, case.input.dtype), []).append(case)
    return [case for some in zip_longest(*groups.values()) for case in some if case is not None]


def cases(device: str) -> list[Case]:
    """Cases for ``"cpu"`` or ``"cuda"``, by family; in each family the hot ones come last."""
    if device == "cuda":
        return [case for module in MODULES for case in module.on_cuda()]
    found = [each for module in MODULES for case in module.on_cpu() for each in _by_caches(case)]
    return sorted(found, key=lambda case: (FAMILIES.index(case.family), case.caches == HOT))
