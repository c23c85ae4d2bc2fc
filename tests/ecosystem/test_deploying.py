"""Converted models in evaluation, given to exporters, tracers and quantization (docs/deploying.md)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.testing import assert_close

import fastopt
import zoo
from fastopt.nn.functional import batch_norm

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("ignore")]  # torch deprecates some of these tools
ACTIVATIONS = (nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.ELU(), nn.SiLU(), nn.GELU(), nn.Hardswish())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [(nn.Conv2d(3 if i == 0 else 4, 4, 1), nn.BatchNorm2d(4), act) for i, act in enumerate(ACTIVATIONS)]
        self.body = nn.Sequential(*(part for layer in layers for part in layer), nn.Dropout(), nn.Dropout2d())
        self.conv, self.bn, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(256, 4), nn.AlphaDropout(0.1))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.relu(self.bn(self.conv(x)) + x))


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def models(fuse: Any) -> tuple[nn.Module, nn.Module]:
    theirs = Net().eval()
    options = {"fuse": "trace", "example": image()} if fuse == "trace" else {}
    return theirs, fastopt.nn.convert(copy.deepcopy(theirs), **options)


def onnx(model: nn.Module, path: Path, dynamo: bool) -> Tensor:
    file = str(path / "model.onnx")
    torch.onnx.export(model, (image(),), file, dynamo=dynamo, input_names=["x"])
    session = onnxruntime.InferenceSession(file)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image().numpy()})[0])


def exported(model: nn.Module, decomposed: bool, strict: bool = False) -> Tensor:
    program = torch.export.export(model, (image(),), strict=strict)
    program = program.run_decompositions() if decomposed else program
    assert "fastopt" not in str(program.graph)
    return program.module()(image())


def prepared(model: nn.Module) -> Tensor:
    return quantize_fx.prepare_fx(model, quantization.get_default_qconfig_mapping("x86"), (image(),))(image())


TOOLS: dict[str, Callable[[nn.Module, Path], Tensor]] = {
    "export": lambda m, _: exported(m, False),
    "export, strict": lambda m, _: exported(m, False, strict=True),
    "export, decomposed": lambda m, _: exported(m, True),
    "onnx, dynamo": lambda m, path: onnx(m, path, True),
    "onnx, torchscript": lambda m, path: onnx(m, path, False),
    "jit.trace": lambda m, _: torch.jit.trace(m, image())(image()),
    "jit.freeze": lambda m, _: torch.jit.freeze(torch.jit.trace(m, image()))(image()),
    "fx": lambda m, _: torch.fx.symbolic_trace(m)(image()),
    "fx, conv and norm folded": lambda m, _: quantize_fx.fuse_fx(m)(image()),
    "prepare_fx": lambda m, _: prepared(m),
    "vmap": lambda m, _: torch.func.vmap(m)(image()[None])[0],
    "functional_call": lambda m, _: torch.func.functional_call(m, dict(m.named_parameters()), (image(),)),
}


@pytest.mark.parametrize("fuse", [True, "trace"])
@pytest.mark.parametrize("name", TOOLS)
def test_works(name: str, fuse: Any, tmp_path: Path) -> None:
    theirs, ours = models(fuse)
    assert_close(TOOLS[name](ours, tmp_path), theirs(image()), rtol=1e-4, atol=1e-4)


def test_fx_keeps_modules_as_calls() -> None:
    """The traced program uses the model's training flags and p."""
    _, ours = models(True)
    program = torch.fx.symbolic_trace(ours.train())
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_module"]
    assert {"body.1", "body.21", "body.22", "bn", "head.2"} <= set(targets)
    program.eval()
    assert_close(program(image()), ours.eval()(image()))
    program.train()
    assert not torch.equal(program(image()), program(image()))


def test_script_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"call fastopt\.nn\.revert\(model\) first"):
        torch.jit.script(models(True)[1])
    theirs, ours = models(True)
    assert_close(torch.jit.script(fastopt.nn.revert(ours))(image()), theirs(image()))


def test_fuse_modules_after_revert() -> None:
    theirs, ours = models(True)
    with pytest.raises((AssertionError, NotImplementedError), match="fuser method"):
        quantization.fuse_modules(ours, [["body.0", "body.1", "body.2"]])
    fused = quantization.fuse_modules(fastopt.nn.revert(ours), [["body.0", "body.1", "body.2"]])
    assert_close(fused(image()), theirs(image()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fuse", [True, "trace"])
def test_feature_extractor(fuse: Any) -> None:
    theirs = zoo.made("torchvision", "resnet18").eval()
    ours = copy.deepcopy(theirs)
    options = {"fuse": "trace", "example": zoo.images()} if fuse == "trace" else {}
    fastopt.nn.convert(ours, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [
            zoo.create_feature_extractor(m, ["layer1.0.bn1", "layer2.0.relu_1"])(zoo.images()) for m in (ours, theirs)
        ]
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_export_in_training_has_our_operators() -> None:
    program = torch.export.export(models(True)[1].train(), (image(),))
    assert "fastopt.batch_norm" in str(program.graph)


def test_functional_norm_in_evaluation() -> None:
    class Calls(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return batch_norm(x, torch.zeros(3), torch.ones(3), activation="gelu", residual=x)

    assert_close(exported(Calls(), True), Calls()(image()))
