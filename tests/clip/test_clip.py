"""Gradient clipping by torch's functions. Clipping inside a step: test_clip_step.py."""

import math

import pytest
import torch
from torch.linalg import vector_norm
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import fastopt
from support import (
    DTYPES,
    HALF,
    INTAKES,
    ISAS,
    SIZES,
    assert_same_bits,
    params_with_grads,
    running,
    some_values,
)

NORM_TYPES = [2.0, 1.0, math.inf, -math.inf, 3.0, 0.5, -1.5, 2.5, 0.0]
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


def _torchs_norm(tensors: list[torch.Tensor], norm_type: float) -> torch.Tensor:
    """The norm by ``torch.nn.utils.get_total_norm``, which older torch lacks."""
    return vector_norm(torch.stack([vector_norm(t, norm_type) for t in tensors]), norm_type)


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_norm_and_gradients_are_torchs(norm_type: float, dtype: torch.dtype, backend: str) -> None:
    for max_norm in (0.5, 1e6):
        ours, theirs = params_with_grads(dtype), params_with_grads(dtype)
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
    """A norm is the same on every ISA, with any number of threads, through either intake, and in the reference."""
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
    """Our norms stay finite where torch's float16 norm is infinite and its clipped gradients are zero."""
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
    params = params_with_grads()
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
    ours, theirs = params_with_grads(), params_with_grads()
    for params in (ours, theirs):
        params[3].grad[2] = bad
        with running(backend):
            (fastopt.clip_grad_norm_ if params is ours else clip_grad_norm_)(params, 1.0)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, equal_nan=True)


@BACKENDS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clip_grad_value(dtype: torch.dtype, backend: str) -> None:
    ours, theirs = params_with_grads(dtype), params_with_grads(dtype)
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


@pytest.mark.skipif(not hasattr(torch.nn.utils, "clip_grads_with_norm_"), reason="this torch has not all of them")
def test_sparse_gradients_as_errors_md_tells_of_torch() -> None:
    """Three of torch's functions fail on sparse gradients, and one scales them, as errors.md says."""
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1, 1])).sum().backward()
    grad = embedding.weight.grad
    utils = torch.nn.utils
    for call in (
        lambda: utils.clip_grad_norm_(embedding.parameters(), 1.0),
        lambda: utils.clip_grad_value_(embedding.parameters(), 1.0),
        lambda: utils.get_total_norm([grad]),
    ):
        with pytest.raises(NotImplementedError):
            call()
    utils.clip_grads_with_norm_(embedding.parameters(), 1.0, torch.tensor(4.0))
    assert torch.allclose(grad.to_dense()[1], torch.tensor(0.5))


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
    with running(backend), pytest.raises(RuntimeError, match=r"^gradient 0 .* shares memory with gradient 1 "):
        fastopt.clip_grad_norm_(pair, 1.0)
    assert (whole == 5).all()
    params[1].grad, params[2].grad = None, params[0].grad
    with running(backend), pytest.raises(RuntimeError, match=r"^gradient 0 .* shares memory with gradient 1 "):
        fastopt.clip_grad_norm_(params, 1.0)
    assert (params[0].grad == 5).all()


@pytest.mark.parametrize("norm_type", [1, 2, "2", math.inf])
def test_the_order_is_written_as_by_torch(norm_type) -> None:
    param = torch.zeros(2, requires_grad=True)
    param.grad = torch.tensor([math.inf, 1.0])
    messages = []
    for clip in (fastopt.clip_grad_norm_, clip_grad_norm_):
        with pytest.raises(RuntimeError) as error:
            clip([param], 1.0, norm_type, error_if_nonfinite=True)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.skipif(not hasattr(torch.nn.utils, "clip_grads_with_norm_"), reason="this torch does not have it")
@pytest.mark.parametrize("total", [0.5, 4.0, math.inf, math.nan])
def test_clip_with_a_norm_that_is_known(total: float) -> None:
    ours, theirs = ([torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)] for _ in range(2))
    for p, q in zip(ours, theirs, strict=True):
        p.grad, q.grad = torch.arange(1.0, p.numel() + 1), torch.arange(1.0, p.numel() + 1)
    assert fastopt.clip_grads_with_norm_(ours, 1.0, torch.tensor(total)) is None
    torch.nn.utils.clip_grads_with_norm_(theirs, 1.0, torch.tensor(total))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, equal_nan=True)
    with pytest.raises(ValueError, match="total_norm has to have one element"):
        fastopt.clip_grads_with_norm_(ours, 1.0, torch.ones(2))
