"""The reference itself: it has the kernels' rules and torch's conversions."""

import inspect

import numpy as np
import pytest
import torch

import fastopt
import fastopt.__main__
from fastopt import _core, reference
from fastopt.reference import half, pipeline
from optimizer_cases import ROWS
from support import ISAS, running


def test_every_kernel_has_its_twin() -> None:
    """Both have the same rules, numbers of states and names of scalars."""
    rules = reference.rules()
    kernels = _core.rules()
    assert kernels.pop("clip") == (0, (), False, False)  # the prologue's rule, applied to a gradient only
    assert rules == kernels


def test_every_dropout_has_its_twin() -> None:
    """Both have the same rules, names of scalars and operands."""
    rules = {}
    for name, rule in reference.dropout.RULES.items():
        _, _, residual, bias, *scalars = inspect.signature(rule).parameters.values()
        rules[name] = (tuple(s.name for s in scalars), residual.annotation == "Array", bias.annotation == "Array")
    assert rules == _core.dropouts()


def test_the_prologue_has_the_same_scalars() -> None:
    functions = (pipeline.unscale, pipeline.clip, pipeline.penalize)
    names = [p.name for f in functions for p in inspect.signature(f).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert (*names, "decay") == _core.prologue()


def test_public_optimizers_are_in_the_self_test() -> None:
    classes = [getattr(fastopt, name) for name in fastopt.__all__]
    assert {c for c in classes if isinstance(c, type)} == {
        *fastopt.optim.ALL,
        fastopt.Muon,
        fastopt.SparseAdam,
        fastopt.LBFGS,
        fastopt.NonlinearCG,
        fastopt.Lookahead,
        fastopt.Monitor,
        fastopt.StepInBackward,
    }
    assert len(fastopt.__main__.TESTED) == len(fastopt.optim.ALL) + 1


def test_every_optimizer_has_its_row() -> None:
    assert {row.ours for row in ROWS} == {*fastopt.optim.ALL}


HALF = {torch.bfloat16: half.bfloat16, torch.float16: np.dtype(np.float16)}


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_all_halves_load_as_in_torch(dtype: torch.dtype) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    ours = half.load(bits.view(HALF[dtype]))
    theirs = torch.from_numpy(bits.view(np.int16)).view(dtype).float().numpy()
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_stores_round_as_torch_does(dtype: torch.dtype) -> None:
    """All halves, the values half-way between neighbours, and the float32 numbers next to these."""
    exact = half.load(np.arange(65536, dtype=np.uint16).view(HALF[dtype]))
    exact = exact[np.isfinite(exact)]
    with np.errstate(over="ignore"):
        halfway = (exact[:-1].astype(np.float64) + exact[1:]).astype(np.float32) / np.float32(2)
    values = np.concatenate(
        [exact, halfway, np.nextafter(halfway, np.float32(0)), np.nextafter(halfway, np.float32(9e9))]
    )
    values = np.concatenate(
        [values, np.float32([65504, 65519.99, 65520, 1e30, 3.4e38, np.inf, -np.inf, 1e-45, -1e-45])]
    )
    out = np.empty(values.shape, HALF[dtype])
    with np.errstate(over="ignore"):
        half.store(values, out)
    theirs = torch.from_numpy(values).to(dtype).view(torch.int16).numpy()
    np.testing.assert_array_equal(out.view(np.int16), theirs)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_kernels_convert_as_the_reference(isa: str, dtype: torch.dtype) -> None:
    """p - 1 * g in float32, for every value and a small one: this shows all bits of load and store."""
    values = torch.arange(65536).to(torch.int16).view(dtype)
    for seed in range(4):
        grad = values[torch.randperm(65536, generator=torch.Generator().manual_seed(seed))]
        results = []
        for backend in ("native", "reference"):
            param = values.clone().requires_grad_()
            param.grad = grad.clone()
            with running(backend, isa):
                fastopt.SGD([param], lr=1.0).step()
            results.append(param.detach().view(torch.int16))
        assert torch.equal(*results)
