"""Muon: torch's trajectory within the rounding of bfloat16 products, everything else to the bit; its groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from fastopt.optim._newton_schulz import in_batches, newton_schulz
from muon_cases import BACKENDS, NEEDS_TORCHS, SHAPES, some_matrices, train_on
from support import ISAS, assert_same_bits, assert_same_step, running, some_values

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
FLAGS: list[dict[str, Any]] = [
    {},
    {"nesterov": False},
    {"adjust_lr_fn": "match_rms_adamw"},
    {"adjust_lr_fn": "original", "momentum": 0.0},
    {"momentum": 0.5, "weight_decay": 0.3, "lr": 0.05},
    {"ns_steps": 7, "ns_coefficients": (3.0, -3.2, 1.2)},
    {"ns_steps": 2},
]


def _exact(x: Tensor, steps: int = 5) -> Tensor:
    """The iteration in float64, of one matrix."""
    a, b, c = COEFFICIENTS
    x = x.double() / x.double().norm()
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _distance(one: Tensor, other: Tensor) -> float:
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).norm() / other.norm())


@NEEDS_TORCHS
@BACKENDS
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_follows_torch(flags: dict[str, Any], backend: str) -> None:
    """Over 30 steps the way of each matrix is torch's to 3 % of its length, which is the rounding of the products."""
    ours, theirs, start = some_matrices(), some_matrices(), some_matrices()
    one, other = fastopt.Muon(ours, **{"lr": 0.02, **flags}), torch.optim.Muon(theirs, **{"lr": 0.02, **flags})
    with running(backend):
        train_on(one, ours, 30)
    train_on(other, theirs, 30)
    for p, q, p0 in zip(ours, theirs, start, strict=True):
        if p.numel():
            assert _distance(p - p0, q - p0) < 0.03
        torch.testing.assert_close(one.state[p]["momentum_buffer"], other.state[q]["momentum_buffer"])


def _spectrum(kind: str, rows: int, columns: int) -> Tensor:
    x = some_values((rows, columns), torch.float64, seed=1)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    if kind == "decays":
        s = torch.logspace(0, -3, len(s), dtype=torch.float64)
    elif kind == "low rank":
        s = torch.where(torch.arange(len(s)) < 4, 1.0, 1e-2).double()
    return (u * s) @ v


@NEEDS_TORCHS
@pytest.mark.parametrize("shape", [(48, 48), (48, 80), (48, 300), (300, 48)], ids=str)
@pytest.mark.parametrize("kind", ["random", "decays", "low rank"])
def test_products_are_as_exact_as_torchs(kind: str, shape: tuple[int, int]) -> None:
    """Long matrices go through products of small ones, in bfloat16. Random ones are 5 % from the exact result (torch's
    1.5 %); where singular values differ much, as those of gradients do, they are no farther than torch's."""
    grad = _spectrum(kind, *shape).float()
    ours, theirs = (torch.zeros(shape, requires_grad=True) for _ in range(2))
    results = []
    for param, make in ((ours, fastopt.Muon), (theirs, torch.optim.Muon)):
        param.grad = grad.clone()
        make([param], lr=1.0, momentum=0.0, weight_decay=0.0).step()
        results.append(_distance(-param / max(1.0, shape[0] / shape[1]) ** 0.5, _exact(grad)))
    assert results[0] < max(0.06, 1.25 * results[1])


@pytest.mark.parametrize("shape", [(5, 24, 24), (5, 24, 100), (5, 100, 24), (1, 1, 9), (3, 9, 1)], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 7])
def test_both_ways_are_the_iteration(shape: tuple[int, ...], steps: int) -> None:
    """In float64, where they differ by rounding alone."""
    x = some_values(shape, torch.float64, seed=2)
    results = newton_schulz(x.clone(), COEFFICIENTS, steps, 1e-7)
    for result, matrix in zip(results, x, strict=True):
        torch.testing.assert_close(result, _exact(matrix, steps), rtol=1e-9, atol=1e-12)


def test_batches_have_everything_once() -> None:
    for count, elements in ((0, 5), (1, 5), (7, 10), (7, 100), (7, 0)):
        batches = in_batches(count, elements, most=30)
        assert [i for batch in batches for i in batch] == list(range(count))
        assert all(len(batch) == 1 or len(batch) * elements <= 30 for batch in batches)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": 0.1, "nesterov": False, "weight_decay": 0.5}], ids=str)
def test_equals_reference(options: dict[str, Any], dtype: torch.dtype, isa: str, threads: int) -> None:
    """To the bit, where the products are made by the same threads."""
    shapes = [*SHAPES, (129, 127), (70, 240)]  # around blocks and tiles
    ours, expected = some_matrices(dtype, shapes), some_matrices(dtype, shapes)
    one, other = fastopt.Muon(ours, **options), fastopt.Muon(expected, **options)
    with running("native", isa, threads):
        train_on(one, ours)
    with running("reference", threads=threads):
        train_on(other, expected)
    assert_same_step(one, ours, other, expected)
    for param, start in zip(ours, some_matrices(dtype, shapes), strict=True):
        assert (param != start).all() or dtype.itemsize == 2  # half types do not see every step
        assert (one.state[param]["momentum_buffer"] != 0).all() or dtype.itemsize == 2


def test_the_trap_of_torch_a_bfloat16_buffer_keeps_its_scale() -> None:
    """torch up to 2.14 divides its own momentum by its norm, where gradients are bfloat16 and ``nesterov=False``."""
    param = some_values((16, 16), torch.bfloat16, seed=0).requires_grad_()
    optimizer = fastopt.Muon([param], nesterov=False, momentum=0.5)
    param.grad = some_values((16, 16), torch.bfloat16, seed=1)
    optimizer.step()
    assert_same_bits(optimizer.state[param]["momentum_buffer"], (param.grad * 0.5))


def test_decay_goes_by_the_learning_rate_before_its_adjustment() -> None:
    param = torch.ones(8, 2, requires_grad=True)
    param.grad = torch.zeros(8, 2)
    fastopt.Muon([param], lr=0.1, weight_decay=0.5).step()
    assert_same_bits(param.detach(), torch.full((8, 2), 1.0) * torch.tensor(1 - 0.1 * 0.5, dtype=torch.float32))


def test_cautious_decay_is_where_the_update_goes_against_the_parameter() -> None:
    param = some_values((16, 16), torch.float32, seed=0).requires_grad_()
    starts, plain = param.detach().clone(), param.detach().clone().requires_grad_()
    for one, options in ((param, {"weight_decay": 0.5, "cautious_weight_decay": True}), (plain, {"weight_decay": 0.0})):
        one.grad = some_values((16, 16), torch.float32, seed=1)
        fastopt.Muon([one], lr=0.1, **options).step()
    update = starts - plain.detach()
    decays = update * starts >= 0
    assert decays.any()
    assert not decays.all()
    torch.testing.assert_close(param.detach(), torch.where(decays, starts * 0.95, starts) - update)


def test_a_group_without_muon_is_adamw() -> None:
    shapes = [(7,), (), (3, 4, 5), (6, 5)]
    ours, expected, matrices = (
        some_matrices(shapes=shapes),
        some_matrices(shapes=shapes),
        some_matrices(shapes=[(8, 9)]),
    )
    options = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.2}
    one = fastopt.Muon([{"params": matrices}, {"params": ours, "use_muon": False, **options}], lr=0.1)
    other = fastopt.AdamW(expected, **options)
    for step in range(4):
        for i, (p, q) in enumerate(zip(ours, expected, strict=True)):
            p.grad = some_values(p.shape, p.dtype, 10 * step + i)
            q.grad = p.grad.clone()
        matrices[0].grad = some_values((8, 9), torch.float32, 77 + step)
        one.step()
        other.step()
    assert_same_step(one, ours, other, expected)
    assert set(one.state[matrices[0]]) == {"momentum_buffer"}


@pytest.mark.parametrize("shape", [(6, 5, 4), (8, 3, 3, 3), (4, 2, 2, 2, 2)], ids=str)
def test_flatten(shape: tuple[int, ...]) -> None:
    """A kernel is the matrix of its first dimension and all others, also where memory is channels-last."""
    flat = some_values((shape[0], -(-torch.Size(shape).numel() // shape[0])), torch.float32, seed=0).requires_grad_()
    kernel = flat.detach().clone().view(shape).requires_grad_()
    params = [flat, kernel]
    if len(shape) == 4:
        params.append(flat.detach().clone().view(shape).to(memory_format=torch.channels_last).requires_grad_())
    optimizers = [fastopt.Muon([param], lr=0.1, flatten=True) for param in params]
    for step in range(3):
        grad = some_values(flat.shape, torch.float32, seed=step + 1)
        for param, optimizer in zip(params, optimizers, strict=True):
            param.grad = torch.empty_like(param).copy_(grad.view(param.shape))
            optimizer.step()
    for param in params[1:]:
        assert_same_bits(param.detach().reshape(flat.shape), flat.detach())


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_other_layouts(layout: str) -> None:
    make: Callable[[Tensor], Tensor] = {
        "transposed": lambda values: values.T.contiguous().T,
        "strided": lambda values: torch.zeros(values.shape[0], 2 * values.shape[1])[:, ::2].copy_(values),
    }[layout]
    expected = some_values((12, 20), torch.float32, seed=0).requires_grad_()
    ours = make(expected.detach().clone()).requires_grad_()
    assert not ours.is_contiguous()
    one, other = fastopt.Muon([ours], lr=0.1), fastopt.Muon([expected], lr=0.1)
    for step in range(3):
        expected.grad = some_values((12, 20), torch.float32, seed=step + 1)
        ours.grad = make(expected.grad)
        one.step()
        other.step()
    assert_same_bits(ours.detach().contiguous(), expected.detach())
