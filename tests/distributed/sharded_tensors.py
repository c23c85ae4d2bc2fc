"""DTensors compared with whole tensors on one process: steps of every optimizer, norms, clipping, errors."""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.testing import assert_close

import fastopt
from optimizer_cases import ROWS
from processes import Scenarios, everyones, refused, work
from support import assert_same_bits, some_values, step_on_some_grads

SCENARIOS = Scenarios()

REFUSED = [fastopt.Prodigy]  # needs sums over all parameters; training.py has its error
SHAPES = [(6, 5), (13,), (3, 4, 2), (1,), (130, 70)]  # of small tensors, some processes have no element


def meshes() -> Iterator[tuple[Any, list[Any]]]:
    """Meshes of all processes, and for each the placements of a tensor on it."""
    size = dist.get_world_size()
    yield init_device_mesh("cpu", (size,)), [Shard(0)]
    yield init_device_mesh("cpu", (size,)), [Replicate()]
    if size == 4:
        yield init_device_mesh("cpu", (2, 2)), [Replicate(), Shard(0)]  # hybrid sharding
        yield init_device_mesh("cpu", (2, 2)), [Shard(0), Shard(0)]


def distributed(whole: list[Tensor], mesh: Any, placements: list[Any]) -> list[Tensor]:
    params = [torch.nn.Parameter(distribute_tensor(p.detach().clone(), mesh, placements)) for p in whole]
    for param, of_whole in zip(params, whole, strict=True):
        if of_whole.grad is not None:
            param.grad = distribute_tensor(of_whole.grad.clone(), mesh, placements)
    return params


def some_params(dtype: torch.dtype = torch.float32, grads: int | None = None) -> list[Tensor]:
    params = [some_values(shape, dtype, seed=i).requires_grad_() for i, shape in enumerate(SHAPES)]
    if grads is not None:
        for i, param in enumerate(params):
            param.grad = some_values(param.shape, dtype, seed=100 * grads + i)
    return params


@SCENARIOS
def steps_have_the_bits_of_one_process() -> None:
    """Every optimizer has the bits of one process, Adafactor included; states are placed like their parameters."""
    rows = [row for row in ROWS if row.ours not in REFUSED]
    makers = [lambda p, row=row: row.ours(p, lr=row.lr, **row.base, **row.plain) for row in rows]
    makers.append(lambda p: fastopt.Lookahead(fastopt.AdamW(p, lr=0.1), k=2))
    makers.append(lambda p: fastopt.AdamW(p, lr=0.1, weight_decay=0.1, l1=1e-2, max_grad_value=0.9))
    makers.append(lambda p: fastopt.AdamW(p, lr=0.1, weight_decay=0.1, cautious=True, cautious_weight_decay=True))
    for make in makers:
        for dtype in (torch.float32, torch.bfloat16):
            for mesh, placements in meshes():
                whole = some_params(dtype)
                parts = distributed(whole, mesh, placements)
                optimizers = make(whole), make(parts)
                before = [p.detach().clone() for p in whole]
                for step in range(1, 4):
                    step_on_some_grads(optimizers[0], whole, step)
                    for part, param in zip(parts, whole, strict=True):
                        part.grad = distribute_tensor(param.grad.clone(), mesh, placements)
                    optimizers[1].step()
                for part, param, old in zip(parts, whole, before, strict=True):
                    assert_same_bits(part.full_tensor().detach(), param.detach())
                    assert not torch.equal(old, param)
                    for key, state in optimizers[0].state[param].items():
                        own = optimizers[1].state[part][key]
                        assert_same_bits(own.full_tensor() if isinstance(own, DTensor) else own, state, key)
                        assert state.shape != param.shape or own.placements == part.placements


@SCENARIOS
def muons_products_are_of_the_whole() -> None:
    """Every process makes the same products; matrices of a shape are one batch in both."""
    shapes = [(6, 5), (130, 70), (3, 4, 2), (130, 70), (1, 3)]
    for dtype, options in ((torch.float32, {}), (torch.bfloat16, {"master": "float32", "nesterov": False})):
        for mesh, placements in meshes():
            whole = [some_values(shape, dtype, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
            parts = distributed(whole, mesh, placements)
            before = [p.detach().clone() for p in whole]
            optimizers = [fastopt.Muon(params, lr=0.5, flatten=True, **options) for params in (whole, parts)]
            for step in range(1, 4):
                step_on_some_grads(optimizers[0], whole, step)
                for part, param in zip(parts, whole, strict=True):
                    part.grad = distribute_tensor(param.grad.clone(), mesh, placements)
                optimizers[1].step()
            for part, param, old in zip(parts, whole, before, strict=True):
                assert_same_bits(part.full_tensor().detach(), param.detach())
                assert not torch.equal(old, param)
                assert set(optimizers[1].state[part]) == set(optimizers[0].state[param])
                for key, state in optimizers[0].state[param].items():
                    assert_same_bits(optimizers[1].state[part][key].full_tensor(), state, key)


@SCENARIOS
def one_parameter_is_whole_at_a_time() -> None:
    """At any time, Adafactor's step has at most one parameter put together, with its gradient and a vector's state."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    params = distributed(some_params(grads=1), mesh, [Shard(0)])
    wholes: list[weakref.ref[Tensor]] = []
    alive = []

    def full_tensor(tensor: DTensor) -> Tensor:
        whole = original(tensor)
        wholes.append(weakref.ref(whole))
        alive.append(sum(ref() is not None for ref in wholes))
        return whole

    original = DTensor.full_tensor
    with mock.patch.object(DTensor, "full_tensor", full_tensor):
        fastopt.Adafactor(params).step()
    assert len(wholes) >= 2 * len(params)
    assert max(alive) == 3


@SCENARIOS
def gradients_of_other_placements() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    terms = [Partial()] * mesh.ndim
    for placement, given in ((Shard(0), Shard(1)), (Replicate(), Partial()), (Shard(0), Replicate())):
        for make in (fastopt.AdamW, fastopt.Adafactor, lambda p: fastopt.SGD(p, lr=0.1, max_grad_norm=1.0)):
            whole = some_values((6, 4), torch.float64, 1).requires_grad_()
            (part,) = distributed([whole], mesh, [placement])
            optimizers = make([whole]), make([part])
            for step in range(3):
                whole.grad = some_values((6, 4), torch.float64, seed=step + 2)
                if given == Partial():
                    own = whole.grad * (dist.get_rank() + 1) / sum(range(1, mesh.size() + 1))
                    part.grad = DTensor.from_local(own, mesh, terms)
                else:
                    part.grad = distribute_tensor(whole.grad.clone(), mesh, [given])
                for optimizer in optimizers:
                    optimizer.step()
            assert_close(part.full_tensor().detach(), whole.detach(), rtol=1e-12, atol=1e-12)


@SCENARIOS
def terms_of_a_plain_parameters_gradient() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    param = torch.zeros(3, requires_grad=True)
    param.grad = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    fastopt.SGD([param], lr=1.0).step()
    assert_same_bits(param.detach(), torch.full((3,), -float(mesh.size())))


@SCENARIOS
def norms_are_of_the_whole() -> None:
    """Norms are those of the whole, with the same bits in all processes; plain tensors in the list count once."""
    for norm_type in (2.0, 1.0, math.inf, -math.inf, 3.0, 0.5, -1.5, 0.0):
        for dtype in (torch.float32, torch.float16, torch.complex64):
            for mesh, placements in meshes():
                whole = [p.grad for p in some_params(dtype, grads=1)]
                whole[1].zero_()
                if norm_type < 0:
                    whole[1].fill_(3)
                parts = [distribute_tensor(t.clone(), mesh, placements) for t in whole]
                for tensors in (parts, [*parts[:2], *whole[2:]], [whole[0], *parts[1:]]):
                    norm = fastopt.get_total_norm(tensors, norm_type)
                    assert type(norm) is Tensor
                    assert_close(norm, fastopt.get_total_norm(whole, norm_type), rtol=1e-6, atol=0)
                    assert len({t.item() for t in everyones(norm)}) == 1
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    terms = DTensor.from_local(torch.full((3,), dist.get_rank() + 1.0), mesh, [Partial()])
    total = sum(range(1, mesh.size() + 1))
    assert_close(fastopt.get_total_norm([terms]), torch.tensor(total * math.sqrt(3)))


@SCENARIOS
def clipping_is_that_of_the_whole() -> None:
    for mesh, placements in meshes():
        for max_norm in (0.5, 1e6):
            whole, parts = some_params(grads=1), distributed(some_params(grads=1), mesh, placements)
            given = [p.grad for p in parts]
            norms = [fastopt.clip_grad_norm_(params, max_norm) for params in (whole, parts)]
            assert_close(*norms)
            for part, param, grad in zip(parts, whole, given, strict=True):
                assert part.grad is grad
                assert_close(part.grad.full_tensor(), param.grad)
        for params in (whole, parts):
            fastopt.clip_grad_value_(params, 0.7)
        for part, param in zip(parts, whole, strict=True):
            assert_close(part.grad.full_tensor(), param.grad)
            assert param.grad.abs().max() <= 0.7


@SCENARIOS
def clipping_inside_the_step() -> None:
    """max_grad_norm equals clip_grad_norm_ before the step, to the bit; groups without the option do not count."""
    for mesh, placements in meshes():
        for make in (fastopt.AdamW, fastopt.SGD, fastopt.Adafactor):
            inside, before = (distributed(some_params(grads=1), mesh, placements) for _ in range(2))
            one = make([{"params": inside[:3], "max_grad_norm": 0.5}, {"params": inside[3:]}], lr=0.1)
            other = make(before, lr=0.1)
            grads = [p.grad.full_tensor() for p in inside]
            norm = fastopt.clip_grad_norm_(before[:3], 0.5)
            for optimizer in (one, other):
                optimizer.step()
            assert_same_bits(one.grad_norm, norm)
            assert_close(norm, fastopt.get_total_norm(grads[:3]))
            for a, b, grad in zip(inside, before, grads, strict=True):
                assert_close(a.full_tensor().detach(), b.full_tensor().detach(), rtol=1e-6, atol=1e-7)
                assert torch.equal(a.grad.full_tensor(), grad)


@SCENARIOS
def some_have_no_gradient() -> None:
    """A process without a gradient takes part in the norm, in the order of the parameters."""
    if dist.get_world_size() == 4:
        mesh = init_device_mesh("cpu", (2, 2))
        ways = [[Shard(0), Replicate()], [Shard(0), Shard(0)], [Shard(0), Replicate()]]
    else:
        mesh = init_device_mesh("cpu", (2,))
        ways = [[Shard(0)], [Replicate()], [Shard(0)]]
    last = mesh.get_local_rank(0)
    for without in ([0], [0, 2], [0, 1, 2]):
        params = [torch.nn.Parameter(distribute_tensor(torch.zeros(8), mesh, way)) for way in ways]
        for i, param in enumerate(params):
            grad = distribute_tensor(torch.full((8,), 10.0**i), mesh, ways[i])
            param.grad = None if last and i in without and not ways[i][0].is_replicate() else grad
        norm = fastopt.clip_grad_norm_(params, math.inf)
        optimizer = fastopt.SGD(params, lr=0.1, max_grad_norm=1.0)
        optimizer.step()
        assert_same_bits(optimizer.grad_norm, norm)
        assert len({t.item() for t in everyones(norm)}) == 1


@SCENARIOS
def a_norm_that_fails_starts_no_states() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    (param,) = distributed(some_params(grads=1)[:1], mesh, [Shard(0)])
    optimizer = fastopt.AdamW([param], max_grad_norm=1.0)
    with mock.patch("fastopt.optim._norms.gathered", side_effect=RuntimeError("connection closed")):
        refused(RuntimeError, "connection closed", optimizer.step)
    assert not optimizer.state


@SCENARIOS
def sparse_gradients_next_to_shards() -> None:
    """The rows of sparse gradients count in the norm, as they do without DTensors."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for make in (fastopt.Adagrad, lambda p, **o: fastopt.SGD(p, momentum=0.9, **o)):
        whole, table = some_params(grads=1)[:1], torch.ones(5, 3).requires_grad_()
        (part,), own = distributed(whole, mesh, [Shard(0)]), torch.ones(5, 3).requires_grad_()
        optimizers = make([*whole, table], lr=0.1, max_grad_norm=0.5), make([part, own], lr=0.1, max_grad_norm=0.5)
        for weight in (table, own):
            torch.nn.functional.embedding(torch.tensor([1, 1, 2]), weight, sparse=True).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        assert_close(optimizers[1].grad_norm, optimizers[0].grad_norm)
        assert_close(own, table)
        assert_close(part.full_tensor(), whole[0])


@SCENARIOS
def loss_scales() -> None:
    """An inf in one process's part stops all. The norm is that of unscaled gradients, which are written back."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    makers = [lambda p: fastopt.AdamW(p, lr=0.1, max_grad_norm=0.5), lambda p: fastopt.Adafactor(p, max_grad_norm=0.5)]
    for make, inf, fused, given in itertools.product(makers, (False, True), (False, True), (Shard(0), Replicate())):
        whole, parts = some_params(grads=1), distributed(some_params(grads=1), mesh, [Shard(0)])
        before = [p.full_tensor().detach().clone() for p in parts]
        for part, param in zip(parts, whole, strict=True):
            param.grad.mul_(1024.0)
            part.grad = distribute_tensor(param.grad.clone(), mesh, [given])
        if inf:
            whole[0].grad[0, 0] = math.inf
            if dist.get_rank() == 0 or given.is_replicate():
                parts[0].grad.to_local()[0, 0] = math.inf
        optimizers = [make(params) for params in (whole, parts)]
        for optimizer in optimizers:
            optimizer.param_groups[0]["fused"] = fused
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            scaler.scale(torch.zeros(()))  # creates its tensors
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == (512.0 if inf else 1024.0)
        for part, param, old in zip(parts, whole, before, strict=True):
            assert torch.equal(part.full_tensor(), old) == inf
            assert_close(part.full_tensor().detach(), param.detach())
            assert_close(part.grad.full_tensor(), param.grad)
        if not inf:
            assert_close(optimizers[1].grad_norm, optimizers[0].grad_norm)


@SCENARIOS
def what_cannot_be_done() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    terms = torch.nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Partial()]))
    terms.grad = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    local = terms.to_local().detach().clone()
    refused(RuntimeError, "terms are not added yet", fastopt.SGD([terms], lr=0.1).step)
    refused(RuntimeError, "terms are not added yet", lambda: fastopt.clip_grad_value_([terms], 0.1))
    assert torch.equal(terms.to_local(), local)
    (part,) = distributed(some_params(grads=1)[:1], mesh, [Shard(0)])
    beside = torch.eye(2).to_sparse()
    refused(RuntimeError, "gradient 1 .* layout torch.sparse", lambda: fastopt.get_total_norm([part.grad, beside]))


@SCENARIOS
def wrong_states_of_a_part() -> None:
    """Wrong states are an error before any communication, and before the first parameter is written."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    first, part = distributed(some_params(grads=1)[:2], mesh, [Shard(0)])
    optimizer = fastopt.Adafactor([first, part])
    optimizer.step()
    before = [copy.deepcopy(param) for param in (first, part)]
    states = copy.deepcopy(optimizer.state_dict()["state"])
    with mock.patch.object(DTensor, "full_tensor", side_effect=AssertionError("communicated")):
        optimizer.state[part]["step"].fill_(-1.0)
        refused(RuntimeError, "'step' of parameter 1 .* not a count", optimizer.step)
        optimizer.state[part]["variance"] = torch.ones(7, 1)
        refused(RuntimeError, "'variance' of parameter 1 .* where .* belongs", optimizer.step)
        optimizer.state[part]["variance"] = 1.0
        refused(TypeError, "'variance' of parameter 1 .* float", optimizer.step)
        del optimizer.state[part]["variance"]
        refused(RuntimeError, "parameter 1 .* has no 'variance'", optimizer.step)
    for param, old in zip((first, part), before, strict=True):
        assert torch.equal(param.full_tensor(), old.full_tensor())
    assert_close(optimizer.state_dict()["state"][0], states[0], rtol=0, atol=0)


if __name__ == "__main__":
    work(SCENARIOS)
