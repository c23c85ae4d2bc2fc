"""Traces modules, and checks on an example input that they still do what they did before."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from . import _traced


def trace_alike(model: nn.Module, inputs: tuple[Any, ...], modules: dict[str, nn.Module]) -> dict[str, str]:
    """Traces each of the modules for the first call that the inputs bring it, and leaves it as it was where a trace
    gives another result. Returns why, by name. ``model`` does not change otherwise, because copies of its modules run.
    """
    reasons: dict[str, str | None] = dict.fromkeys(modules)

    def check(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if module is not modules[name]:  # it is in a copy of a larger module
                return
            if reasons[name] is None:
                with torch.enable_grad():
                    reasons[name] = _traced.trace(module, args, kwargs)
            if not reasons[name]:
                reasons[name] = _difference(module, args, kwargs)
                if reasons[name]:
                    _traced.untrace(module)

        return hook

    handles = [modules[name].register_forward_pre_hook(check(name), with_kwargs=True) for name in modules]
    training = [module for module in model.modules() if module.training]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(*pytree.tree_map(_copied, inputs))
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return {
        name: "the example input does not reach it" if why is None else why
        for name, why in reasons.items()
        if why != ""
    }


def _copied(value: Any) -> Any:
    """Copies an argument that a module may change, such as a tensor or a cache of keys and values."""
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _difference(module: nn.Module, args: Any, kwargs: Any) -> str:
    for training in (False, True):
        results = []
        for traced in (True, False):
            part = copy.deepcopy(module).train(training)
            for hooks in (part._forward_pre_hooks, part._forward_pre_hooks_with_kwargs):
                hooks.clear()
            if not traced:
                _traced.untrace(part)
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as those of checkpoints in a pass without gradients
                torch.manual_seed(0)
                try:
                    out = part(*pytree.tree_map(_copied, args), **pytree.tree_map(_copied, kwargs))
                except Exception as error:
                    return f"it fails on the example in {'training' if training else 'evaluation'}: {error}"
            results.append([*pytree.tree_leaves(out), *part.buffers()])
        mine, theirs = results
        try:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
        except AssertionError as error:
            return f"traced, it gives another result on the example: {str(error).splitlines()[0]}"
    return ""
