"""Scenarios for sync_worker: SyncBatchNorm in several processes, compared with one process on the joined batch."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing import assert_close

from fastopt import nn
from fastopt.nn._norm.activations import NAMES as ACTIVATIONS
from processes import Scenarios, everyones
from support import some_values

COLLECTIVES = ["all_gather", "all_reduce", "all_gather_into_tensor", "broadcast", "reduce_scatter", "all_to_all"]
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
PLAIN = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
TOLERANCES = {
    torch.float32: {"rtol": 1e-6, "atol": 2e-6},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2},
}

SCENARIOS = Scenarios()


@contextlib.contextmanager
def communication() -> Iterator[Counter[str]]:
    """Counts collective operations."""
    seen: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(dist, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            seen[name] += 1
            return real(*args, **kwargs)

        return run

    with contextlib.ExitStack() as stack:
        for name in COLLECTIVES:
            stack.enter_context(mock.patch.object(dist, name, counted(name)))
        yield seen


def total(tensor: Tensor) -> Tensor:
    return torch.stack([t.double() for t in everyones(tensor.detach())]).sum(0).to(tensor.dtype)


def share(whole: Tensor, sizes: Sequence[int]) -> Tensor:
    """This process's part of a batch, in the layout of the whole."""
    part = whole.detach().split(list(sizes))[dist.get_rank()]
    return torch.empty_like(part).copy_(part).requires_grad_(whole.requires_grad)


def equals_joined(
    shape: tuple[int, ...] = (4, 5, 5),  # without the batch dimension
    sizes: Sequence[int] = (5, 2),
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    residual: bool = False,
    parameters: torch.dtype | None = None,
    reference: type[torch.nn.Module] | None = None,
    **options: Any,
) -> None:
    """Compares three training steps and an evaluation with one module that sees the joined batch."""
    whole_shape = (sum(sizes), *shape)
    options["dtype"] = parameters or dtype
    joined = (reference or PLAIN[len(whole_shape)])(shape[0], **options)
    if joined.affine:
        joined.weight.data = some_values(shape[0], options["dtype"], 1)
        joined.bias.data = some_values(shape[0], options["dtype"], 2)
    ours = nn.SyncBatchNorm(shape[0], **options)
    ours.load_state_dict(joined.state_dict())
    close = partial(assert_close, **TOLERANCES[dtype])
    for step in range(3):
        tensors = [some_values(whole_shape, dtype, 10 * step + i) + 2.0 * (i == 0) for i in range(3)]
        layout = LAYOUTS[len(whole_shape)] if channels_last else torch.contiguous_format
        x, other, grad = (t.contiguous(memory_format=layout) for t in tensors)
        operands = [t.requires_grad_() for t in ([x, other] if residual else [x])]
        own = [share(t, sizes) for t in operands]
        with communication() as seen:
            y = ours(*own)
        assert seen == {"all_gather": 1}, seen
        assert y.stride() == torch.empty_like(own[0]).stride()
        expected = joined(*operands)
        close(y, share(expected.detach(), sizes))
        with communication() as seen:
            y.backward(share(grad, sizes))
        assert seen == {"all_gather": 1}, seen
        expected.backward(grad)
        for mine, theirs in zip(own, operands, strict=True):
            close(mine.grad, share(theirs.grad, sizes))
        for (name, buffer), expected in zip(ours.named_buffers(), joined.buffers(), strict=True):
            close(buffer, expected.to(buffer.dtype))
            for theirs in everyones(buffer):
                assert_close(theirs, buffer, rtol=0, atol=0, msg=name)
    for mine, theirs in zip(ours.parameters(), joined.parameters(), strict=True):
        tolerance = TOLERANCES[dtype]  # for sums of equally many terms
        assert_close(total(mine.grad), theirs.grad, rtol=tolerance["rtol"], atol=20 * tolerance["atol"])
    x = some_values(whole_shape, dtype, 99)
    ours.eval(), joined.eval()
    with communication() as seen:
        if not dist.get_rank():  # in evaluation, a process alone
            close(ours(x), joined(x))
    assert not seen


for dtype in (torch.float32, torch.float64):
    for shape in ((4,), (4, 5), (4, 5, 5), (4, 2, 3, 5)):
        for channels_last in (False, True)[: 1 + (len(shape) > 2)]:
            name = f"joined_{str(dtype)[6:]}_{len(shape) + 1}d{'_channels_last' * channels_last}"
            SCENARIOS[name] = partial(equals_joined, shape, dtype=dtype, channels_last=channels_last)
for activation in (None, *ACTIVATIONS):
    some = partial(equals_joined, dtype=torch.float64, activation=activation)
    SCENARIOS[f"joined_{activation}"] = some
    SCENARIOS[f"joined_{activation}_residual"] = partial(some, residual=True, channels_last=True)
SCENARIOS |= {
    "bfloat16_model": partial(equals_joined, dtype=torch.bfloat16),
    "bfloat16": partial(equals_joined, dtype=torch.bfloat16, parameters=torch.float32),
    "float32_relu_residual": partial(equals_joined, residual=True, activation="relu"),
    "first_is_empty": partial(equals_joined, sizes=(0, 4), residual=True, activation="silu"),
    "second_is_empty": partial(equals_joined, sizes=(4, 0), channels_last=True),
    "one_sample_each": partial(equals_joined, (4,), (1, 1)),
    "one_has_one_sample": partial(equals_joined, (4,), (1, 7)),
    "large": partial(equals_joined, (3, 40, 50), (20, 7), torch.float64),
    "one_channel": partial(equals_joined, (1, 5, 5)),
    "momentum_none": partial(equals_joined, momentum=None),
    "momentum_one": partial(equals_joined, momentum=1.0),
    "no_running_statistics": partial(equals_joined, track_running_stats=False),
    "not_affine": partial(equals_joined, affine=False),
    "torch_float64": partial(equals_joined, dtype=torch.float64, reference=torch.nn.BatchNorm2d),
}


def batch(shape: tuple[int, ...], seed: int) -> Tensor:
    return some_values(shape, torch.float64, seed).requires_grad_()


def penalty(model: torch.nn.Module, x: Tensor, grad: Tensor) -> Tensor:
    (first,) = torch.autograd.grad(model(x), x, grad, create_graph=True)
    return (first**2).sum()


def penalty_equals_joined(sizes: Sequence[int], activation: str | None, depth: int = 1) -> None:
    """Second derivatives are those of the joined batch."""
    follows = {None: torch.nn.Identity, "silu": torch.nn.SiLU}[activation]
    parts = [torch.nn.Sequential(torch.nn.BatchNorm2d(3).double(), follows()) for _ in range(depth)]
    joined = torch.nn.Sequential(*parts)
    with torch.no_grad():
        for i, parameter in enumerate(joined.parameters()):
            parameter.copy_(some_values(3, torch.float64, i))
    norms = [nn.SyncBatchNorm(3, dtype=torch.float64, activation=activation) for _ in range(depth)]
    ours = torch.nn.Sequential(*norms)
    for mine, theirs in zip(ours.parameters(), joined.parameters(), strict=True):
        mine.data = theirs.data.clone()
    x, grad = batch((sum(sizes), 3, 2, 2), 11), batch((sum(sizes), 3, 2, 2), 12)
    own_x, own_grad = share(x, sizes), share(grad, sizes)
    value, expected = penalty(ours, own_x, own_grad), penalty(joined, x, grad)
    assert_close(total(value), expected)
    value.backward()
    expected.backward()
    assert_close(own_x.grad, share(x.grad, sizes))
    assert_close(own_grad.grad, share(grad.grad, sizes))
    for mine, theirs in zip(ours.parameters(), joined.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            assert_close(total(mine.grad), theirs.grad)


SCENARIOS |= {
    "penalty": partial(penalty_equals_joined, (3, 2), None),
    "penalty_silu": partial(penalty_equals_joined, (3, 2), "silu"),
    "penalty_first_is_empty": partial(penalty_equals_joined, (0, 4), None),
    "penalty_through_two": partial(penalty_equals_joined, (3, 2), "silu", 2),
}
