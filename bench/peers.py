"""Whom we are measured against: every way torch, or another package, can take the same step."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import warnings
from typing import Any

import torch

from .case import Maker, Peers, Tensors
from .measure import Step

# "default" is what a user gets without flags; which of the others is fastest differs from row to row.
VARIANTS: dict[str, dict[str, bool]] = {
    "default": {},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
    "fused": {"fused": True},
}

# Packages that have fused optimizers for CUDA alone: class and arguments by the name of ours.
ON_CUDA: dict[str, dict[str, dict[str, Any]]] = {
    "Adam": {"apex.optimizers.FusedAdam": {"adam_w_mode": False}, "bitsandbytes.optim.Adam": {}},
    "AdamW": {"apex.optimizers.FusedAdam": {}, "bitsandbytes.optim.AdamW": {}},
    "SGD": {"apex.optimizers.FusedSGD": {}, "bitsandbytes.optim.SGD": {}},
    "Adagrad": {"apex.optimizers.FusedAdagrad": {}, "bitsandbytes.optim.Adagrad": {}},
    "RMSprop": {"bitsandbytes.optim.RMSprop": {}},
    "Lion": {"bitsandbytes.optim.Lion": {}},
}


def _found(rival: str) -> type[torch.optim.Optimizer] | None:
    """The class of that full name, where it can be imported."""
    module, _, name = rival.rpartition(".")
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        return None
    if package != "torch":
        warnings.filterwarnings("ignore", module=package)  # what it says of this torch is its own affair
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def variants(rival: str, **kwargs: Any) -> Peers:
    """By name, the implementations the class ``rival`` has here, ``"torch fused"``; none where it is missing.

    Args:
        rival: the class's full name, such as ``torch.optim.Adam``.
        kwargs: its arguments.
    """
    cls = _found(rival)
    if cls is None:
        return {}
    package = rival.partition(".")[0]
    known = inspect.signature(cls).parameters

    def maker(flags: dict[str, bool]) -> Maker:
        return lambda params: cls(params, **kwargs, **flags).step

    return {f"{package} {name}": maker(flags) for name, flags in VARIANTS.items() if flags.keys() <= known.keys()}


def on_cuda_alone(optimizer: str, **kwargs: Any) -> Peers:
    """What the packages of ``ON_CUDA``, where they are here, have of one of our optimizers."""
    found: Peers = {}
    for rival, more in ON_CUDA.get(optimizer, {}).items():
        found |= variants(rival, **kwargs, **more)
    return found


def packages_on_cuda() -> dict[str, bool]:
    """Those of ``ON_CUDA``, and whether anything of them is here."""
    here: dict[str, bool] = {}
    for rival in itertools.chain.from_iterable(ON_CUDA.values()):
        package = rival.partition(".")[0]
        here[package] = here.get(package, False) or _found(rival) is not None
    return here


def clipped(peers: Peers, max_norm: float) -> Peers:
    """Each with ``clip_grad_norm_`` before its step. It scales the gradients at every step, by 1 after the first."""

    def maker(make: Maker) -> Maker:
        def build(params: Tensors) -> Step:
            step = make(params)

            def clip_and_step() -> None:
                torch.nn.utils.clip_grad_norm_(params, max_norm)
                step()

            return clip_and_step

        return build

    return {name: maker(make) for name, make in peers.items()}
