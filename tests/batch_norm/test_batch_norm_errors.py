"""Bad arguments are refused, in torch's words where it has them; nothing is written. Versions change as in torch."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as T

import fastopt.nn.functional as F
from batch_norm_cases import ACTIVATIONS
from support import some_values
from torch_norms import RUNNING, Tensors, composed, run, some_tensors

SHAPE = (4, 5, 3, 6)


def refuse(changes: dict[str, Any], error: type[Exception], match: str, **options: Any) -> None:
    """Expects the error, and running statistics that have not changed."""
    tensors = some_tensors(SHAPE) | changes
    kept = {name: tensors[name] for name in RUNNING if tensors[name] is not None}
    before = {name: (t._version, t.clone() if t.is_cpu else None) for name, t in kept.items()}
    with pytest.raises(error, match=match):
        F.batch_norm(**tensors, **options)
    for name, tensor in kept.items():
        version, values = before[name]
        assert tensor._version == version
        assert values is None or torch.equal(tensor, values)


def torchs_text(changes: dict[str, Any], **options: Any) -> str:
    with pytest.raises((RuntimeError, ValueError)) as caught:
        T.batch_norm(**some_tensors(SHAPE) | changes, **options)
    return str(caught.value)


PARAMETERS = [*RUNNING, "weight", "bias"]
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])


@both_modes
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str, training: bool) -> None:
    for wrong in (torch.ones(4), torch.ones(0), torch.ones(5, 2), torch.ones(1)):
        text = f"{name} should contain 5 elements not {wrong.numel()}"
        refuse({name: wrong}, RuntimeError, text, training=training)
        assert torchs_text({name: wrong}, training=training) == text
    for wrong in (torch.ones(5, 1), torch.ones(1, 5)):
        refuse({name: wrong}, RuntimeError, f"{name} should have one dimension", training=training)
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.complex64):
        wrong = torch.ones(5, dtype=dtype)
        refuse({name: wrong}, RuntimeError, rf"{name} has to be torch\.float32.* got {dtype}", training=training)
    refuse({name: torch.ones(5, device="meta")}, RuntimeError, f"{name} is on meta", training=training)


@both_modes
def test_parameters_of_half_inputs(training: bool) -> None:
    for dtype, others in ((torch.float16, [torch.bfloat16, torch.float64]), (torch.bfloat16, [torch.float16])):
        for name in PARAMETERS:
            for other in others:
                changes = {"input": some_values(SHAPE, dtype, 0), name: torch.ones(5, dtype=other)}
                refuse(changes, RuntimeError, rf"{name} has to be torch\.float32 or {dtype}", training=training)


@both_modes
def test_residuals(training: bool) -> None:
    for shape in ((5,), (1, 5, 1, 1), (4, 5, 3), (4, 5, 6, 3), (4, 5, 3, 6, 1), ()):
        changes = {"residual": torch.ones(shape)}
        refuse(changes, RuntimeError, r"residual has to have the shape of input, .*\[4, 5, 3, 6\]", training=training)
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        changes = {"residual": torch.ones(SHAPE, dtype=dtype)}
        refuse(changes, RuntimeError, "residual has to have the dtype of input", training=training)
    changes = {"residual": torch.ones(SHAPE, device="meta")}
    refuse(changes, RuntimeError, "residual has to have the device of input", training=training)


@both_modes
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_types_of_input(dtype: torch.dtype, training: bool) -> None:
    changes = {"input": torch.ones(SHAPE, dtype=dtype)}
    refuse(changes, RuntimeError, rf"input has to be float32, .* or float16, but got {dtype}", training=training)


@both_modes
def test_layouts_and_dimensions_of_input(training: bool) -> None:
    changes = {"input": torch.eye(5).to_sparse()}
    refuse(changes, RuntimeError, r"input has to be strided, but got torch\.sparse_coo", training=training)
    refuse({"input": torch.ones(5)}, RuntimeError, r"input has to have the shape \(N, C, \.\.\.\)", training=training)


@both_modes
@pytest.mark.parametrize("activation", ["Relu", "tanh", "identity", "", "leakyrelu", 3], ids=str)
def test_unknown_activations(activation: Any, training: bool) -> None:
    match = f"activation has to be None or one of .*relu.*gelu.* but got {activation!r}"
    refuse({}, ValueError, match, training=training, activation=activation)


@pytest.mark.parametrize("missing", [RUNNING, RUNNING[:1], RUNNING[1:]], ids=" and ".join)
def test_eval_without_running_statistics(missing: list[str]) -> None:
    match = "Expected running_mean and running_var to be defined when training=False"
    refuse(dict.fromkeys(missing), RuntimeError, match, training=False)


@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 1), (1, 5, 1, 1), (1, 5, 1, 1, 1)], ids=str)
def test_one_value_per_channel(shape: tuple[int, ...]) -> None:
    changes = {"input": torch.ones(shape)}
    text = re.escape(torchs_text(changes, training=True))
    assert "Expected more than 1 value per channel when training, got input size" in text.replace("\\", "")
    refuse(changes, ValueError, rf"^{text}: .*larger batches.*drop_last=True.*eval\(\)$", training=True)
    assert F.batch_norm(**some_tensors(SHAPE) | changes).shape == shape


def test_eps() -> None:
    for eps in (0.0, -1e-5, -1):
        refuse(
            {}, ValueError, f"batch_norm eps must be positive during training, but got {eps}", training=True, eps=eps
        )
    for eps in (-1e-5, -1):
        refuse({}, ValueError, f"batch_norm eps must be non-negative, but got {eps}", training=False, eps=eps)


EMPTY = [(0, 5), (0, 5, 3), (4, 5, 0), (0, 5, 3, 6), (4, 5, 0, 6), (0, 5, 2, 2, 2)]


@both_modes
@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_nothing_to_normalize(shape: tuple[int, ...], training: bool) -> None:
    """Without elements, the output is empty, gradients are zero, and running statistics stay."""
    for activation in ACTIVATIONS:
        tensors = some_tensors(shape) | {"residual": torch.ones(shape)}
        ours, theirs = (
            run(f, tensors, torch.ones(shape), training=training, activation=activation)
            for f in (F.batch_norm, composed)
        )
        torch.testing.assert_close(ours, theirs)
        assert ours["output"].shape == shape
        assert all(torch.equal(ours[name], tensors[name]) for name in RUNNING)
        assert not any(ours[f"gradient of {name}"].any() for name in ("input", "weight", "bias"))


def leaves_of(tensors: Tensors) -> Tensors:
    return {name: t if name in RUNNING else t.clone().requires_grad_() for name, t in tensors.items()}


def test_versions_of_running_statistics() -> None:
    """Training changes their versions, with autograd and without, dense or not; no other tensor's version changes."""
    dense = some_tensors(SHAPE)
    strided = dense | {name: torch.ones(5, 2)[:, 0] for name in RUNNING}
    for tensors in (dense, strided, leaves_of(dense)):
        for training in (True, False):
            before = {name: t._version for name, t in tensors.items()}
            F.batch_norm(**tensors, training=training)
            for name, tensor in tensors.items():
                assert (tensor._version > before[name]) == (training and name in RUNNING), name


@pytest.mark.parametrize("name", RUNNING)
def test_version_of_one_of_the_running_statistics(name: str) -> None:
    tensor = torch.ones(5)
    F.batch_norm(torch.rand(SHAPE), **(dict.fromkeys(RUNNING) | {name: tensor}), training=True)
    assert tensor._version == 1


@both_modes
@pytest.mark.parametrize("name", ["bias", "residual"])
def test_may_be_written_before_the_backward_pass_without_an_activation(name: str, training: bool) -> None:
    """Without an activation, the gradients do not depend on the values of bias and residual."""
    leaves = leaves_of(some_tensors(SHAPE) | {"residual": some_values(SHAPE, torch.float32, 8)})
    output = F.batch_norm(**leaves, training=training)
    with torch.no_grad():
        leaves[name].add_(1)
    output.sum().backward()
    assert leaves["bias"].grad.eq(72).all()
    assert leaves["residual"].grad.eq(1).all()


@both_modes
@pytest.mark.parametrize("name", ["input", "weight"])
def test_modified_before_the_backward_pass(name: str, training: bool) -> None:
    for function in (F.batch_norm, T.batch_norm):
        leaves = leaves_of(some_tensors(SHAPE))
        output = function(**leaves, training=training)
        with torch.no_grad():
            leaves[name].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


@both_modes
@pytest.mark.parametrize("name", ["input", "weight", "bias", "residual"])
@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name])
def test_modified_before_the_backward_pass_of_an_activation(activation: str, name: str, training: bool) -> None:
    """The gradient of an activation is computed from all of them again, so that they must not change."""
    leaves = leaves_of(some_tensors(SHAPE) | {"residual": some_values(SHAPE, torch.float32, 8)})
    output = F.batch_norm(**leaves, training=training, activation=activation)
    with torch.no_grad():
        leaves[name].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@both_modes
def test_running_statistics_may_change_before_the_backward_pass(training: bool) -> None:
    """The backward pass uses the statistics of its forward pass."""
    tensors, found = some_tensors(SHAPE), []
    for change in (False, True):
        leaves = leaves_of(tensors) | {name: tensors[name].clone() for name in RUNNING}
        output = F.batch_norm(**leaves, training=training)
        if change:
            F.batch_norm(leaves["input"].detach() * 3, *(leaves[name] for name in RUNNING), training=True)
        output.backward(some_values(SHAPE, torch.float32, 7))
        found.append([leaves[name].grad for name in ("input", "weight", "bias")])
    torch.testing.assert_close(*found, rtol=0, atol=0)
