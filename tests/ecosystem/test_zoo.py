"""convert on published models: how many pairs it fuses, and that results stay the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx
from torch.nn import functional as F
from torch.testing import assert_close

import fastopt
import zoo
from fastopt.nn._norm import fusion

pytestmark = pytest.mark.ecosystem
NAMES = [("torchvision", name) for name in zoo.TORCHVISION] + [("timm", name) for name in zoo.TIMM]
_NORMS = torch.nn.modules.batchnorm._BatchNorm
_ADDS = {"add", "iadd", "add_"}
_ACTS = {"relu", "relu_", "silu", "relu6", "hardswish", "gelu", "leaky_relu"}


class _Whole(fx.Tracer):
    """Treats norms as calls and traces everything else: finds pairs in another way than convert."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _NORMS) or super().is_leaf_module(m, module_qualified_name)


def pairs_there_are(model: torch.nn.Module) -> tuple[int, set[str]]:
    """Counts the activations that our kernels support whose input is a norm or a sum with one, and collects these
    norms. If two norms are added, one can be fused."""
    graph = _Whole().trace(model)
    parts = dict(model.named_modules())
    found: set[str] = set()
    activations: set[str] = set()

    def name_of(node: fx.Node) -> str:
        return str(node.target) if isinstance(node.target, str) else node.target.__name__

    def activated(node: fx.Node) -> bool:
        if node.op == "call_module":
            return fusion.activation_of(parts[str(node.target)]) is not None
        return name_of(node) in _ACTS

    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(parts[str(node.target)], _NORMS):
            continue
        if hasattr(parts[str(node.target)], "act"):  # timm's BatchNormAct2d is a pair by itself
            if fusion.activation_of(parts[str(node.target)].act) is not None:
                found.add(str(node.target))
                activations.add(node.name)
            continue
        now = node
        while len(now.users) == 1 and next(iter(now.users)).op == "call_module":
            after = next(iter(now.users))
            if type(parts[str(after.target)]) is not torch.nn.Identity:
                break
            now = after
        if len(now.users) != 1:
            continue
        after = next(iter(now.users))
        if after.op != "call_module" and name_of(after) in _ADDS and len(after.users) == 1:
            after = next(iter(after.users))
        if activated(after):
            found.add(str(node.target))
            activations.add(after.name)
    return len(activations), found


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_pairs_fused(package: str, name: str) -> None:
    """fuse="trace" fuses at least 0.9 of the pairs, except in two models that are named."""
    theirs = zoo.made(package, name).train()
    try:
        there, norms = pairs_there_are(copy.deepcopy(theirs))
    except Exception as error:
        pytest.fail(f"the test cannot trace it: {error}")
    counts = []
    for fuse in (True, "trace"):
        options = {"fuse": fuse, "example": zoo.images()} if fuse == "trace" else {"fuse": fuse}
        report = fastopt.nn.report(fastopt.nn.convert(copy.deepcopy(theirs), **options))
        assert all(row.state != "left" or "Dropout" in row.layer or "DropPath" in row.layer for row in report.rows)
        joined = {row.name for row in report.rows if row.state == "as one"}
        counts.append(len(joined & norms))
    print(f"\n{package} {name}: {there} pairs, {counts[0]} fused, {counts[1]} with trace")
    assert counts[1] >= zoo.FUSED.get(name, 0.9) * there


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_outputs_and_gradients(package: str, name: str) -> None:
    theirs = zoo.made(package, name).double().eval()
    ours = fastopt.nn.convert(copy.deepcopy(theirs), fuse="trace", example=zoo.images().double())
    for training in (False, True):
        found = []
        for model in (theirs, ours):
            x = zoo.images().double().requires_grad_()
            torch.manual_seed(3)
            model.train(training)
            for part in model.modules():  # masks differ, as torch's are drawn in another way
                if "Drop" in type(part).__name__:
                    part.eval()
            y = model(x)
            y = y if isinstance(y, torch.Tensor) else y.logits
            F.mse_loss(y, torch.zeros_like(y)).backward()
            found.append([y, x.grad, *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()])
            model.zero_grad()
        assert_close(found[1], found[0], rtol=1e-4, atol=1e-6 * float(found[0][0].detach().abs().max()))
    fastopt.nn.revert(ours)
    assert [type(m) for m in ours.modules()] == [type(m) for m in theirs.modules()]
