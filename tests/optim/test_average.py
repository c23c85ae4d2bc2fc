"""The average of the parameters that the step makes: torch's AveragedModel, to the bit of the reference's formula."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fastopt
from fastopt.reference.math import lerp
from optimizer_cases import PLAIN_CASES, Case, ids
from precision_cases import set_grad, train
from support import DTYPES, assert_same_bits, running, some_values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


def _averaged(average: Tensor, new: Tensor, decay: float) -> Tensor:
    """The reference's formula in the average's type."""
    a, b = average.numpy(), new.detach().to(average.dtype).numpy()
    return torch.from_numpy(lerp(a, b, a.dtype.type(1 - decay)))


@BACKENDS
@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_the_formula(dtype: torch.dtype, decay: float, warmup: bool, backend: str) -> None:
    """Also that of half parameters, in float32. The first update copies; a warm-up starts with small decays."""
    params = [some_values(size, dtype, seed=size).requires_grad_() for size in (1, 129, 1030)]
    optimizer = fastopt.AdamW(params, lr=0.1, ema=decay, ema_warmup=warmup)
    averages: list[Tensor] = []
    for step in range(6):
        with running(backend):
            train(optimizer, params, range(step, step + 1))
        now = min(decay, (2 + step) / (11 + step)) if warmup and step else decay
        wide = [p.detach().to(torch.float64 if dtype == torch.float64 else torch.float32).clone() for p in params]
        averages = [_averaged(a, p, now) for a, p in zip(averages, wide, strict=True)] if step else wide
        for param, average in zip(params, averages, strict=True):
            assert_same_bits(optimizer.state[param]["ema"], average, f"step {step}")


def test_warmup_begins_at_two_elevenths() -> None:
    """The decay of the t-th update is at most (1 + t) / (10 + t)."""
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=1.0, ema=0.999, ema_warmup=True)
    values = []
    for _ in range(3):
        param.grad = -torch.ones_like(param)
        optimizer.step()
        values.append(optimizer.state[param]["ema"].item())
    second = 1 + (1 - 3 / 12) * (2 - 1)
    assert values == pytest.approx([1, second, second + (1 - 4 / 13) * (3 - second)], rel=1e-12)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_is_averaged_model(case: Case) -> None:
    """torch's class, told after each step, has the same average, and each optimizer trains as without one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 2))
    twin = copy.deepcopy(model)
    averaged = AveragedModel(twin, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    ours, theirs = case.make(model.parameters(), ema=0.75), case.make(twin.parameters())
    for step in range(5):
        train(ours, list(model.parameters()), range(step, step + 1))
        train(theirs, list(twin.parameters()), range(step, step + 1))
        averaged.update_parameters(twin)
    for param, other, average in zip(model.parameters(), twin.parameters(), averaged.module.parameters(), strict=True):
        assert_same_bits(param, other)
        torch.testing.assert_close(ours.state[param]["ema"], average.detach(), rtol=1e-6, atol=1e-7)
    handed = ours.averaged_model(model)
    assert isinstance(handed, AveragedModel)
    for param, own in zip(model.parameters(), handed.module.parameters(), strict=True):
        assert_same_bits(own.detach(), ours.state[param]["ema"])
    # It goes on as torch's own does.
    train(ours, list(model.parameters()), range(5, 6))
    handed.update_parameters(model)
    for param, own in zip(model.parameters(), handed.module.parameters(), strict=True):
        torch.testing.assert_close(own.detach(), ours.state[param]["ema"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("master", [None, "float32", "split"])
def test_averaged_swaps_and_restores(master: str | None) -> None:
    """To the bit, also after an exception; and training goes on as if nothing had happened."""
    params, expected = ([some_values((7, 40), torch.bfloat16, 0).requires_grad_()] for _ in range(2))
    options = {"master": master, "ema": 0.5}
    ours, theirs = (fastopt.AdamW(p, lr=0.1, **options) for p in (params, expected))
    train(ours, params, range(4))
    train(theirs, expected, range(4))
    before = params[0].detach().clone()
    with ours.averaged():
        assert_same_bits(params[0], ours.state[params[0]]["ema"].to(torch.bfloat16))
        assert (params[0] != before).any()
    assert_same_bits(params[0], before)
    with pytest.raises(ZeroDivisionError), ours.averaged():
        1 // int((params[0] == before).all())
    assert_same_bits(params[0], before)
    train(ours, params, range(4, 7))
    train(theirs, expected, range(4, 7))
    assert_same_bits(params[0], expected[0])
    assert_same_bits(ours.state[params[0]]["ema"], theirs.state[expected[0]]["ema"])


@BACKENDS
@pytest.mark.parametrize(("master", "dtype"), [("float32", torch.float16), ("split", torch.bfloat16)])
def test_average_of_a_master(master: str, dtype: torch.dtype, backend: str) -> None:
    """The value is averaged, not its rounding: as a float32 parameter's."""
    params = [some_values(70, dtype, 0).requires_grad_()]
    twins = [params[0].detach().float().requires_grad_()]
    with running(backend):
        ours, theirs = fastopt.AdamW(params, master=master, ema=0.9), fastopt.AdamW(twins, ema=0.9)
        train(ours, params, range(5), torch.float32)
        train(theirs, twins, range(5), torch.float32)
    assert_same_bits(ours.state[params[0]]["ema"], theirs.state[twins[0]]["ema"])


def test_option_is_set_later_and_in_groups() -> None:
    params = [some_values(9, torch.float32, i).requires_grad_() for i in range(2)]
    optimizer = fastopt.AdamW([{"params": params[:1]}, {"params": params[1:], "ema": 0.5}], lr=0.1)
    for call in (optimizer.averaged, lambda: optimizer.averaged_model(nn.Linear(1, 1))):
        with pytest.raises(RuntimeError, match="there is no average yet"), call():
            pass
    train(optimizer, params, range(2))
    kept = params[0].detach().clone()
    with optimizer.averaged():
        assert_same_bits(params[0], kept)
    optimizer.param_groups[0]["ema"] = 0.9
    train(optimizer, params, range(2, 3))
    assert_same_bits(optimizer.state[params[0]]["ema"], _averaged(kept, params[0], 0.9))


def test_a_parameter_without_a_gradient_keeps_its_average() -> None:
    """As it keeps its states. Its first update copies."""
    params = [some_values(9, torch.float32, i).requires_grad_() for i in range(2)]
    optimizer = fastopt.SGD(params, lr=0.1, ema=0.5)
    set_grad(params[0], torch.ones(9))
    optimizer.step()
    assert params[1] not in optimizer.state
    params[0].grad = None
    set_grad(params[1], torch.ones(9))
    before = optimizer.state[params[0]]["ema"].clone()
    optimizer.step()
    assert_same_bits(optimizer.state[params[0]]["ema"], before)
    assert_same_bits(optimizer.state[params[1]]["ema"], params[1].detach())


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 1.5, float("nan"), "0.9"])
def test_wrong_decays(wrong: object) -> None:
    with pytest.raises((ValueError, TypeError), match="ema"):
        fastopt.AdamW([torch.ones(1, requires_grad=True)], ema=wrong)
