"""Scenarios that test_sync_batch_norm runs in two processes, in addition to those of sync_joined."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from sync_joined import SCENARIOS, batch, communication, share, total
from torch.testing import assert_close

from fastopt import nn
from processes import refused, work
from support import assert_same_bits, some_values

PROCESSES = 2


def net(norm: Callable[[int], torch.nn.Module]) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        head = [torch.nn.Flatten(), torch.nn.Linear(6 * 16, 2)]
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), norm(6), torch.nn.ReLU(), *head)
    return model.double()


@SCENARIOS
def distributed_data_parallel() -> None:
    joined = net(torch.nn.BatchNorm2d)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(joined))
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    for step in range(2):
        x = batch((8, 3, 6, 6), step)
        parallel.zero_grad()
        joined.zero_grad()
        parallel(share(x, (4, 4))).square().mean().backward()
        joined(x).square().mean().backward()
        for mine, theirs in zip(model.parameters(), joined.parameters(), strict=True):
            assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(model.buffers(), joined.buffers(), strict=True):
        assert_close(mine, theirs)


@SCENARIOS
def subgroups() -> None:
    """In a process group of one it is plain BatchNorm; in a group of both, whatever their order, it is not."""
    groups = [dist.new_group([rank]) for rank in range(PROCESSES)]
    alone, plain = (norm(3, dtype=torch.float64) for norm in (nn.SyncBatchNorm, nn.BatchNorm2d))
    alone.process_group = groups[dist.get_rank()]
    x = batch((2 + dist.get_rank(), 3, 2, 2), dist.get_rank())
    with communication() as seen:
        assert_same_bits(alone(x), plain(x))
    assert not seen
    assert_same_bits(alone.running_var, plain.running_var)
    both = nn.SyncBatchNorm(3, dtype=torch.float64, process_group=dist.new_group([1, 0]))
    whole = batch((5, 3, 2, 2), 7)
    assert_close(both(share(whole, (3, 2))), share(nn.BatchNorm2d(3).double()(whole).detach(), (3, 2)))
    both(share(whole, (3, 2))).sum().backward()


@SCENARIOS
def not_a_member() -> None:
    """As in torch, a process outside the group normalizes its own batch."""
    first = dist.new_group([0])
    module = nn.SyncBatchNorm(3, dtype=torch.float64, process_group=first)
    assert_same_bits(module(batch((4, 3), 1)), nn.BatchNorm1d(3).double()(batch((4, 3), 1)))


@SCENARIOS
def no_process_has_a_sample() -> None:
    module = nn.SyncBatchNorm(3)
    x = torch.zeros(0, 3, 2, 2, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    assert torch.equal(module.running_mean, torch.zeros(3))
    assert torch.equal(module.running_var, torch.ones(3))
    assert torch.equal(module.weight.grad, torch.zeros(3))


@SCENARIOS
def a_single_value_in_all() -> None:
    """Both processes raise the error, write nothing, and do not wait for each other."""
    module = nn.SyncBatchNorm(3)
    x = torch.ones(1 - dist.get_rank(), 3)
    refused(ValueError, "Expected more than 1 value per channel", lambda: module(x))
    assert torch.equal(module.running_mean, torch.zeros(3))


@SCENARIOS
def errors_and_writes() -> None:
    """Wrong arguments are errors in all processes before any communication; versions of running statistics change."""
    x = some_values((4, 3), torch.float32, dist.get_rank())
    for error, module, text in (
        (RuntimeError, nn.SyncBatchNorm(5), "running_mean should contain 3 elements not 5"),
        (ValueError, nn.SyncBatchNorm(3, eps=0.0), "eps must be positive"),
    ):
        refused(error, text, partial(module, x))
    module = nn.SyncBatchNorm(3)
    before = [module.running_mean._version, module.running_var._version]
    module(x)
    assert module.running_mean._version > before[0]
    assert module.running_var._version > before[1]


@SCENARIOS
def frozen_inputs_and_parameters() -> None:
    """Without a gradient of the input there is no communication backward."""
    module, x = nn.SyncBatchNorm(3), some_values((4, 3), torch.float32, dist.get_rank())
    y = module(x)
    with communication() as seen:
        y.sum().backward()
    assert not seen
    assert_close(module.bias.grad, torch.full((3,), 4.0))
    module.requires_grad_(False)
    y = module(x.requires_grad_())
    with communication() as seen:
        y.square().sum().backward()
    assert seen == {"all_gather": 1}
    assert x.grad.abs().max() > 0
    with torch.no_grad():
        assert not module(x).requires_grad
    with torch.inference_mode():
        module(x)


@SCENARIOS
def other_layouts() -> None:
    """Inputs may be slices or permuted, and gradients may have another layout than the input."""
    whole = batch((6, 4, 5, 8), 1)
    joined, ours = nn.BatchNorm2d(4).double(), nn.SyncBatchNorm(4).double()
    rows = (slice(0, 4), slice(4, 6))[dist.get_rank()]
    for view in (lambda t: t[..., ::2], lambda t: t.permute(0, 1, 3, 2), lambda t: t[:1].flip(3).expand(6, 4, 5, 8)):
        expected, y = joined(view(whole)), ours(view(whole)[rows])
        assert_close(y, expected[rows])
        (of_whole,) = torch.autograd.grad(expected.exp().sum(), whole)
        (of_part,) = torch.autograd.grad(y.exp().sum(), whole)
        assert_close(total(of_part), of_whole)
    x = share(whole, (4, 2))
    ours(x).backward(torch.tensor(2.0, dtype=torch.float64).expand(x.shape))
    assert_close(x.grad, torch.zeros_like(x), atol=1e-12, rtol=0)


@SCENARIOS
def compiled() -> None:
    """In training the graph breaks around the module, which is not traced; in evaluation it does not break."""
    torch._dynamo.reset()
    warnings.simplefilter("ignore")  # torch warns of its own code at graph breaks
    warnings.filterwarnings("error", "Dynamo does not know how to trace the builtin .fastopt")
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net(torch.nn.BatchNorm2d))
    eager = copy.deepcopy(model)
    faster = torch.compile(model, backend="aot_eager")
    x = batch((4, 3, 6, 6), dist.get_rank())
    for _ in range(2):
        assert_close(faster(x), eager(x))
        faster(x).sum().backward()
        eager(x).sum().backward()
    for mine, theirs in zip(model.parameters(), eager.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad)
    model.eval(), eager.eval()
    assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), eager(x))


@SCENARIOS
def checkpointed() -> None:
    from torch.utils.checkpoint import checkpoint

    module, x = nn.SyncBatchNorm(3), some_values((4, 3), torch.float32, dist.get_rank()).requires_grad_()
    (expected,) = torch.autograd.grad(module(x).exp().sum(), x)
    (seen,) = torch.autograd.grad(checkpoint(module, x, use_reentrant=False).exp().sum(), x)
    assert_same_bits(seen, expected)


if __name__ == "__main__":
    work(SCENARIOS)
