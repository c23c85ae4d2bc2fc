"""The norms of single samples compared with torch's: values, gradients, layouts, types."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fastopt.nn.functional as F
from batch_norm_cases import ACTIVATIONS
from norm_cases import GROUP, INSTANCE, KINDS, LAYER, RMS, Kind, Problem, problems, small
from support import HALF, some_values

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
TOLERANCES = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
}


def assert_as_in_torch(problem: Problem) -> None:
    """Compares with torch's results in float64, which no rounding of torch's own disturbs."""
    expected = problem.run(problem.torchs, wide=True)
    tolerance = TOLERANCES[problem.dtype]
    for name, value in problem.run().items():
        scale = max(1.0, float(expected[name].detach().abs().max())) if "gradient" in name else 1.0
        close = {"rtol": tolerance["rtol"], "atol": tolerance["atol"] * scale}
        torch.testing.assert_close(value.double(), expected[name], **close, msg=lambda m: f"{name} of {problem}: {m}")  # noqa: B023


@pytest.mark.parametrize("problem", problems(), ids=lambda p: f"{p.kind.name}-{p.shape}-{p.groups}")
def test_shapes(problem: Problem) -> None:
    assert_as_in_torch(replace(problem, dtype=torch.float64))
    if problem.shape[-1] > 2:  # a variance of two numbers may be tiny
        assert_as_in_torch(replace(problem, residual=True))


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF], ids=str)
def test_types_and_layouts(kind: Kind, dtype: torch.dtype) -> None:
    for channels_last in (False, True):
        for changes in ({}, {"affine": False}, {"residual": True, "activation": "silu"}, {"options": {"eps": 0.3}}):
            problem = small(kind, dtype=dtype, channels_last=channels_last, **changes)
            assert_as_in_torch(problem)
            if dtype in HALF:
                assert_as_in_torch(replace(problem, half_parameters=True))
            results = problem.run()
            assert {r.dtype for name, r in results.items() if name in ("result", "sum")} == {dtype}


@kinds
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(kind: Kind, activation: str | None) -> None:
    for residual in (False, True):
        problem = small(kind, dtype=torch.float64, activation=activation, residual=residual)
        slope = {"negative_slope": 0.3} if activation == "leaky_relu" else {}
        assert_as_in_torch(replace(problem, options=slope))


@kinds
def test_layouts_of_results(kind: Kind) -> None:
    """Results are contiguous, or channels-last where torch's GroupNorm keeps that."""
    x = some_values((4, 6, 8, 10), torch.float32, 1)
    last = x.contiguous(memory_format=torch.channels_last)
    for given in (x, last, x.transpose(2, 3), last[:, ::2], x[..., ::2], x[::2], x.permute(1, 0, 2, 3)):
        argument = kind.argument(tuple(given.shape), 2 if given.shape[1] % 2 == 0 else 1)
        ours, theirs = kind.ours(given, *argument), kind.theirs(given, *argument)
        torch.testing.assert_close(ours, theirs)
        if kind in (GROUP, LAYER):
            assert ours.stride() == theirs.stride()
        elif kind is RMS:
            assert ours.is_contiguous()
        elif given is last:
            assert ours.stride() == last.stride()


@kinds
def test_several_dimensions_of_a_row(kind: Kind) -> None:
    if not kind.is_rows:
        return
    x, weight = some_values((3, 4, 5, 6), torch.float64, 1), some_values((4, 5, 6), torch.float64, 2)
    for shape in ([4, 5, 6], torch.Size([4, 5, 6]), (4, 5, 6)):
        torch.testing.assert_close(kind.ours(x, shape, weight), kind.theirs(x, shape, weight))
    torch.testing.assert_close(kind.ours(x, x.shape), kind.theirs(x, x.shape))


@kinds
def test_empty_inputs(kind: Kind) -> None:
    affine = kind is not INSTANCE  # of which torch fails on empty inputs
    for shape in ((0, 4, 5), (2, 4, 0)):
        for residual in (False, True):
            problem = Problem(kind, shape, 2, residual=residual, affine=affine)
            ours, theirs = problem.run(), problem.run(problem.torchs)
            for name, value in theirs.items():
                assert ours[name].shape == value.shape
                assert not ours[name].any()


def test_weights_of_other_types() -> None:
    """torch's rms_norm takes any floating weight; the result has the input's type."""
    x = some_values((4, 6), torch.float32, 1)
    for dtype in (torch.bfloat16, torch.float64, torch.float16):
        weight = some_values(6, dtype, 2).requires_grad_()
        y = F.rms_norm(x, (6,), weight)
        (grad,) = torch.autograd.grad(y.sum(), weight)
        assert (y.dtype, grad.dtype) == (torch.float32, dtype)
        torch.testing.assert_close(y, F.rms_norm(x, (6,)) * weight.float())


def test_default_eps_of_rms_norm() -> None:
    for dtype in (torch.float64, torch.float32, *HALF):
        x = some_values((4, 6), torch.float64, 1).mul(1e-4).to(dtype)
        eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        assert torch.equal(F.rms_norm(x, (6,)), F.rms_norm(x, (6,), None, eps))
        expected = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + eps)
        torch.testing.assert_close(F.rms_norm(x, (6,)), expected.to(dtype))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_order_of_hugging_face(dtype: torch.dtype) -> None:
    """LlamaRMSNorm rounds x * rstd to the half type before it multiplies by the weight."""
    x, weight = some_values((70, 96), dtype, 1), some_values(96, dtype, 2)

    def llama(x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return weight * wide.to(dtype)

    rounded = F.rms_norm(x, (96,), weight, 1e-6, round_before_weight=True)
    plain = F.rms_norm(x, (96,), weight, 1e-6)
    assert (rounded != llama(x)).sum() <= 3  # where the last bit of rstd decides
    assert (plain != llama(x)).sum() > 100
    wide = x.float()
    again = F.rms_norm(wide, (96,), weight.float(), 1e-6, round_before_weight=True)
    assert torch.equal(again, F.rms_norm(wide, (96,), weight.float(), 1e-6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_running_statistics(dtype: torch.dtype) -> None:
    for shape in ((3, 5, 7), (2, 5, 4, 6)):
        x = some_values(shape, dtype, 1) + 2
        parameters = torch.float64 if dtype == torch.float64 else torch.float32
        for momentum in (0.1, 0.0, 1.0):
            results = []
            for function in (F.instance_norm, torch.nn.functional.instance_norm):
                mean, var = some_values(5, parameters, 2), some_values(5, parameters, 3).abs()
                versions = mean._version, var._version
                # torch rounds statistics of half inputs to halves.
                given = x.float() if dtype in HALF and function is not F.instance_norm else x
                leaf = given.clone().requires_grad_()
                y = function(leaf, mean, var, momentum=momentum)
                (grad,) = torch.autograd.grad(y, leaf, some_values(shape, given.dtype, 7))
                assert (mean._version, var._version) > versions
                evaluated = function(given, mean, var, use_input_stats=False)
                results.append([mean, var, y, grad, evaluated])
            for ours, theirs in zip(*results, strict=True):
                rough = {"rtol": 2e-2, "atol": 4e-2} if ours.dtype in HALF else TOLERANCES[ours.dtype]
                torch.testing.assert_close(ours, theirs.to(ours.dtype), **rough)


def test_residual_of_evaluation() -> None:
    x, residual = some_values((3, 5, 7), torch.float32, 1), some_values((3, 5, 7), torch.float32, 2)
    mean, var = some_values(5, torch.float32, 3), some_values(5, torch.float32, 4).abs()
    how = {"use_input_stats": False, "activation": "relu"}
    y, total = F.instance_norm(x, mean, var, residual=residual, return_sum=True, **how)
    assert torch.equal(total, x + residual)
    assert torch.equal(y, F.instance_norm(total, mean, var, **how))
