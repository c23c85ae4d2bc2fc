"""The dropout family on a device has the reference's bits, for every rule, type, layout, size and alignment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import fastopt.nn.functional as F
from dropout_cases import FAMILY, IN_PLACE, SHAPES, Family, KernelCall, calls, formats
from fastopt import _core, _runtime, reference
from fastopt.nn._dropout.mask import constants
from fastopt.reference.dropout import CERTAIN
from gpu import DEVICE, emulator, gpu
from support import DTYPES, SIZES, Guarded, assert_same_bits, running, some_values

# A thread takes 8 or 16 elements, a warp 256 or 512, a block 2048 or 4096.
BOUNDARIES = [8, 16, 32, 256, 512, 2048, 4096]
NEAR = sorted({*SIZES, *(n + off for n in BOUNDARIES for off in (-7, -1, 0, 1, 7)), 12_345})
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILY, ids=str)
EMULATED = pytest.mark.skipif(emulator is None, reason="asks the emulator")
EVERY_TYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def there(tensor: Tensor) -> Tensor:
    """Moves a tensor to the device, keeping its layout in memory."""
    if tensor.device == DEVICE:
        return tensor.clone()
    return torch.empty_like(tensor, device=DEVICE).copy_(tensor)


def on_both(call: Callable[..., Any], *inputs: Tensor) -> tuple[Any, Any]:
    """The results of `call` on the device, and on the reference."""
    with running("reference"):
        expected = call(*inputs)
    with gpu():
        ours = call(*map(there, inputs))
    return ours, expected


def assert_same(call: Callable[..., Tensor], *inputs: Tensor) -> None:
    ours, expected = on_both(call, *inputs)
    assert_same_bits(ours.cpu(), expected)
    assert ours.stride() == expected.stride()


@EVERY_TYPE
@EVERY_FAMILY
def test_forward(family: Family, dtype: torch.dtype, order: str) -> None:
    for p in (1e-6, 0.1, 1 / 3, 0.5, 0.999, 1.0):
        assert_same(lambda *x, p=p: family(*x, p=p, offset=2**63 + 7), *family.inputs(dtype))


@EVERY_TYPE
@EVERY_FAMILY
def test_backward(family: Family, dtype: torch.dtype, order: str) -> None:
    for ours, expected in zip(*on_both(family.gradients, *family.inputs(dtype)), strict=True):
        assert_same_bits(ours.cpu(), expected)


@pytest.mark.parametrize("family", [family for family in FAMILY if family.complex], ids=str)
def test_complex(family: Family) -> None:
    """Real and imaginary part share one flag; lazily conjugated and negated tensors are read as their values."""
    inputs = [torch.complex(x, x + 1) for x in family.inputs(torch.float32)]
    assert_same(family, *inputs)
    assert_same(lambda x, *rest: family(x.conj(), *rest), *inputs)
    assert_same(lambda x, *rest: family(torch._neg_view(x), *rest), *inputs)


def guarded(values: Tensor, misalign: int) -> Guarded:
    guard = Guarded(values.numel(), values.dtype, misalign, DEVICE)
    guard.inside.copy_(values)
    return guard


@EVERY_TYPE
def test_sizes_and_alignments(dtype: torch.dtype) -> None:
    """Dropout works in place between guards, and with a residual of another alignment."""
    for i, n in enumerate(NEAR):
        x, residual = some_values(n, dtype, 1), some_values(n, dtype, 2)
        with running("reference"):
            expected = F.dropout(x, 0.4, seed=n), F.dropout_add(x, residual, 0.4, seed=n)
        for misalign in (0, 1, 2 + i % 14):
            one, other = guarded(x, misalign), guarded(residual, i % 3)
            before = one.inside.clone(), other.inside.clone()
            with gpu():
                added = F.dropout_add(one.inside, other.inside, 0.4, seed=n)
                assert_same_bits(one.inside.cpu(), before[0].cpu())
                F.dropout(one.inside, 0.4, inplace=True, seed=n)
            assert_same_bits(one.inside.cpu(), expected[0], f"{n} elements, {misalign} off")
            assert_same_bits(added.cpu(), expected[1], f"{n} elements, {misalign} off")
            assert_same_bits(other.inside.cpu(), before[1].cpu())
            one.check()
            other.check()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["dropout", "channels", "dropout_add"])
def test_formats(shape: tuple[int, ...], name: str) -> None:
    """The mask belongs to the elements, wherever they lie in memory."""
    functions: dict[str, Callable[..., Tensor]] = {
        "dropout": lambda x: F.dropout(x, 0.4, seed=11),
        "channels": lambda x: F.feature_alpha_dropout(x, 0.4, True, seed=11),
        "dropout_add": lambda x: F.dropout_add(x, x, 0.4, seed=11),
    }
    for dtype in (torch.float32, torch.bfloat16):
        x = some_values(shape, dtype, 3)
        for same in formats(x).values():
            assert_same(functions[name], same)


@EVERY_TYPE
@pytest.mark.parametrize("shape", [(64, 8), (64, 16), (9, 24), (2, 3, 40), (100, 1), (3, 5, 2, 8), (1, 64), (17, 9, 7)])
def test_across_memory(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Transposed tensors, between guards: tiles of 8 elements along the mask, full and partial, in vectors and not."""
    n = torch.Size(shape).numel()
    values = some_values(n, dtype, 5)
    turned = lambda flat: flat.view(shape).movedim(-1, 0)  # noqa: E731
    with running("reference"):
        expected = F.dropout(turned(values), 0.4, seed=2)
    for misalign in (0, 1):
        guard = guarded(values, misalign)
        with gpu():
            F.dropout(turned(guard.inside), 0.4, inplace=True, seed=2)
        assert_same_bits(turned(guard.inside).cpu(), expected)
        guard.check()


@EVERY_FAMILY
def test_every_operand_in_another_format(family: Family) -> None:
    inputs = family.inputs(torch.float32)
    for k, tensor in enumerate(inputs):
        for same in formats(tensor).values():
            changed = [*inputs[:k], same, *inputs[k + 1 :]]
            assert_same(family, *changed)
            for ours, expected in zip(*on_both(family.gradients, *changed), strict=True):
                assert_same_bits(ours.cpu(), expected)


@given(calls())
@settings(max_examples=150, deadline=None)
def test_any_layout_and_mask(call: KernelCall) -> None:
    expected = call.run(reference)
    with gpu():
        ours = call.run(_runtime.kernels, device=DEVICE)
    assert_same_bits(ours.cpu(), expected)


@pytest.mark.parametrize("family", IN_PLACE, ids=str)
def test_in_place(family: Family) -> None:
    for x in formats(family.inputs(torch.float32)[0]).values():
        same = there(x)
        with gpu():
            assert family(same, inplace=True) is same
        with running("reference"):
            assert_same_bits(same.cpu(), family(x))


@EVERY_TYPE
@EVERY_FAMILY
def test_special_values(family: Family, dtype: torch.dtype) -> None:
    """Zeros of both signs, subnormals, the largest numbers, inf and NaN. Any element that is dropped becomes 0."""
    info = torch.finfo(dtype)
    values = [0.0, -0.0, info.smallest_normal / 2, -info.smallest_normal, 1.0, info.max, info.min, torch.inf]
    special = torch.tensor([*values, -torch.inf, torch.nan], dtype=dtype)
    shape = family.shape
    x = special.repeat(torch.Size(shape).numel() // len(special) + 1)[: torch.Size(shape).numel()].view(shape)
    others = [t.flatten().flip(0).view(t.shape) for t in family.inputs(dtype)[1:]]
    assert_same(lambda *inputs: family(*inputs, p=0.5), x, *others)
    kept = F.dropout_mask(shape, 0.5, seed=2)
    for some in (x, x.flip(0)):
        with gpu():
            dropped = F.dropout(there(some), 0.5, seed=2).cpu()
        assert (dropped[~kept] == 0).all()
        assert not torch.signbit(dropped[~kept]).any()


# Neighbouring thresholds are decided by different bits.
EDGES = [0, 1, 2**16, 2**32 - 1, 2**32, 2**32 + 1, 2**47, CERTAIN - 2**32, CERTAIN - 1, CERTAIN]


@pytest.mark.parametrize("threshold", EDGES)
def test_thresholds(threshold: int) -> None:
    x = some_values(70_000, torch.float32, 1)

    def run(kernels: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        assert kernels.drop("dropout", out, x, None, None, 1, 3, 4, threshold, (2.0,), 1)
        return out

    ours, expected = on_both(lambda x: run(_runtime.kernels, x), x)
    assert_same_bits(ours.cpu(), expected)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("rule", _core.dropouts())
def test_a_seed_that_only_the_device_knows(rule: str, seed: int) -> None:
    """The seed may be a 0-dim tensor of the same 64 bits, read as signed."""
    kernel, threshold, scalars = constants(rule, 0.4)
    _, has_residual, has_bias = _core.dropouts()[rule]
    x = some_values((5, 70), torch.float32, 1)
    residual, bias = x * 2 if has_residual else None, x[0] * 3 if has_bias else None

    def run(kernels: Any, seed: Any, *operands: Tensor | None) -> Tensor:
        out = torch.empty_like(operands[0])
        assert kernels.drop(kernel, out, *operands, 2, seed, 5, threshold, scalars, 1)
        return out

    expected = run(reference, seed, x, residual, bias)
    drawn = torch.tensor(seed - 2**64 if seed >= 2**63 else seed, device=DEVICE)
    with gpu():
        ours = run(_runtime.kernels, drawn, *(t if t is None else there(t) for t in (x, residual, bias)))
    assert_same_bits(ours.cpu(), expected)


SUM_SHAPES = [
    *[(rows, 40) for rows in (1, 15, 16, 17, 127, 128, 129, 300)],
    *[(35, columns) for columns in (1, 7, 8, 9, 255, 256, 257, 264, 520)],
    *[(0, 3), (3, 0), (2, 70, 24), (2100, 3)],
]


@EVERY_TYPE
@pytest.mark.parametrize("shape", SUM_SHAPES, ids=str)
def test_bias_gradient_at_the_edges_of_its_blocks(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The gradients of input and bias, aligned and not; and the bias's alone."""
    n = torch.Size(shape).numel()
    values = some_values(n, dtype, 1)
    rest = (7, 8, 3 << 46, 4.0, 1)

    def sums(kernels: Any, grad: Tensor, out: Tensor | None) -> Tensor:
        of_bias = torch.empty(shape[-1:], dtype=dtype, device=grad.device)
        assert kernels.drop_and_sum(out, of_bias, grad, *rest)
        return of_bias

    expected_input = torch.empty(shape, dtype=dtype)
    expected = sums(reference, values.view(shape), expected_input)
    for misalign in (0, 1):
        grad, out = guarded(values, misalign), guarded(torch.zeros_like(values), misalign)
        with gpu():
            both = sums(_runtime.kernels, grad.inside.view(shape), out.inside.view(shape))
            alone = sums(_runtime.kernels, grad.inside.view(shape), None)
        assert_same_bits(both.cpu(), expected)
        assert_same_bits(alone.cpu(), expected)
        assert_same_bits(out.inside.view(shape).cpu(), expected_input)
        grad.check()
        out.check()


def test_bias_gradient_in_any_order(order: str) -> None:
    family = FAMILY[-1]
    for dtype in (torch.float32, torch.float16):
        both = on_both(family.gradients, *family.inputs(dtype, (517, 264)))
        for ours, expected in zip(*both, strict=True):
            assert_same_bits(ours.cpu(), expected)


@EMULATED
def test_launches() -> None:
    """One launch for a call, two if a bias's gradient is summed, none for an empty tensor."""
    x, bias, empty = torch.ones(300, 40), torch.ones(40), torch.ones(0, 40)
    counts = {
        "dropout": (1, lambda: F.dropout(x, 0.5)),
        "channels last": (1, lambda: F.dropout(x.t(), 0.5)),
        "with a bias": (1, lambda: F.bias_dropout_add(x, bias, x, 0.5)),
        "its gradients": (3, lambda: FAMILY[-1].gradients(x, bias, x)),
        "nothing": (0, lambda: F.dropout(empty, 0.5)),
        "nothing added": (0, lambda: F.bias_dropout_add(empty, bias, empty, 0.5)),
        "a mask": (1, lambda: F.dropout_mask(100, 0.5, seed=1)),
        "no mask": (0, lambda: F.dropout_mask(0, 0.5, seed=1)),
    }
    with gpu():
        for name, (count, call) in counts.items():
            emulator.clear_launches()
            call()
            assert len(emulator.launches()) == count, name


@EMULATED
def test_a_launch_that_fails() -> None:
    x, bias = torch.ones(300, 40), torch.ones(40)
    with gpu():
        for after in range(3):
            emulator.fail_launch(1, after=after)
            with pytest.raises(RuntimeError, match=r"CUDA error in fastopt's .*cudaErrorInvalidValue"):
                FAMILY[-1].gradients(x, bias, x)
        emulator.fail_launch(1)
        with pytest.raises(RuntimeError, match="CUDA error in fastopt's mask"):
            F.dropout_mask(100, 0.5, seed=1)
        assert_same_bits(F.dropout(x, 0.5, seed=1), F.dropout(x, 0.5, seed=1))
