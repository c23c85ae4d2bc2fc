"""Random rounding is without bias, its numbers depend on all that they should, and training repeats."""

import copy
import math

import pytest
import torch
from torch import Tensor

import fastopt
from precision_cases import half_bits, half_params, set_grad, train
from support import HALF, assert_same_bits, assert_same_step, running, some_values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
EVERY_HALF = pytest.mark.parametrize("dtype", HALF, ids=str)
DRAWS = 10_000_000


def _rounded(start: float, target: float, count: int, dtype: torch.dtype, seed: int = 3, number: int = 0) -> Tensor:
    """``count`` roundings of ``target``, which a step of SGD reaches from ``start``."""
    params = [torch.full((1,), start, dtype=dtype, requires_grad=True) for _ in range(number)]
    params.append(torch.full((count,), start, dtype=dtype, requires_grad=True))
    optimizer = fastopt.SGD(params, lr=1.0, rounding="stochastic", rounding_seed=seed)
    set_grad(params[-1], torch.tensor(start - target).expand(count).contiguous())
    optimizer.step()
    return params[-1].detach()


def _assert_fraction(up: Tensor, wanted: float) -> None:
    """5 sigma."""
    share = up.double().mean().item()
    assert abs(share - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / up.numel())


TINY = 2.0**-24  # float16's smallest number
GAPS = [
    (torch.bfloat16, 1.0, 2.0**-7, 0.5),
    (torch.bfloat16, 1.0, 2.0**-7, 1 / 1024),
    (torch.bfloat16, -1.5, -(2.0**-7), 0.3125),
    (torch.float16, 1.0, 2.0**-10, 0.25),
    (torch.float16, 1000.0, 2.0**-1, 0.8125),
    (torch.float16, 0.0, TINY, 0.375),
    (torch.float16, -5 * TINY, -TINY, 0.75),
    (torch.float16, 1023 * TINY, TINY, 0.5),  # up to the smallest normal number
]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "low", "gap", "fraction"), GAPS, ids=str)
def test_is_unbiased(dtype: torch.dtype, low: float, gap: float, fraction: float) -> None:
    """1e7 draws in one gap."""
    rounded = _rounded(low, low + fraction * gap, DRAWS, dtype)
    up = rounded == low + gap
    assert (up | (rounded == low)).all()
    _assert_fraction(up, fraction)


@BACKENDS
@EVERY_HALF
def test_is_unbiased_over_many_gaps(dtype: torch.dtype, backend: str) -> None:
    """The mean of the errors, away from zero and in units of the gap, is 0 for numbers of all magnitudes."""
    values = some_values(1_000_000, torch.float32, seed=0, low=1e-7 if dtype == torch.float16 else 1e-30, high=1e4)
    param = torch.zeros(len(values), dtype=dtype, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=1.0, rounding="stochastic", rounding_seed=4)
    set_grad(param, -values)
    with running(backend):
        optimizer.step()
    rounded = param.detach().double()
    nearest = values.to(dtype)
    other = torch.nextafter(nearest, torch.where(values > nearest, torch.inf, -torch.inf).to(dtype)).double()
    exact = values == nearest
    gap = torch.where(exact, 1.0, (other - nearest.double()).abs())
    assert ((rounded == nearest) | (rounded == other) & ~exact).all()
    error = (rounded - values.double()) / gap * values.sign()
    assert abs(error.mean().item()) < 5 * 0.5 / math.sqrt(len(values))
    assert (error[~exact] != 0).all()


@BACKENDS
def test_everything_matters(backend: str) -> None:
    """Seed, parameter's number, step and element: other ones give independent numbers."""
    count, fraction, gap = 200_000, 0.5, 2.0**-7

    def draws(**what: int) -> Tensor:
        with running(backend):
            return _rounded(1.0, 1.0 + fraction * gap, count, torch.bfloat16, **what) > 1

    first = draws()
    assert torch.equal(first, draws())
    for other in (draws(seed=4), draws(seed=3 + 2**32), draws(seed=3 + 2**63), draws(number=1), draws(number=2)):
        _assert_fraction(first == other, 0.5)
    for distance in (*range(1, 17), 32, 64, 128, 256, 1024, 4096, 2**16):
        _assert_fraction(first[distance:] == first[:-distance], 0.5)


@BACKENDS
def test_steps_matter(backend: str) -> None:
    param = torch.ones(20_000, dtype=torch.bfloat16, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=1.0, rounding="stochastic", rounding_seed=1)
    drawn = []
    with running(backend):
        for _ in range(3):
            param.data.fill_(1.0)
            set_grad(param, torch.full((20_000,), -(2.0**-8)))
            optimizer.step()
            drawn.append(param.detach() > 1)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        _assert_fraction(drawn[one] == drawn[other], 0.5)
    assert optimizer.state[param]["step"] == 3


def test_operands_are_rounded_apart() -> None:
    """A parameter, its states and its copy, which an element rounds by the same 16 bits, do not go up together."""
    count = 100_000
    param = torch.ones(count, dtype=torch.bfloat16, requires_grad=True)
    copied = torch.zeros(count, dtype=torch.bfloat16)
    optimizer = fastopt.Adam([{"params": [param], "copies": [copied]}], rounding="stochastic", rounding_seed=1)
    param.grad = torch.full((count,), 1.0, dtype=torch.bfloat16)
    optimizer.step()
    ups = [half_bits(t) - half_bits(t).min() for t in (param, *list(optimizer.state[param].values())[1:])]
    for i, one in enumerate(ups):
        assert set(one.tolist()) == {0, 1}
        for other in ups[:i]:
            p, q = one.double().mean().item(), other.double().mean().item()
            together = ((one == 1) & (other == 1)).double().mean().item()
            assert abs(together - p * q) < 5 * 0.5 / math.sqrt(count)
    assert_same_bits(copied, param)  # a reader of the parameter finds the same numbers


@BACKENDS
@EVERY_HALF
def test_special_values_stay(dtype: torch.dtype, backend: str) -> None:
    """Also numbers that the type has are kept as they are, whatever is drawn."""
    info = torch.finfo(dtype)
    values = [torch.inf, -torch.inf, torch.nan, 0.0, -0.0, 1.0, -1.5, info.max, info.min, info.tiny]
    values += [info.smallest_normal / 8, -info.smallest_normal / 4]
    start = torch.tensor(values, dtype=dtype).repeat_interleave(1000)
    param = start.clone().requires_grad_()
    optimizer = fastopt.SGD([param], lr=1.0, rounding="stochastic", rounding_seed=1)
    with running(backend):
        for _ in range(3):
            param.grad = torch.zeros_like(param)
            optimizer.step()
            assert_same_bits(param, start)


@pytest.mark.parametrize("options", [{"rounding": "stochastic"}, {"state_dtype": torch.bfloat16}], ids=str)
def test_repeats_from_a_checkpoint(options) -> None:
    params = half_params()
    optimizer = fastopt.AdamW(params, **options)
    train(optimizer, params, range(3))
    others = [param.detach().clone().requires_grad_() for param in params]
    twin = fastopt.AdamW(others, **options)
    assert twin.param_groups[0]["rounding_seed"] != optimizer.param_groups[0]["rounding_seed"]
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, params, range(3, 6))
    train(twin, others, range(3, 6))
    assert_same_step(twin, others, optimizer, params)


def test_seed_is_drawn_from_torch() -> None:
    def seed(**options) -> int | None:
        return fastopt.AdamW([torch.ones(2, requires_grad=True)], **options).param_groups[0]["rounding_seed"]

    torch.manual_seed(1)
    first, second = seed(rounding="stochastic"), seed(rounding="stochastic")
    torch.manual_seed(1)
    assert first != second
    assert seed(rounding="stochastic") == first
    state = torch.get_rng_state()
    assert seed() is None
    assert seed(rounding="stochastic", rounding_seed=5) == 5
    assert torch.equal(torch.get_rng_state(), state)


@BACKENDS
@pytest.mark.parametrize("optimizer", [fastopt.SGD, fastopt.AdamW])
def test_freezing_a_parameter_changes_no_other(optimizer: type[torch.optim.Optimizer], backend: str) -> None:
    """Numbers belong to a parameter's place among all parameters of all groups, whether it has a gradient or not."""

    def run(frozen: set[int]) -> list[Tensor]:
        params = half_params(sizes=[(70,), (33,), (5, 9), (129,)])
        ours = optimizer(
            [{"params": params[:2]}, {"params": params[2:]}], lr=0.01, rounding="stochastic", rounding_seed=6
        )
        for step in range(3):
            for i, param in enumerate(params):
                param.grad = None if i in frozen else some_values(param.shape, param.dtype, 10 * step + i)
            ours.step()
        return params

    with running(backend):
        whole = run(set())
        for frozen in ({0}, {1, 2}, {3}):
            for i, (a, b) in enumerate(zip(run(frozen), whole, strict=True)):
                if i not in frozen:
                    assert_same_bits(a, b)


def test_small_steps_train() -> None:
    """A bfloat16 network with lr=1e-5 that stands still with rounding to the nearest goes where float32 goes."""
    inputs = some_values((256, 16), torch.float32, seed=1)
    targets = (inputs[:, :1] * inputs[:, 1:2]).tanh()

    def drop(dtype: torch.dtype, **options) -> float:
        shapes = [(32, 16), (32,), (1, 32)]
        params = [some_values(shape, dtype, i, 0.1, 0.3).requires_grad_() for i, shape in enumerate(shapes)]
        start = [param.detach().clone() for param in params]

        def loss() -> Tensor:
            first, bias, second = (param.float() for param in params)
            return ((torch.relu(inputs @ first.T + bias) @ second.T - targets) ** 2).mean()

        before = loss().item()
        optimizer = fastopt.AdamW(params, lr=1e-5, weight_decay=0.0, **options)
        for _ in range(300):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        moved = any((a != b).any() for a, b in zip(params, start, strict=True))
        assert moved == (dtype == torch.float32 or bool(options))
        return before - loss().item()

    wide = drop(torch.float32)
    assert drop(torch.bfloat16) == 0
    assert drop(torch.bfloat16, rounding="stochastic", rounding_seed=1) == pytest.approx(wide, rel=0.3)


def test_a_seed_is_drawn_where_one_is_needed() -> None:
    before = torch.get_rng_state()
    fastopt.AdamW([torch.zeros(3)], master="float32")
    assert torch.equal(torch.get_rng_state(), before)
    optimizer = fastopt.AdamW([{"params": [torch.zeros(3)]}, {"params": [torch.zeros(2)]}], rounding="stochastic")
    optimizer.add_param_group({"params": [torch.zeros(1)]})
    seeds = {group["rounding_seed"] for group in optimizer.param_groups}
    assert len(seeds) == 1
    assert seeds != {None}
    torch.set_rng_state(before)
    assert seeds == {int(torch.randint(2**63 - 1, ()).item())}
    plain = fastopt.AdamW([torch.zeros(3)])
    plain.add_param_group({"params": [torch.zeros(1)], "rounding": "stochastic"})
    assert [group["rounding_seed"] is None for group in plain.param_groups] == [True, False]
