"""Whom we are measured against: every way torch, or another package, can take the same step."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from .operation import Competitors, Maker, Step, Tensors

# "default" is what a user gets without flags; which of the others is fastest differs from row to row.
VARIANTS: dict[str, dict[str, bool]] = {
    "default": {},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
    "fused": {"fused": True},
}
Classes = dict[str, dict[str, Any]]  # arguments by the full name of a class

# Where this Python's tools are, ninja for one, with which deepspeed builds itself.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

# optimi's defaults are not torch's; its Kahan sums, the default in half types, would use the gradient as scratch.
_OPTIMI: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "kahan_sum": False}

# Packages with optimizers for the CPU: what does the same as one of ours, by the name of the rule. Some write to the
# gradients, which training makes anew. Nobody but torch has AMSGrad, centered RMSprop, NAdam, Rprop or its ASGD there.
ON_CPU: dict[str, Classes] = {
    "Adam": {
        "deepspeed.ops.adam.DeepSpeedCPUAdam": {"adamw_mode": False},
        "bitsandbytes.optim.Adam": {},  # torch's operations, in float32
        "optimi.Adam": _OPTIMI,
    },
    "AdamW": {
        "deepspeed.ops.adam.DeepSpeedCPUAdam": {"weight_decay": 1e-2},
        "bitsandbytes.optim.AdamW": {},
        "optimi.AdamW": _OPTIMI,
    },
    "SGD momentum": {
        "bitsandbytes.optim.SGD": {},
        "optimi.SGD": {"kahan_sum": False},
        "pytorch_optimizer.SGDW": {},  # without weight decay that is SGD
    },
    "SGD Nesterov": {"pytorch_optimizer.SGDW": {}},
    "RMSprop": {"bitsandbytes.optim.RMSprop": {}},
    "Adagrad": {"deepspeed.ops.adagrad.DeepSpeedCPUAdagrad": {}, "bitsandbytes.optim.Adagrad": {}},
    "Adadelta": {"pytorch_optimizer.AdaDelta": {}},
    "Adamax": {"pytorch_optimizer.AdaMax": {}},
    "RAdam": {
        "optimi.RAdam": _OPTIMI,  # adds eps after the bias correction
        "pytorch_optimizer.RAdam": {"degenerated_to_sgd": True},
    },
    # Its cap of beta2 is one that 10^8 steps do not reach.
    "Adafactor": {"pytorch_optimizer.AdaFactor": {"betas": (None, 0.9999999), "relative_step": False}},
    "AdaBound": {"adabound.AdaBound": {}, "pytorch_optimizer.AdaBound": {}},
    "Lion": {
        "deepspeed.ops.lion.DeepSpeedCPULion": {"betas": (0.9, 0.99)},
        "bitsandbytes.optim.Lion": {},
        "optimi.Lion": {"kahan_sum": False},
        "pytorch_optimizer.Lion": {},
    },
    "LAMB": {"timm.optim.Lamb": {"max_grad_norm": None}},
}

# Packages that have fused optimizers for CUDA alone, by the name of ours.
ON_CUDA: dict[str, Classes] = {
    "Adam": {"apex.optimizers.FusedAdam": {"adam_w_mode": False}, "bitsandbytes.optim.Adam": {}},
    "AdamW": {"apex.optimizers.FusedAdam": {}, "bitsandbytes.optim.AdamW": {}},
    "SGD": {"apex.optimizers.FusedSGD": {}, "bitsandbytes.optim.SGD": {}},
    "Adagrad": {"apex.optimizers.FusedAdagrad": {}, "bitsandbytes.optim.Adagrad": {}},
    "RMSprop": {"bitsandbytes.optim.RMSprop": {}},
    "Lion": {"bitsandbytes.optim.Lion": {}},
}


def _found(name: str) -> type[torch.optim.Optimizer] | None:
    """The class of that full name, where it can be imported."""
    module, _, cls = name.rpartition(".")
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        return None
    if package != "torch":
        warnings.filterwarnings("ignore", module=package)  # what it says of this torch is its own affair
    logging.disable(logging.WARNING)
    try:
        return getattr(importlib.import_module(module), cls, None)
    except (ImportError, RuntimeError):  # timm's, where torchvision was built for another torch
        return None
    finally:
        logging.disable(logging.NOTSET)


def variants(name: str, **kwargs: Any) -> Competitors:
    """The ways of the class of that full name, ``"torch fused"``; none where it is missing."""
    cls = _found(name)
    if cls is None:
        return {}
    package = name.partition(".")[0]
    known = inspect.signature(cls).parameters

    def maker(flags: dict[str, bool]) -> Maker:
        return lambda params: cls(params, **kwargs, **flags).step

    return {f"{package} {way}": maker(flags) for way, flags in VARIANTS.items() if flags.keys() <= known.keys()}


def _all(classes: Classes, **kwargs: Any) -> Competitors:
    found: Competitors = {}
    for name, more in classes.items():
        found |= variants(name, **{**kwargs, **more})
    return found


def implementations(rule: str, rival: str, **kwargs: Any) -> Competitors:
    """Those of ``rival``, and of the packages that have the same rule."""
    return variants(rival, **kwargs) | _all(ON_CPU.get(rule, {}), **kwargs)


def on_cuda_alone(optimizer: str, **kwargs: Any) -> Competitors:
    return _all(ON_CUDA.get(optimizer, {}), **kwargs)


def packages(table: dict[str, Classes]) -> dict[str, str]:
    """The versions of those that a table names; "" where nothing of one is here."""
    here: dict[str, str] = {}
    for name in (name for classes in table.values() for name in classes):
        package = name.partition(".")[0]
        if not here.get(package):
            here[package] = _version(package) if _found(name) else ""
    return here


def _version(package: str) -> str:
    names = importlib.metadata.packages_distributions().get(package, [package])
    try:
        return importlib.metadata.version(names[0])
    except importlib.metadata.PackageNotFoundError:
        return "?"


def clipped(others: Competitors, max_norm: float) -> Competitors:
    """Each with ``clip_grad_norm_`` before its step. It scales the gradients at every step, by 1 after the first."""

    def maker(make: Maker) -> Maker:
        def build(params: Tensors) -> Step:
            step = make(params)

            def clip_and_step() -> None:
                torch.nn.utils.clip_grad_norm_(params, max_norm)
                step()

            return clip_and_step

        return build

    return {name: maker(make) for name, make in others.items()}
