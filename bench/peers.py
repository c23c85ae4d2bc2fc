"""The competitors: every way in which torch, or another package, can take the same step."""

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

# "default" is what users get without flags. Which of the other ways is fastest differs from row to row.
VARIANTS: dict[str, dict[str, bool]] = {
    "default": {},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
    "fused": {"fused": True},
}
Classes = dict[str, dict[str, Any]]  # constructor arguments, by the full name of a class

# The tools of this Python's environment, such as ninja, with which deepspeed builds itself.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

# optimi's defaults differ from torch's. Its Kahan sums, the default in half types, would use the gradient as scratch.
_OPTIMI: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "kahan_sum": False}

# Classes for the CPU that compute the same as one of our rules, by the name of the rule. Some write to the gradients,
# which training makes anew. Only torch has AMSGrad, centered RMSprop, NAdam, Rprop and its ASGD there.
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
        "pytorch_optimizer.SGDW": {},  # equals SGD without weight decay
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
    # This package caps beta2, at a value that 10^8 steps do not reach.
    "Adafactor": {"pytorch_optimizer.AdaFactor": {"betas": (None, 0.9999999), "relative_step": False}},
    "AdaBound": {"adabound.AdaBound": {}, "pytorch_optimizer.AdaBound": {}},
    "Lion": {
        "deepspeed.ops.lion.DeepSpeedCPULion": {"betas": (0.9, 0.99)},
        "bitsandbytes.optim.Lion": {},
        "optimi.Lion": {"kahan_sum": False},
        "pytorch_optimizer.Lion": {},
    },
    "LAMB": {"timm.optim.Lamb": {"max_grad_norm": None}},
    "StableAdamW": {
        "optimi.StableAdamW": {"kahan_sum": False},
        "pytorch_optimizer.StableAdamW": {"eps": 1e-6, "kahan_sum": False},
    },
    "Prodigy": {"prodigyopt.Prodigy": {}},
    # These clip by another power, or count from 1.
    "ADOPT": {
        "timm.optim.Adopt": {"clip_exp": 0.25},
        "pytorch_optimizer.ADOPT": {"clip_lambda": lambda t: (t - 1) ** 0.25},
    },
    "ScheduleFreeAdamW": {"schedulefree.AdamWScheduleFree": {}, "pytorch_optimizer.ScheduleFreeAdamW": {}},
    "ScheduleFreeSGD": {"schedulefree.SGDScheduleFree": {}, "pytorch_optimizer.ScheduleFreeSGD": {}},
    "Adan": {"timm.optim.Adan": {}, "pytorch_optimizer.Adan": {}},
    "AdEMAMix": {"bitsandbytes.optim.AdEMAMix": {"weight_decay": 0.0}, "pytorch_optimizer.AdEMAMix": {}},
}

# Packages with fused optimizers for CUDA only, by the name of our class.
ON_CUDA: dict[str, Classes] = {
    "Adam": {"apex.optimizers.FusedAdam": {"adam_w_mode": False}, "bitsandbytes.optim.Adam": {}},
    "AdamW": {"apex.optimizers.FusedAdam": {}, "bitsandbytes.optim.AdamW": {}},
    "AdamW 8-bit states": {"bitsandbytes.optim.AdamW8bit": {}, "torchao.optim.AdamW8bit": {}},
    "SGD": {"apex.optimizers.FusedSGD": {}, "bitsandbytes.optim.SGD": {}},
    "Adagrad": {"apex.optimizers.FusedAdagrad": {}, "bitsandbytes.optim.Adagrad": {}},
    "RMSprop": {"bitsandbytes.optim.RMSprop": {}},
    "Lion": {"bitsandbytes.optim.Lion": {}},
}


def _found(name: str) -> type[torch.optim.Optimizer] | None:
    """The class of that full name, if it can be imported."""
    module, _, cls = name.rpartition(".")
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        return None
    if package != "torch":
        warnings.filterwarnings("ignore", module=package)  # its warnings about this torch are not ours to fix
    logging.disable(logging.WARNING)
    try:
        return getattr(importlib.import_module(module), cls, None)
    except (ImportError, RuntimeError):  # timm raises RuntimeError if torchvision was built for another torch
        return None
    finally:
        logging.disable(logging.NOTSET)


def variants(name: str, **kwargs: Any) -> Competitors:
    """Every way to run the class of that full name, such as ``"torch fused"``; empty if the class is missing."""
    cls = _found(name)
    if cls is None:
        return {}
    package = name.partition(".")[0]
    known = inspect.signature(cls).parameters

    def maker(flags: dict[str, bool]) -> Maker:
        def make(params: Tensors) -> Step:
            optimizer: Any = cls(params, **kwargs, **flags)
            if hasattr(optimizer, "train"):  # the Schedule-Free ones begin in evaluation mode
                optimizer.train()
            step: Step = optimizer.step
            return step

        return make

    return {f"{package} {way}": maker(flags) for way, flags in VARIANTS.items() if flags.keys() <= known.keys()}


def _all(classes: Classes, **kwargs: Any) -> Competitors:
    found: Competitors = {}
    for name, more in classes.items():
        found |= variants(name, **{**kwargs, **more})
    return found


def implementations(rule: str, rival: str, **kwargs: Any) -> Competitors:
    """The ways to run ``rival``, and the packages that have the same rule."""
    return variants(rival, **kwargs) | _all(ON_CPU.get(rule, {}), **kwargs)


def on_cuda_alone(optimizer: str, **kwargs: Any) -> Competitors:
    return _all(ON_CUDA.get(optimizer, {}), **kwargs)


def packages(table: dict[str, Classes]) -> dict[str, str]:
    """The versions of the packages that a table names; "" if none of a package's classes can be imported."""
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
    """Adds ``clip_grad_norm_`` before each competitor's step. After the first step it scales by 1."""

    def maker(make: Maker) -> Maker:
        def build(params: Tensors) -> Step:
            step = make(params)

            def clip_and_step() -> None:
                torch.nn.utils.clip_grad_norm_(params, max_norm)
                step()

            return clip_and_step

        return build

    return {name: maker(make) for name, make in others.items()}
