"""Checks on an example input that traced modules still do what they did before."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from . import _traced


def check_alike(model: nn.Module, inputs: tuple[Any, ...], traced: dict[str, nn.Module]) -> dict[str, str]:
    """Returns what is wrong with each traced module that gives another result than before, or was not run. ``model``
    does not change, because copies of its modules run."""
    wrong = dict.fromkeys(traced, "the example input does not reach it")

    def compare(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            wrong[name] = _difference(module, args, kwargs)

        return hook

    handles = [traced[name].register_forward_pre_hook(compare(name), with_kwargs=True) for name in traced]
    training = [module for module in model.modules() if module.training]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(*pytree.tree_map(_copied, inputs))
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return {name: why for name, why in wrong.items() if why}


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _difference(module: nn.Module, args: Any, kwargs: Any) -> str:
    for training in (False, True):
        results = []
        for traced in (True, False):
            part = copy.deepcopy(module).train(training)
            for hooks in (part._forward_pre_hooks, part._forward_pre_hooks_with_kwargs):
                hooks.clear()
            if not traced:
                _traced.untrace(part)
            with torch.random.fork_rng(devices=[]):
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
