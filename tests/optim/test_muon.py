"""Muon: torch's trajectory within the rounding of bfloat16 products, everything else to the bit; its groups."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt
from fastopt.optim._newton_schulz import in_batches, newton_schulz
from support import ISAS, assert_same_bits, assert_same_step, running, some_values, states_of, step_on_some_grads

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SHAPES = [(64, 64), (64, 64), (32, 128), (128, 32), (96, 200), (5, 1), (1, 7), (33, 31), (0, 4), (256, 100)]
FLAGS: list[dict[str, Any]] = [
    {},
    {"nesterov": False},
    {"adjust_lr_fn": "match_rms_adamw"},
    {"adjust_lr_fn": "original", "momentum": 0.0},
    {"momentum": 0.5, "weight_decay": 0.3, "lr": 0.05},
    {"ns_steps": 7, "ns_coefficients": (3.0, -3.2, 1.2)},
    {"ns_steps": 2},
]
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
NEEDS_TORCHS = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")


def _params(dtype: torch.dtype = torch.float32, shapes: Any = SHAPES) -> list[Tensor]:
    return [some_values(shape, dtype, seed=i).requires_grad_() for i, shape in enumerate(shapes)]


def _train(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: int = 3) -> None:
    for step in range(steps):
        step_on_some_grads(optimizer, params, step + 1)


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
    ours, theirs, start = _params(), _params(), _params()
    one, other = fastopt.Muon(ours, **{"lr": 0.02, **flags}), torch.optim.Muon(theirs, **{"lr": 0.02, **flags})
    with running(backend):
        _train(one, ours, 30)
    _train(other, theirs, 30)
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
    ours, expected = _params(dtype, shapes), _params(dtype, shapes)
    one, other = fastopt.Muon(ours, **options), fastopt.Muon(expected, **options)
    with running("native", isa, threads):
        _train(one, ours)
    with running("reference", threads=threads):
        _train(other, expected)
    assert_same_step(one, ours, other, expected)
    for param, start in zip(ours, _params(dtype, shapes), strict=True):
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
    ours, expected, matrices = _params(shapes=shapes), _params(shapes=shapes), _params(shapes=[(8, 9)])
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


@BACKENDS
@pytest.mark.parametrize("master", ["float32", "split"])
def test_a_master_is_the_float32_parameter(master: str, backend: str) -> None:
    half = _params(torch.bfloat16)
    wide = [param.detach().float().requires_grad_() for param in half]
    one, other = fastopt.Muon(half, lr=0.1, master=master), fastopt.Muon(wide, lr=0.1)
    with running(backend):
        for step in range(4):
            for i, (p, q) in enumerate(zip(half, wide, strict=True)):
                p.grad = some_values(p.shape, torch.bfloat16, 10 * step + i)
                q.grad = p.grad.float()
            one.step()
            other.step()
    for p, q in zip(half, wide, strict=True):
        if master == "float32":
            assert_same_bits(one.state[p]["master"], q.detach())
        assert_same_bits(one.state[p]["momentum_buffer"], other.state[q]["momentum_buffer"])
        assert (p.float() - q).abs().max().item() < 0.02 if p.numel() else True


OPTIONS: list[dict[str, Any]] = [
    {"rounding": "stochastic", "rounding_seed": 3},
    {"state_dtype": torch.bfloat16, "rounding_seed": 3},
    {"state_dtype": "int8"},
    {"ema": 0.9, "ema_warmup": True},
    {"ema": 0.9},
    {"l1": 0.01, "max_grad_norm": 0.5, "max_grad_value": 0.01},
    {"independent_weight_decay": True},
    {"cautious_weight_decay": True, "weight_decay": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_common_options_equal_reference(options: dict[str, Any]) -> None:
    shapes = [(70, 80), (9, 5)]
    dtype = torch.float32 if options.get("state_dtype") == "int8" else torch.bfloat16
    ours, expected = _params(dtype, shapes), _params(dtype, shapes)
    one, other = fastopt.Muon(ours, lr=0.1, **options), fastopt.Muon(expected, lr=0.1, **options)
    _train(one, ours, 4)
    with running("reference"):
        _train(other, expected, 4)
    assert_same_step(one, ours, other, expected)
    if "rounding_seed" in options:
        assert one.state[ours[0]]["step"] == 4


def test_random_numbers_go_on_with_the_step() -> None:
    """The parameter's rounding takes the count of the step; counted twice, checkpoints would repeat others."""
    param = torch.ones(64, 64, dtype=torch.bfloat16, requires_grad=True)
    optimizer = fastopt.Muon([param], lr=1e-4, weight_decay=0.0, rounding="stochastic", rounding_seed=1)
    moved = []
    for _ in range(2):
        before = param.detach().clone()
        param.grad = some_values((64, 64), torch.bfloat16, seed=0)
        optimizer.step()
        moved.append(param.detach() != before)
    assert optimizer.state[param]["step"] == 2
    assert not torch.equal(*moved)


def test_copies_and_averages_are_of_the_new_parameter() -> None:
    param, copied = some_values((9, 9), torch.float32, seed=0).requires_grad_(), torch.zeros(9, 9, dtype=torch.float16)
    optimizer = fastopt.Muon([{"params": [param], "copies": [copied]}], lr=0.1, ema=0.5)
    starts = [param.detach().clone()]
    for step in range(3):
        step_on_some_grads(optimizer, [param], step + 1)
        assert_same_bits(copied, param.detach().half())
        starts.append(param.detach().clone())
    expected = starts[1]
    for value in starts[2:]:
        expected = torch.lerp(expected, value, 0.5)
    torch.testing.assert_close(optimizer.state[param]["ema"], expected)


def test_resumes_from_a_checkpoint() -> None:
    whole, first = _params(), _params()
    one, other = fastopt.Muon(whole, lr=0.1), fastopt.Muon(first, lr=0.1)
    for step in range(4):
        step_on_some_grads(one, whole, step + 1)
        if step == 2:
            second = [param.detach().clone().requires_grad_() for param in first]
            resumed = fastopt.Muon(second, lr=9.0)
            resumed.load_state_dict(copy.deepcopy(other.state_dict()))
            first, other = second, resumed
        step_on_some_grads(other, first, step + 1)
    assert_same_step(one, whole, other, first)


@NEEDS_TORCHS
def test_from_torch_and_back() -> None:
    params = _params()
    theirs = torch.optim.Muon(params, lr=0.1, nesterov=False)
    _train(theirs, params, 2)
    ours = fastopt.from_torch(theirs)
    assert type(ours) is fastopt.Muon
    assert isinstance(ours, torch.optim.Muon)
    step_on_some_grads(ours, params, 5)
    back = ours.to_torch()
    assert type(back) is torch.optim.Muon
    assert back.param_groups[0]["nesterov"] is False
    step_on_some_grads(back, params, 6)
    ours.param_groups[0]["flatten"] = True
    with pytest.raises(ValueError, match=r"torch.optim.Muon has no flatten: True"):
        ours.to_torch()


def test_parameters_without_gradient_stay() -> None:
    params = _params(shapes=[(4, 4), (4, 4)])
    params[0].grad = torch.ones(4, 4)
    before = params[1].detach().clone()
    optimizer = fastopt.Muon(params, lr=0.1)
    optimizer.step()
    assert_same_bits(params[1].detach(), before)
    assert params[1] not in optimizer.state or not optimizer.state[params[1]]
    params[1].grad = torch.ones(4, 4)
    optimizer.step()
    assert set(optimizer.state[params[1]]) == {"momentum_buffer"}


@pytest.mark.parametrize(
    ("break_it", "error", "text"),
    [
        (lambda p: setattr(p, "grad", torch.ones(8, 9).to_sparse()), RuntimeError, "does not support sparse gradients"),
        (lambda p: setattr(p, "data", p.data.expand(8, 9)), RuntimeError, "expanded"),
    ],
    ids=["sparse", "expanded"],
)
def test_nothing_is_written_on_bad_input(break_it: Any, error: type[Exception], text: str) -> None:
    good = some_values((8, 9), torch.float32, seed=0).requires_grad_()
    bad = torch.ones(1, 9).expand(8, 9).clone().requires_grad_()
    optimizer = fastopt.Muon([good, bad], lr=0.1)
    _train(optimizer, [good, bad], 1)
    bad = optimizer.param_groups[0]["params"][1]
    bad.data = torch.ones(1, 9).expand(8, 9) if text == "expanded" else bad.data
    if text != "expanded":
        break_it(bad)
    values, states = good.detach().clone(), states_of(optimizer)
    good.grad = torch.ones(8, 9)
    with pytest.raises(error, match=text):
        optimizer.step()
    assert_same_bits(good.detach(), values)
    assert str(states_of(optimizer)) == str(states)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"Muon only supports 2D parameters .*\[5\]"):
        fastopt.Muon([torch.ones(5, requires_grad=True)])
    with pytest.raises(ValueError, match=r"Muon only supports 2D parameters .*\[2, 3, 4\]"):
        fastopt.Muon([torch.ones(2, 3, 4, requires_grad=True)])
    with pytest.raises(ValueError, match=r"Muon only supports 2D parameters .*\[5\]"):
        fastopt.Muon([torch.ones(5, requires_grad=True)], flatten=True)
    for wrong, text in (
        (dict(lr=-1.0), "Learning rate should be >= 0 but is: -1.0"),
        (dict(momentum=-1.0), "momentum should be >= 0 but is: -1.0"),
        (dict(weight_decay=-1.0), "weight decay should be >= 0 but is: -1.0"),
        (dict(eps=-1.0), "eps should be >= 0"),
        (dict(adjust_lr_fn="rms"), "Adjust learning rate function rms is not supported"),
        (dict(ns_coefficients=(1.0, 2.0)), "exactly 3 values"),
        (dict(ns_steps=100), "ns_steps"),
        (dict(ns_steps=2.5), "ns_steps"),
        (dict(betas=(1.0, 0.9)), "beta parameter at index 0"),
    ):
        with pytest.raises(ValueError, match=text):
            fastopt.Muon([torch.ones(2, 2, requires_grad=True)], **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cautious: a mask would undo"):
        fastopt.Muon([torch.ones(2, 2, requires_grad=True)], cautious=True)
    fastopt.Muon([torch.ones(2, requires_grad=True)], use_muon=False, cautious=True)
    optimizer = fastopt.Muon([torch.ones(2, 2, requires_grad=True)])
    with pytest.raises(ValueError, match="2D"):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1
    number = torch.ones(2, 2, dtype=torch.complex64, requires_grad=True)
    number.grad = torch.ones_like(number)
    with pytest.raises(RuntimeError, match=r"Muon does not support complex parameters \(parameter 0 of group 0"):
        fastopt.Muon([number]).step()


def test_grad_scaler() -> None:
    ours, expected = _params(shapes=[(8, 9)]), _params(shapes=[(8, 9)])
    one, other = fastopt.Muon(ours, lr=0.1), fastopt.Muon(expected, lr=0.1)
    for step, found in enumerate((0.0, 1.0, 0.0)):
        one.grad_scale, one.found_inf = torch.tensor(4.0), torch.tensor(found)
        ours[0].grad = 4 * some_values((8, 9), torch.float32, step)
        expected[0].grad = some_values((8, 9), torch.float32, step)
        one.step()
        if not found:
            other.step()
            assert_same_bits(ours[0].grad, expected[0].grad)
    assert_same_step(one, ours, other, expected)


def test_monitor() -> None:
    params = _params(shapes=[(8, 9), (8, 9), (5, 40), (7,)])
    optimizer = fastopt.Muon([{"params": params[:3]}, {"params": params[3:], "use_muon": False}], lr=0.1)
    monitor = fastopt.monitor(optimizer, every=2)
    for step in range(3):
        before = [param.detach().double() for param in params]
        step_on_some_grads(optimizer, params, step)
        if step == 1:
            continue
        for param, old, row in zip(params, before, monitor.latest, strict=True):
            assert row.grad_norm == pytest.approx(param.grad.double().norm().item(), rel=1e-6)
            assert row.param_norm == pytest.approx(param.detach().double().norm().item(), rel=1e-6)
            assert row.update_norm == pytest.approx((param.detach().double() - old).norm().item(), rel=1e-6)


def test_lookahead_and_schedulers() -> None:
    params = _params(shapes=[(8, 9)])
    inner = fastopt.Muon(params, lr=0.1)
    optimizer = fastopt.Lookahead(inner, k=2)
    scheduler = torch.optim.lr_scheduler.StepLR(inner, 1, 0.5)
    _train(optimizer, params, 4)
    scheduler.step()
    assert inner.param_groups[0]["lr"] == 0.05


@BACKENDS
def test_learns(backend: str) -> None:
    """A linear map of rank 3 is found from its outputs."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(16, 3, generator=generator) @ torch.randn(3, 24, generator=generator) / 8
    model = nn.Sequential(nn.Linear(24, 32, bias=False), nn.Linear(32, 16))
    for param in model.parameters():
        param.data = 0.1 * torch.randn(param.shape, generator=generator)
    groups = fastopt.muon_groups(model, lr=0.01, head=())
    optimizer = fastopt.Muon(groups, lr=0.05, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 200)
    losses = []
    with running(backend):
        for _ in range(200):
            x = torch.randn(64, 24, generator=generator)
            optimizer.zero_grad()
            loss = (model(x) - x @ target.T).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.conv = nn.Conv1d(6, 6, 3)
        self.hidden = nn.Linear(6, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.out = nn.Linear(6, 11)
        self.out.weight = self.embed.weight


def test_muon_groups() -> None:
    model = Tied()
    matrices, others = fastopt.muon_groups(model, lr=1e-4, weight_decay=0.3)
    assert {id(p) for p in matrices["params"]} == {id(model.conv.weight), id(model.hidden.weight)}
    rest = [model.embed.weight, *model.norm.parameters(), model.conv.bias, model.hidden.bias, model.out.bias]
    assert {id(p) for p in others["params"]} == {id(p) for p in rest}
    assert (others["lr"], others["weight_decay"], others["use_muon"]) == (1e-4, 0.3, False)
    optimizer = fastopt.Muon([matrices, others], lr=0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 1e-4]
    matrices, _ = fastopt.muon_groups(model, head=["hidden"])
    assert {id(p) for p in matrices["params"]} == {id(model.conv.weight)}
    with pytest.raises(ValueError, match="head: the model has no module 'fc'"):
        fastopt.muon_groups(model, head=["fc"])
    with pytest.raises(TypeError, match="model"):
        fastopt.muon_groups([1])  # type: ignore[arg-type]
