"""States in 8 bits: codes and scales of kernels, reference and torch's operations are equal; errors are bounded."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

import fastopt
from fastopt.optim._codes import CODE_BLOCK, CODINGS, Coding, decode, encode
from fastopt.reference import storage
from precision_cases import train
from support import ISAS, assert_same_bits, assert_same_step, bits, running, some_values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
CODING = pytest.mark.parametrize("coding", Coding, ids=lambda coding: coding.name)


def _blocks(coding: Coding, count: int = 4001) -> Tensor:
    """Numbers over many magnitudes; neighbouring blocks of 32 differ a lot, and some are special."""
    values = some_values(count, torch.float32, seed=1, low=1e-6, high=1.0)
    values *= 10.0 ** (torch.arange(count) // CODE_BLOCK * 7 % 60 - 30)
    if coding is Coding.NON_NEGATIVE:
        values = values.abs()
    values[32:64] = 0.0
    values[70], values[100], values[130] = torch.nan, torch.inf, -torch.inf
    values[160:192] = 1e-39  # subnormal
    values[200] = -0.0
    values[224], values[256:288] = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
    return values


@CODING
@pytest.mark.parametrize("count", [1, 31, 32, 33, 4001])
def test_definitions_agree(coding: Coding, count: int) -> None:
    values = _blocks(coding)[:count]
    codes, scales = encode(values, coding)
    expected = np.zeros(count, np.int8 if coding is Coding.SIGNED else np.uint8)
    expected_scales = np.zeros(-(-count // 32), np.float32)
    with np.errstate(all="ignore"):
        storage.encode(values.numpy(), expected, expected_scales)
        numbers = storage.decode(expected, expected_scales)
    assert torch.equal(codes, torch.from_numpy(expected))
    assert_same_bits(scales, torch.from_numpy(expected_scales), "scales")
    assert_same_bits(decode(codes, scales), torch.from_numpy(numbers), "numbers")


@CODING
@pytest.mark.parametrize("isa", ISAS)
def test_kernels_agree(coding: Coding, isa: str) -> None:
    """A kernel that only loads and stores: momentum and sum of squares get no gradient."""
    values = _blocks(coding, 4200)
    key = "momentum_buffer" if coding is Coding.SIGNED else "sum"
    param = torch.zeros(len(values), requires_grad=True)
    param.grad = torch.zeros_like(param)
    make = {"momentum_buffer": lambda p: fastopt.SGD(p, momentum=0.5), "sum": fastopt.Adagrad}[key]
    optimizer = make([param])
    with running("native", isa):
        optimizer.step()
        optimizer.state[param][key] = values.clone()
        optimizer.param_groups[0]["state_dtype"] = "int8"
        optimizer.step()
    first = decode(*encode(values, coding))
    codes, scales = encode(first * 0.5 if coding is Coding.SIGNED else first, coding)
    assert torch.equal(optimizer.state[param][key], codes)
    assert_same_bits(optimizer.state[param][f"{key}_scale"], scales)


@CODING
@pytest.mark.parametrize("scale", [1.0, 1.9999999, 3e-20, 7e19, 3.4028234e38])
def test_codes_are_fixed_points(coding: Coding, scale: float) -> None:
    """A number that has a code gets it again: coding twice loses no more than once."""
    largest = torch.iinfo(coding.value).max
    codes = torch.full((2 * largest + 1, CODE_BLOCK), largest, dtype=coding.value)
    codes[:, 0] = torch.arange(-largest, largest + 1).clamp(torch.iinfo(coding.value).min).to(coding.value)
    numbers = decode(codes.flatten(), torch.full((len(codes),), scale))
    again, scales = encode(numbers, coding)
    assert torch.equal(again, codes.flatten())
    assert torch.equal(scales, torch.full_like(scales, scale))


def test_errors_are_bounded() -> None:
    """Half a step of the code: relative to the block's largest number, and finer near zero."""
    values = some_values(64_000, torch.float32, seed=0, low=1e-8, high=1.0)
    largest = values.abs().view(-1, CODE_BLOCK).amax(1).repeat_interleave(CODE_BLOCK)
    u = (values / largest).double()
    signed = (decode(*encode(values, Coding.SIGNED)) / largest).double()
    # y = 254 u / (1 + |u|) has the slope 254 / (1 + |u|)^2.
    assert ((signed - u).abs() <= 0.505 * (1 + u.abs()).square() / 254 + 1e-6).all()
    root = (decode(*encode(values.abs(), Coding.NON_NEGATIVE)) / largest).double()
    assert ((root.sqrt() - u.abs().sqrt()).abs() <= (1 / 255)).all()  # less than half a step, but for the first code
    large = u.abs() > (1.5 / 255) ** 2
    assert ((root.sqrt() - u.abs().sqrt()).abs()[large] <= 0.505 / 255).all()


@BACKENDS
def test_scales_belong_to_their_blocks(backend: str) -> None:
    """Each block's largest number comes back exactly, though its neighbours are 1e6 times as large or small."""
    count = 4096 + 17
    magnitudes = 10.0 ** (torch.arange(count) // CODE_BLOCK % 3 * 6 - 6.0)
    grads = some_values(count, torch.float32, 0) * magnitudes
    param = torch.zeros(count, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=0.0, momentum=0.9, state_dtype="int8")
    param.grad = grads
    with running(backend):
        optimizer.step()
    state = optimizer.state[param]
    assert state["momentum_buffer"].dtype == torch.int8
    blocks = torch.nn.functional.pad(grads.abs(), (0, -count % CODE_BLOCK)).view(-1, CODE_BLOCK)
    assert torch.equal(state["momentum_buffer_scale"], blocks.amax(1))
    numbers = decode(state["momentum_buffer"], state["momentum_buffer_scale"])
    assert ((numbers - grads).abs() <= blocks.amax(1).repeat_interleave(CODE_BLOCK)[:count] * 0.008).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_gradients_stay_in_their_blocks(bad: float) -> None:
    """Also in the steps after that."""

    def run(broken: bool) -> tuple[Tensor, torch.optim.Optimizer]:
        params = [some_values(5000, torch.float32, seed=0).requires_grad_()]
        optimizer = fastopt.AdamW(params, lr=0.01, state_dtype="int8")
        for step in range(4):
            params[0].grad = some_values(5000, torch.float32, seed=step)
            if broken and step == 1:
                params[0].grad[[40, 4999]] = bad
            optimizer.step()
        return params[0], optimizer

    (hit, ours), (expected, theirs) = run(True), run(False)
    inside = torch.zeros(5000, dtype=torch.bool)
    inside[32:64] = inside[4992:] = True
    assert hit[inside].isnan().all()
    assert_same_bits(hit[~inside], expected[~inside])
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(ours.state[hit][key][~inside], theirs.state[expected][key][~inside])
        assert ours.state[hit][f"{key}_scale"].isnan().nonzero().flatten().tolist() == [1, 156]


def test_what_is_not_zero_stays_so() -> None:
    """A second moment far below its block's largest: its root is a divisor."""
    values = torch.full((64,), 1e-12)
    values[::2] = 0.0
    values[5], values[37] = 1.0, 1e20  # 1e-12 / 1e20 is still a number, 1e-37 / 1e20 is not
    values[39] = 1e-37
    codes, scales = encode(values, Coding.NON_NEGATIVE)
    assert torch.equal(decode(codes, scales) > 0, values > 0)
    param = torch.zeros(4096, requires_grad=True)
    param.grad = torch.where(torch.arange(4096) % 32 == 0, 1.0, 1e-6)
    optimizer = fastopt.AdamW([param], lr=1e-3, state_dtype="int8")
    for _ in range(20):
        optimizer.step()
    assert (optimizer.state[param]["exp_avg_sq"] > 0).all()
    assert (param.abs() <= 20 * 1.01e-3).all()


def test_which_states_are_coded() -> None:
    """Tensors of 4096 elements and more; types, shapes and strides."""
    params = [
        torch.zeros(4095),
        torch.zeros(64, 64).t(),
        torch.zeros(2, 8, 16, 17).to(memory_format=torch.channels_last),
    ]
    params = [param.requires_grad_() for param in params]
    optimizer = fastopt.AdamW(params, state_dtype="int8", amsgrad=True)
    train(optimizer, params, range(2))
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.float32
    assert "exp_avg_scale" not in optimizer.state[params[0]]
    for param in params[1:]:
        for key, dtype in (("exp_avg", torch.int8), ("exp_avg_sq", torch.uint8), ("max_exp_avg_sq", torch.uint8)):
            state, scale = (optimizer.state[param][name] for name in (key, f"{key}_scale"))
            assert (state.dtype, state.shape, state.stride()) == (dtype, param.shape, param.stride())
            assert (scale.dtype, scale.shape) == (torch.float32, (-(-param.numel() // 32),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@BACKENDS
def test_option_is_set_and_switched_off(backend: str, dtype: torch.dtype) -> None:
    """A step first brings the states into the form that the group asks for, without another change of the numbers."""
    params = [some_values(4200, dtype, 0).requires_grad_()]
    optimizer = fastopt.AdamW(params, lr=0.01)
    keys = {"exp_avg": CODINGS["exp_avg"], "exp_avg_sq": CODINGS["exp_avg_sq"]}

    def twin_of(states: dict[str, Tensor], **options) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        other = [params[0].detach().clone().requires_grad_()]
        twin = fastopt.AdamW(other, lr=0.01, **options)
        twin.state[other[0]] = {**copy.deepcopy(optimizer.state[params[0]]), **states}
        return twin, other

    with running(backend):
        train(optimizer, params, range(3))
        state = optimizer.state[params[0]]
        coded = {key: encode(state[key].float(), coding) for key, coding in keys.items()}
        tensors = {key: codes for key, (codes, _) in coded.items()}
        scales = {f"{key}_scale": scale for key, (_, scale) in coded.items()}
        twin, other = twin_of({**tensors, **scales}, state_dtype="int8")
        optimizer.param_groups[0]["state_dtype"] = "int8"
        for one, p in ((optimizer, params), (twin, other)):
            train(one, p, range(3, 5))
        assert_same_step(optimizer, params, twin, other)
        assert optimizer.state[params[0]]["exp_avg_sq"].dtype == torch.uint8

        state = optimizer.state[params[0]]
        numbers = {key: decode(state[key], state[f"{key}_scale"]) for key in keys}
        twin, other = twin_of(numbers, state_dtype=torch.float32)
        optimizer.param_groups[0]["state_dtype"] = torch.float32
        for one, p in ((optimizer, params), (twin, other)):
            train(one, p, range(5, 7))
    for key in keys:
        assert optimizer.state[params[0]][key].dtype == torch.float32
        assert np.array_equal(bits(optimizer.state[params[0]][key]), bits(twin.state[other[0]][key]))
    assert_same_bits(params[0], other[0])
