"""Masters: training a parameter of a half type with one is training the float32 parameter, to the bit."""

import copy

import pytest
import torch
from torch import Tensor

import fastopt
from optimizer_cases import PLAIN_CASES, Case, ids
from precision_cases import float_bits, half_bits, joined, set_grad, train
from support import HALF, assert_same_bits, running, some_values, state_tensors

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
WAYS = [("float32", torch.bfloat16), ("float32", torch.float16), ("split", torch.bfloat16)]
EVERY_WAY = pytest.mark.parametrize(("master", "dtype"), WAYS, ids=str)
SPECIAL = [0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x3F80, 0xBF80, 0x3F7F, 0x4049, 0x7F7F, 0xFF7F, 0x7F00]


def value_of(optimizer: torch.optim.Optimizer, param: Tensor) -> Tensor:
    """The float32 value that is trained."""
    state = optimizer.state[param]
    return state["master"].clone() if "master" in state else joined(param, state["remainder"])


def split_upper(values: Tensor) -> Tensor:
    """The bits of the nearest bfloat16 number; of two equally near ones, of the larger in magnitude."""
    return (float_bits(values) + 0x8000) >> 16 & 0xFFFF


def assert_is_rounding(param: Tensor, value: Tensor, master: str) -> None:
    upper = split_upper(value) if master == "split" else half_bits(value.to(param.dtype))
    assert torch.equal(half_bits(param), upper)


@EVERY_WAY
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_is_training_in_float32(case: Case, master: str, dtype: torch.dtype) -> None:
    """200 steps: the value, all states and the rounding are those of a float32 twin that gets the same gradients."""
    sizes = [(9, 14), (150,), ()]
    params = [some_values(size, dtype, seed=i).requires_grad_() for i, size in enumerate(sizes)]
    twins = [param.detach().float().requires_grad_() for param in params]
    ours, theirs = case.make(params, master=master), case.make(twins)
    gradients = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    for step in range(200):
        train(ours, params, range(step, step + 1), gradients)
        train(theirs, twins, range(step, step + 1), torch.float32)
    for param, twin in zip(params, twins, strict=True):
        value = value_of(ours, param)
        assert_same_bits(value, twin, "the value")
        assert_is_rounding(param, value, master)
        states, expected = state_tensors(ours, param), state_tensors(theirs, twin)
        assert states.keys() - {"master", "remainder"} == expected.keys()
        for key in expected:
            assert_same_bits(states[key], expected[key], key)


def _exact_values(uppers: list[int]) -> tuple[Tensor, Tensor]:
    """bfloat16 parameters, and for each all float32 numbers that have its bits as their upper half."""
    upper = torch.tensor(uppers, dtype=torch.int64).repeat_interleave(2**16)
    lower = torch.arange(2**16).repeat(len(uppers))

    def float32(bits: Tensor) -> Tensor:
        return torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)

    return float32(upper << 16).to(torch.bfloat16), float32((upper << 16) + lower)


@BACKENDS
@pytest.mark.parametrize("master", ["float32", "split"])
def test_every_lower_half(master: str, backend: str) -> None:
    """Signed zeros, subnormals, ties, the largest finite numbers: each value is kept exactly, and rounded rightly.

    The first step goes to the value, which a float32 copy shows. The second does nothing.
    """
    start, values = _exact_values(SPECIAL)
    param = start.clone().requires_grad_()
    copied = torch.zeros_like(values)
    optimizer = fastopt.SGD([{"params": [param], "copies": [copied]}], lr=1.0, master=master)
    exact = start.float() - values  # in this range of numbers without an error
    exact = torch.where(values == 0, 0.0, exact)
    with running(backend):
        for grad in (exact, torch.zeros_like(exact)):
            set_grad(param, grad)
            optimizer.step()
            assert torch.equal(float_bits(copied), float_bits(values))
            assert_is_rounding(param, values, master)
            assert torch.equal(float_bits(value_of(optimizer, param)), float_bits(values))
    tie = (float_bits(values) & 0xFFFF) == 0x8000
    away = (half_bits(param) != float_bits(values) >> 16)[tie]
    odd = (float_bits(values) >> 16 & 1 == 1)[tie]
    assert torch.equal(away, torch.ones_like(away) if master == "split" else odd)


@BACKENDS
def test_split_is_a_sum_of_bits(backend: str) -> None:
    """bits(value) = (bits(param) << 16) + remainder for every finite value, also where the parameter overflows."""
    random = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=random, dtype=torch.int64).to(torch.int32)
    values = bits.view(torch.float32)
    values = torch.where(values.isfinite(), values, 3.4e38)
    param = torch.zeros(len(values), dtype=torch.bfloat16, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=1.0, master="split")
    set_grad(param, -values)
    with running(backend):
        optimizer.step()
    remainder = optimizer.state[param]["remainder"].to(torch.int64)
    nonzero = values != 0
    assert torch.equal(((half_bits(param) << 16) + remainder)[nonzero], float_bits(values)[nonzero])
    assert param.isinf().any()


@BACKENDS
@pytest.mark.parametrize("master", ["float32", "split"])
def test_nan_and_inf(master: str, backend: str) -> None:
    param = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=1.0, master=master)
    with running(backend):
        for grads in ([torch.nan, torch.inf, -torch.inf, 0.25], [0.0] * 4):
            param.grad = torch.tensor(grads, dtype=torch.bfloat16)
            optimizer.step()
            assert param[0].isnan()
            assert param[1:].tolist() == [-torch.inf, torch.inf, 0.75]


CHANGES = {
    "clamp_": lambda p: p.clamp_(-1.0, 1.0),
    "zero_": lambda p: p[::3].zero_(),
    "copy_": lambda p: p.copy_(some_values(p.shape, p.dtype, seed=50)),
    "fill_ with inf": lambda p: p[::5].fill_(torch.inf),
    "neg_": lambda p: p[1::2].neg_(),
}


@BACKENDS
@pytest.mark.parametrize("change", CHANGES)
@EVERY_WAY
def test_changes_are_respected(master: str, dtype: torch.dtype, change: str, backend: str) -> None:
    """A step of no length leaves what the user wrote. Elements that he left alone keep their masters."""
    params = [some_values((300,), dtype, seed=1).requires_grad_()]
    optimizer = fastopt.AdamW(params, lr=0.01, master=master, weight_decay=0.0)
    with running(backend):
        train(optimizer, params, range(5))
        before, value = params[0].detach().clone(), value_of(optimizer, params[0])
        assert (value != before.float()).any()
        with torch.no_grad():
            CHANGES[change](params[0])
        written = params[0].detach().clone()
        optimizer.param_groups[0]["lr"] = 0.0
        train(optimizer, params, range(5, 6))
        assert_same_bits(params[0], written)
        untouched = half_bits(before) == half_bits(written)
        assert untouched.any() or change == "copy_"
        after = value_of(optimizer, params[0])
        assert_same_bits(after[untouched], value[untouched])
        if master == "float32":
            assert_same_bits(after[~untouched], written.float()[~untouched])
        assert_is_rounding(params[0], after, master)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
@EVERY_WAY
def test_training_goes_on_from_a_change(master: str, dtype: torch.dtype, case: Case) -> None:
    """After a change the float32 twin of the changed values gets the same bits."""
    params = [some_values((70,), dtype, seed=1).requires_grad_()]
    ours = case.make(params, master=master)
    train(ours, params, range(3), torch.float32)
    twins = [value_of(ours, params[0]).requires_grad_()]
    theirs = case.make(twins)
    theirs.param_groups[0].update({key: ours.param_groups[0][key] for key in ours._more_group_keys})
    state = {k: v for k, v in copy.deepcopy(ours.state_dict())["state"][0].items() if k not in ("master", "remainder")}
    theirs.load_state_dict({**theirs.state_dict(), "state": {0: state}} if state else theirs.state_dict())
    with torch.no_grad():
        before = half_bits(params[0])
        params[0][:40].copy_(some_values((40,), dtype, seed=9))
        changed = half_bits(params[0]) != before  # equal bits say nothing
        lower = ours.state[params[0]].get("remainder")
        new = params[0].float() if lower is None else joined(params[0], lower)
        twins[0].copy_(torch.where(changed, new, twins[0]))
    train(ours, params, range(3, 6), torch.float32)
    train(theirs, twins, range(3, 6), torch.float32)
    assert_same_bits(value_of(ours, params[0]), twins[0])


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_loaded_parameters_replace_masters(dtype: torch.dtype) -> None:
    """load_state_dict of a model, and swapped data, are changes too."""
    layer = torch.nn.Linear(9, 7, dtype=dtype)
    params = list(layer.parameters())
    optimizer = fastopt.SGD(params, lr=0.0, master="float32")
    train(optimizer, params, range(2))
    other = torch.nn.Linear(9, 7, dtype=dtype)
    layer.load_state_dict(other.state_dict())
    layer.bias.data = torch.full_like(layer.bias, 0.5)
    train(optimizer, params, range(2, 3))
    assert_same_bits(layer.weight, other.weight)
    assert (layer.bias == 0.5).all()
    for param in params:
        assert_same_bits(optimizer.state[param]["master"], param.float())


def test_split_is_for_bfloat16() -> None:
    param = torch.ones(3, dtype=torch.float16, requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = fastopt.AdamW([param], master="split")
    with pytest.raises(RuntimeError, match=r"parameter 0 of group 0.*float16; master='split' is for bfloat16"):
        optimizer.step()
    assert (param == 1).all()
    assert not optimizer.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("master", ["float32", "split"])
def test_wide_parameters_need_no_master(master: str, dtype: torch.dtype) -> None:
    params, expected = ([some_values(70, dtype, 0).requires_grad_()] for _ in range(2))
    ours, theirs = fastopt.AdamW(params, master=master), fastopt.AdamW(expected)
    train(ours, params, range(3))
    train(theirs, expected, range(3))
    assert_same_bits(params[0], expected[0])
    assert ours.state[params[0]].keys() == theirs.state[expected[0]].keys()
