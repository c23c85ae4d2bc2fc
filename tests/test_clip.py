"""Gradient clipping: torch's functions, and the same inside a step."""

import math

import pytest
import torch
from torch.linalg import vector_norm
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import fastopt
from cases import PLAIN_CASES, Case, ids
from support import (
    DTYPES,
    HALF,
    INTAKES,
    ISAS,
    SIZES,
    assert_same_bits,
    assert_same_states,
    assert_same_step,
    running,
    some_values,
    states_of,
)

NORM_TYPES = [2.0, 1.0, math.inf, -math.inf, 3.0, 0.5, -1.5, 2.5, 0.0]
CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


def _torchs_norm(tensors: list[torch.Tensor], norm_type: float) -> torch.Tensor:
    """``torch.nn.utils.get_total_norm``, which older torch lacks."""
    return vector_norm(torch.stack([vector_norm(t, norm_type) for t in tensors]), norm_type)


def _with_grads(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[torch.Tensor]:
    params = [torch.zeros(n, dtype=dtype, requires_grad=True) for n in (*SIZES[1:], 50_001)]
    for i, param in enumerate(params):
        param.grad = some_values(param.shape, dtype, seed=i) * scale
    return params


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_norm_and_gradients_are_torchs(norm_type: float, dtype: torch.dtype, backend: str) -> None:
    for max_norm in (0.5, 1e6):
        ours, theirs = _with_grads(dtype), _with_grads(dtype)
        with running(backend):
            norm = fastopt.clip_grad_norm_(ours, max_norm, norm_type)
        expected = clip_grad_norm_(theirs, max_norm, norm_type)
        torch.testing.assert_close(norm, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=2e-5 if dtype == torch.float32 else 1e-12, atol=0)
        total = fastopt.get_total_norm([p.grad for p in ours], norm_type)
        torch.testing.assert_close(total, _torchs_norm([p.grad for p in theirs], norm_type), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_norms_have_the_same_bits_everywhere(norm_type: float, dtype: torch.dtype) -> None:
    """On every ISA, with any number of threads, through either intake, and in the reference."""
    tensors = [some_values(n, dtype, seed=n, low=1e-4, high=1e2) for n in (*SIZES, 16384, 16385, 300_001)]
    tensors = [t for t in tensors if t.numel()]
    with running("reference"):
        expected = fastopt.get_total_norm(tensors, norm_type)
    for isa in ISAS:
        for threads in (1, 2):
            for intake in INTAKES:
                with running("native", isa, threads, intake):
                    assert_same_bits(fastopt.get_total_norm(tensors, norm_type), expected)


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("special", [math.inf, math.nan, 0.0, 1e-42, 3e38])
def test_norms_of_special_values(special: float, norm_type: float) -> None:
    tensors = [torch.tensor([1.5, special, -2.0]), torch.full((40,), special)]
    with running("reference"):
        expected = fastopt.get_total_norm(tensors, norm_type)
    for isa in ISAS:
        with running("native", isa):
            assert_same_bits(fastopt.get_total_norm(tensors, norm_type), expected)
    exact = _torchs_norm([t.double() for t in tensors], norm_type)
    torch.testing.assert_close(expected, exact.float(), rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_norms_of_half_types_do_not_overflow(dtype: torch.dtype) -> None:
    """torch's float16 norm is infinite here, and its clipped gradients zero."""
    param = torch.zeros(10_000, dtype=dtype, requires_grad=True)
    param.grad = torch.full((10_000,), 1000.0, dtype=dtype)
    norm = fastopt.clip_grad_norm_(param, 1000.0)
    assert norm.dtype == torch.float32
    assert norm.item() == 100_000.0
    torch.testing.assert_close(param.grad, torch.full_like(param.grad, 10.0))


def test_squares_of_float32_do_not_overflow() -> None:
    assert fastopt.get_total_norm([torch.full((4,), 1e30)]).item() == pytest.approx(2e30)


@BACKENDS
def test_error_if_nonfinite(backend: str) -> None:
    params = _with_grads()
    params[3].grad[2] = math.inf
    before = [p.grad.clone() for p in params]
    with running(backend), pytest.raises(RuntimeError, match=r"The total norm of order 2.0 .* is non-finite") as ours:
        fastopt.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))
    with pytest.raises(RuntimeError) as theirs:
        clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert str(ours.value) == str(theirs.value)


@BACKENDS
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_nonfinite_norms_do_as_in_torch(bad: float, backend: str) -> None:
    ours, theirs = _with_grads(), _with_grads()
    for params in (ours, theirs):
        params[3].grad[2] = bad
        with running(backend):
            (fastopt.clip_grad_norm_ if params is ours else clip_grad_norm_)(params, 1.0)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, equal_nan=True)


@BACKENDS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clip_grad_value(dtype: torch.dtype, backend: str) -> None:
    ours, theirs = _with_grads(dtype), _with_grads(dtype)
    for params in (ours, theirs):
        params[5].grad[1] = math.nan
        params[6].grad[1] = -math.inf
    with running(backend):
        fastopt.clip_grad_value_(iter(ours), 0.75)
    clip_grad_value_(theirs, 0.75)
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(a.grad, b.grad)


LAYOUTS = {
    "transposed": lambda g: g.t().contiguous().t(),
    "column slice": lambda g: torch.cat([g, g], 1)[:, : g.shape[1]],
    "negated": lambda g: torch._neg_view(-g),
}


@BACKENDS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, backend: str) -> None:
    ours, theirs = (torch.zeros(6, 7, requires_grad=True) for _ in range(2))
    theirs.grad = some_values((6, 7), torch.float32, seed=0)
    ours.grad = LAYOUTS[layout](theirs.grad)
    version = ours.grad._version
    with running(backend):
        norm = fastopt.clip_grad_norm_(ours, 1.0)
        fastopt.clip_grad_value_(ours, 0.15)
    torch.testing.assert_close(norm, clip_grad_norm_(theirs, 1.0))
    clip_grad_value_(theirs, 0.15)
    torch.testing.assert_close(ours.grad.resolve_neg(), theirs.grad)
    assert ours.grad._version > version


def test_complex_gradients() -> None:
    values = torch.view_as_complex(some_values((30, 2), torch.float64, seed=0))
    for norm_type in NORM_TYPES:
        ours, theirs = (torch.zeros(30, dtype=torch.complex128, requires_grad=True) for _ in range(2))
        ours.grad, theirs.grad = values.clone(), values.clone()
        norm = fastopt.clip_grad_norm_(ours, 0.1, norm_type)
        torch.testing.assert_close(norm, clip_grad_norm_(theirs, 0.1, norm_type), rtol=1e-12, atol=0)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=0)
    with pytest.raises(RuntimeError, match="clamp is not supported for complex types"):
        fastopt.clip_grad_value_(ours, 1.0)


def test_nothing_to_clip() -> None:
    assert fastopt.clip_grad_norm_([], 1.0).item() == 0
    assert fastopt.clip_grad_norm_([torch.ones(3, requires_grad=True)], 1.0).item() == 0
    fastopt.clip_grad_value_([], 1.0)
    with pytest.warns(UserWarning, match="empty generator"):
        fastopt.clip_grad_norm_((p for p in []), 1.0)


ERRORS = [
    (lambda p: fastopt.clip_grad_norm_(p, -1.0), ValueError, "Invalid max_norm value: -1.0"),
    (lambda p: fastopt.clip_grad_norm_(p, math.nan), ValueError, "Invalid max_norm value: nan"),
    (lambda p: fastopt.clip_grad_value_(p, -1.0), ValueError, "Invalid clip_value value: -1.0"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_bad_arguments(call, error: type, message: str) -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    with pytest.raises(error, match=message):
        call([param])
    assert (param.grad == 1).all()


@BACKENDS
def test_bad_gradients_are_named_and_nothing_is_written(backend: str) -> None:
    params = [torch.ones(3, requires_grad=True) for _ in range(3)]
    params[0].grad, params[1].grad = torch.full((3,), 5.0), torch.ones(3).to_sparse()
    with running(backend), pytest.raises(RuntimeError, match=r"gradient 1 \(shape \(3,\)\) has layout"):
        fastopt.clip_grad_norm_(params, 1.0)
    params[1].grad = torch.ones(1).expand(3)
    with running(backend), pytest.raises(RuntimeError, match=r"gradient 1 .* is an expanded"):
        fastopt.clip_grad_norm_(params, 1.0)
    whole = torch.full((2, 3), 5.0)
    pair = [torch.ones(2, 2, requires_grad=True) for _ in range(2)]
    pair[0].grad, pair[1].grad = whole[:, :2], whole[:, 1:]
    with running(backend), pytest.raises(RuntimeError, match=r"gradient . .* shares memory with gradient"):
        fastopt.clip_grad_norm_(pair, 1.0)
    assert (whole == 5).all()
    params[1].grad, params[2].grad = None, params[0].grad
    with running(backend), pytest.raises(RuntimeError, match=r"gradient . .* shares memory with gradient"):
        fastopt.clip_grad_norm_(params, 1.0)
    assert (params[0].grad == 5).all()


@BACKENDS
@CASES
def test_a_step_that_clips_is_clipping_and_a_step(case: Case, backend: str) -> None:
    """To the bit: the norm that decides is rounded nowhere in between."""
    for options, clip in (
        ({"max_grad_norm": 0.5}, lambda p: fastopt.clip_grad_norm_(p, 0.5)),
        ({"max_grad_norm": 1e6}, lambda p: None),
        ({"max_grad_norm": math.inf}, lambda p: None),
        ({"max_grad_value": 0.6}, lambda p: fastopt.clip_grad_value_(p, 0.6)),
        (
            {"max_grad_norm": 2.0, "max_grad_value": 0.01},
            lambda p: (fastopt.clip_grad_norm_(p, 2.0), fastopt.clip_grad_value_(p, 0.01)),
        ),
    ):
        ours, plain = _with_grads(), _with_grads()
        one, other = case.make(ours, **options), case.make(plain)
        with running(backend):
            for step in range(3):
                for i, (a, b) in enumerate(zip(ours, plain, strict=True)):
                    a.grad = some_values(a.shape, a.dtype, 100 * step + i)
                    b.grad = a.grad.clone()
                kept = [a.grad.clone() for a in ours]
                expected_norm = fastopt.get_total_norm([p.grad for p in plain])
                clip(plain)
                one.step()
                other.step()
                for a, grad in zip(ours, kept, strict=True):
                    assert_same_bits(a.grad, grad, "the gradient itself is left alone")
                if "max_grad_norm" in options:
                    assert_same_bits(one.grad_norm, expected_norm)
        assert_same_step(one, ours, other, plain)


@BACKENDS
def test_clipping_in_a_scaled_step(backend: str) -> None:
    """The norm is that of the unscaled gradients, which are written back unclipped."""
    ours, plain = _with_grads(), _with_grads()
    one = fastopt.AdamW(ours, max_grad_norm=0.5)
    other = fastopt.AdamW(plain)
    for param in ours:
        param.grad *= 64
    one.grad_scale, one.found_inf = torch.tensor(64.0), torch.tensor(0.0)
    with running(backend):
        one.step()
        norm = fastopt.clip_grad_norm_(plain, 0.5)
        other.step()
    assert_same_bits(one.grad_norm, norm)
    assert_same_step(one, ours, other, plain)
    for i, param in enumerate(ours):
        assert_same_bits(param.grad, some_values(param.shape, param.dtype, seed=i))


@BACKENDS
def test_groups_that_clip_share_one_norm(backend: str) -> None:
    """Groups without max_grad_norm take no part; others may have their own limits."""
    params = [torch.zeros(4, requires_grad=True) for _ in range(3)]
    for i, param in enumerate(params):
        param.grad = torch.full((4,), 10.0 ** (i + 1))
    optimizer = fastopt.SGD(
        [
            {"params": [params[0]], "max_grad_norm": 2.0},
            {"params": [params[1]], "max_grad_norm": 4.0},
            {"params": [params[2]]},
        ],
        lr=1.0,
    )
    with running(backend):
        optimizer.step()
    norm = math.sqrt(4 * 10.0**2 + 4 * 100.0**2)
    torch.testing.assert_close(params[0].detach(), torch.full((4,), -10.0 * 2 / norm))
    torch.testing.assert_close(params[1].detach(), torch.full((4,), -100.0 * 4 / norm))
    torch.testing.assert_close(params[2].detach(), torch.full((4,), -1000.0))
    torch.testing.assert_close(optimizer.grad_norm, torch.tensor(norm))


def test_the_order_of_a_sum_is_that_of_the_parameters() -> None:
    """Not that in which they are prepared, at their first gradient. To the last bit of float64."""

    def norms() -> list[float]:
        params = [torch.zeros(3 + i % 5, dtype=torch.float64, requires_grad=True) for i in range(80)]
        optimizer = fastopt.Adam([{"params": params[:50]}, {"params": params[50:]}], max_grad_norm=1.0)
        seen = []
        for step in range(8):
            for i, param in enumerate(params):
                if i % 8 <= step:
                    param.grad = some_values(param.shape, torch.float64, seed=100 * step + i)
            optimizer.step()
            seen.append(optimizer._grad_norm)
        return seen

    with running("reference"):
        expected = norms()
    assert norms() == expected


def test_clipping_options_can_be_edited() -> None:
    param = torch.zeros(4, requires_grad=True)
    param.grad = torch.full((4,), 2.0)
    optimizer = fastopt.SGD([param], lr=1.0)
    assert optimizer.grad_norm is None
    optimizer.param_groups[0]["max_grad_norm"] = 1.0
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((4,), -0.5))


@pytest.mark.parametrize("option", ["max_grad_norm", "max_grad_value", "l1"])
@CASES
def test_bad_clipping_options(case: Case, option: str) -> None:
    for value in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"Invalid {option} value: {value}"):
            case.make([torch.ones(3, requires_grad=True)], **{option: value})


def test_edited_options_are_checked_at_the_step() -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = fastopt.SGD([param], lr=1.0, max_grad_norm=1.0)
    for option in ("max_grad_norm", "max_grad_value", "l1"):
        before = optimizer.param_groups[0][option]
        optimizer.param_groups[0][option] = -1.0
        with pytest.raises(ValueError, match=f"Invalid {option} value: -1.0"):
            optimizer.step()
        optimizer.param_groups[0][option] = before
    assert (param == 1).all()


def test_the_norm_is_that_of_the_last_step() -> None:
    param = torch.ones(3, dtype=torch.float64, requires_grad=True)
    param.grad = torch.ones(3, dtype=torch.float64)
    optimizer = fastopt.SGD([param], lr=1.0, max_grad_norm=1.0)
    optimizer.step()
    torch.testing.assert_close(optimizer.grad_norm, torch.tensor(3.0, dtype=torch.float64).sqrt())
    optimizer.param_groups[0]["max_grad_norm"] = None
    optimizer.step()
    assert optimizer.grad_norm is None


def test_an_error_after_the_norm_leaves_everything() -> None:
    """Shared memory is found before anything is measured or written."""
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizer = fastopt.Adam(params, max_grad_norm=1.0)
    params[0].grad, params[1].grad = torch.ones(3), params[0].detach()
    before = states_of(optimizer)
    with pytest.raises(RuntimeError, match="shares memory"):
        optimizer.step()
    assert_same_states(optimizer, before)
    assert optimizer.grad_norm is None
    assert all((p == 1).all() for p in params)
