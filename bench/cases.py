"""All that is measured."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from . import batch_norm, compiled, depth, dropout, optimizers, scaling, training
from .machine import Cpu
from .operation import COLD, HOT, Case

MODULES: tuple[ModuleType, ...] = (optimizers, dropout, batch_norm, depth, training, compiled, scaling)
BY_CACHES = ("optimizers", "clip", "sparse", "dropout", "batch_norm")  # families; a whole model fills the caches itself
FAMILIES = ("optimizers", "clip", "sparse", "dropout", "batch_norm", "training", "compiled", "scaling")


def _by_caches(case: Case) -> list[Case]:
    """Twice, where it makes a difference: caches are cold in training, where forward and backward come between."""
    if case.family not in BY_CACHES or case.bytes > Cpu.evicted:
        return [case]
    return [replace(case, caches=COLD), replace(case, caches=HOT)]


def cases(device: str) -> list[Case]:
    """Those for ``"cpu"`` or ``"cuda"``; those that are hot are the last of their family."""
    if device == "cuda":
        return [case for module in MODULES for case in module.on_cuda()]
    found = [each for module in MODULES for case in module.on_cpu() for each in _by_caches(case)]
    return sorted(found, key=lambda case: (FAMILIES.index(case.family), case.caches == HOT))
