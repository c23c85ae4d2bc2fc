"""Networks trained by several processes, each on its share of the batch, compared with one process on the whole: DDP,
FSDP2, ZeRO, and checkpoints that are resumed by other numbers of processes."""

from __future__ import annotations

import copy
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

import fastopt
from optimizer_cases import ROWS
from processes import Scenarios, refused, work

SCENARIOS = Scenarios()
Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]

MAKERS: dict[str, Make] = {
    row.ours.__name__: lambda p, row=row: row.ours(p, lr=row.lr / 10, **row.base, **row.plain, max_grad_norm=0.1)
    for row in ROWS
    if not row.grouped  # needs sums over all parameters, of which a process has parts
}


def lookahead(params: Iterable[Tensor]) -> torch.optim.Optimizer:
    return fastopt.Lookahead(fastopt.AdamW(params, lr=0.01), k=2)


def net() -> nn.Sequential:
    """A network whose widths no number of processes divides."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 5), nn.LayerNorm(5), nn.Linear(5, 1)]
    return nn.Sequential(*layers).double()


def sharded(mesh: DeviceMesh, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
    model = net().to(dtype)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def world() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def batches(steps: Iterable[int], parts: int = 1, part: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 7, dtype=torch.float64, generator=generator)
        yield x.chunk(parts)[part], x.sin().sum(1, keepdim=True).chunk(parts)[part]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def share(steps: Iterable[int]) -> Iterator[tuple[Tensor, Tensor]]:
    return batches(steps, dist.get_world_size(), dist.get_rank())


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def assert_equal_models(model: nn.Module, expected: nn.Module) -> None:
    for (name, param), other, first in zip(
        model.named_parameters(), expected.parameters(), net().parameters(), strict=True
    ):
        assert_close(whole(param), other.detach(), rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        assert not torch.equal(other, first)


def on_one_process(make: Make, steps: Iterable[int]) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net()
    optimizer = make(model.parameters())
    train(model, optimizer, batches(steps))
    return model, optimizer


def every_optimizer(distributed: Callable[[], nn.Module]) -> None:
    """Every optimizer clips by the norm of the whole."""
    for make in (*MAKERS.values(), lookahead):
        expected, optimizer = on_one_process(make, range(4))
        model = distributed()
        own = make(model.parameters())
        train(model, own, share(range(4)))
        assert_equal_models(getattr(model, "module", model), expected)
        assert (own.grad_norm is None) == (make is lookahead)
        if own.grad_norm is not None:
            assert type(own.grad_norm) is Tensor
            assert_close(own.grad_norm, optimizer.grad_norm)
        if hasattr(own, "eval"):  # Schedule-Free
            for one in (own, optimizer):
                one.eval()
            assert_equal_models(getattr(model, "module", model), expected)


@SCENARIOS
def data_parallel() -> None:
    every_optimizer(lambda: DistributedDataParallel(net()))


@SCENARIOS
def fully_sharded() -> None:
    every_optimizer(lambda: sharded(world()))


@SCENARIOS
def stepped_in_backward() -> None:
    """Shards are stepped as soon as their gradients have been added up over the processes."""
    for make in (fastopt.AdamW, lambda p: fastopt.LAMB(p, lr=0.01)):
        expected, _ = on_one_process(make, range(4))
        model = sharded(world())
        optimizer = make(model.parameters())
        fastopt.step_in_backward(model, optimizer)
        train(model, optimizer, share(range(4)))
        assert_equal_models(model, expected)
        assert all(param.grad is None for param in model.parameters())


@SCENARIOS
def synchronized_batch_norm() -> None:
    """A converted model under DDP has the statistics of the joined batch."""
    models = []
    for _ in range(2):
        layers = list(net())
        models.append(nn.Sequential(*layers[:2], nn.BatchNorm1d(13, dtype=torch.float64), *layers[2:]))
    expected, model = models[0], DistributedDataParallel(fastopt.nn.SyncBatchNorm.convert_sync_batchnorm(models[1]))
    train(expected, fastopt.AdamW(expected.parameters(), lr=0.01), batches(range(4)))
    train(model, fastopt.AdamW(model.parameters(), lr=0.01), share(range(4)))
    for mine, theirs in zip(model.module.state_dict().values(), expected.state_dict().values(), strict=True):
        assert_close(mine, theirs)


@SCENARIOS
def hybrid_sharded() -> None:
    if dist.get_world_size() < 4:
        return
    expected, _ = on_one_process(MAKERS["AdamW"], range(4))
    model = sharded(init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards")))
    train(model, MAKERS["AdamW"](model.parameters()), share(range(4)))
    assert_equal_models(model, expected)


@SCENARIOS
def sharded_and_tensor_parallel() -> None:
    """Parameters may be cut along both dimensions of a mesh, one inside the other (``_StridedShard``)."""
    if dist.get_world_size() < 4:
        return
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # torch's own: the two are combined
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    for name in ("AdamW", "SGD", "Adafactor"):
        torch.manual_seed(0)
        expected = nn.Sequential(nn.Linear(7, 14), nn.Tanh(), nn.Linear(14, 1)).double()
        model = copy.deepcopy(expected)
        parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        for module in (model[0], model[2], model):
            fully_shard(module, mesh=mesh["data"])
        optimizers = MAKERS[name](expected.parameters()), MAKERS[name](model.parameters())
        train(expected, optimizers[0], batches(range(3)))
        train(model, optimizers[1], batches(range(3), 2, mesh["data"].get_local_rank()))
        assert_close(optimizers[1].grad_norm, optimizers[0].grad_norm)
        for param, other in zip(model.parameters(), expected.parameters(), strict=True):
            assert_close(whole(param), other.detach(), rtol=1e-9, atol=1e-9)


@SCENARIOS
def zero_redundancy() -> None:
    expected, expected_optimizer = on_one_process(lambda p: fastopt.AdamW(p, lr=0.01), range(4))
    model = DistributedDataParallel(net())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=fastopt.AdamW, lr=0.01)
    assert type(optimizer.optim) is fastopt.AdamW
    train(model, optimizer, share(range(4)))
    assert_equal_models(model.module, expected)
    optimizer.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        saved, wanted = optimizer.state_dict()["state"], expected_optimizer.state_dict()["state"]
        for index, state in wanted.items():
            assert_close(saved[index]["exp_avg_sq"], state["exp_avg_sq"])


@SCENARIOS
def zero_redundancy_does_not_clip() -> None:
    """max_grad_norm is an error in a ZeroRedundancyOptimizer, however it is set. Optimizers outside of it clip."""

    class Own(ZeroRedundancyOptimizer):
        def another(self) -> torch.optim.Optimizer:
            return fastopt.AdamW([torch.ones(2, requires_grad=True)], max_grad_norm=1.0)

    def zero(params: Iterable[Any], **options: Any) -> Own:
        return Own(params, optimizer_class=fastopt.AdamW, lr=0.01, **options)

    says = "each process would take the norm of its own parameters"
    params = list(net().parameters())
    refused(ValueError, says, lambda: zero(params, max_grad_norm=1.0))
    refused(ValueError, says, lambda: zero([{"params": params, "max_grad_norm": 1.0}]))
    optimizer = zero(params[:-2])
    refused(ValueError, says, lambda: optimizer.add_param_group({"params": params[-2:], "max_grad_norm": 1.0}))
    optimizer = zero(params)
    optimizer.param_groups[0]["max_grad_norm"] = 1.0
    for param in params:
        param.grad = torch.ones_like(param)
    before = [p.detach().clone() for p in params]
    refused(ValueError, says, optimizer.step)
    assert all(map(torch.equal, params, before))
    assert optimizer.another().param_groups[0]["max_grad_norm"] == 1.0


@SCENARIOS
def looking_for_zero_redundancy_keeps_nothing() -> None:
    """Looking for the ZeroRedundancyOptimizer among the callers does not keep their objects alive."""

    def calls() -> bool:
        checkpoint = torch.ones(1)
        seen = weakref.ref(checkpoint)
        fastopt.AdamW([torch.ones(2, requires_grad=True)], max_grad_norm=1.0)
        del checkpoint
        return seen() is None

    assert calls()


@SCENARIOS
def older_sharding_has_no_sums() -> None:
    model = FullyShardedDataParallel(net(), use_orig_params=True, device_id=torch.device("cpu"))
    train(model, fastopt.AdamW(model.parameters(), lr=0.01), share(range(1)))
    before = [p.detach().clone() for p in model.parameters()]
    for call in (
        fastopt.AdamW(model.parameters(), lr=0.01, max_grad_norm=1.0).step,
        lambda: fastopt.clip_grad_norm_(model.parameters(), 1.0),
    ):
        refused(RuntimeError, "call clip_grad_norm_ of the FullyShardedDataParallel module", call)
    for make in (fastopt.LAMB, fastopt.LARS, fastopt.StableAdamW, fastopt.Adafactor, fastopt.Prodigy):
        step = make(model.parameters()).step
        refused(RuntimeError, f"a step of {make.__name__}: FullyShardedDataParallel has cut these parameters", step)
    step = fastopt.AdamW(model.parameters(), cautious=True).step
    refused(RuntimeError, "cautious: FullyShardedDataParallel has cut these parameters", step)
    fastopt.AdamW(model.parameters(), lr=0.0, cautious_weight_decay=True).step()
    for options in ({"state_dtype": torch.bfloat16, "rounding_seed": 1}, {"state_dtype": "int8"}):
        step = fastopt.AdamW(model.parameters(), **options).step
        refused(RuntimeError, "FullyShardedDataParallel has cut these parameters", step)
    for param, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(param, old)


@SCENARIOS
def sums_over_all_parameters_are_not_for_parts() -> None:
    """Prodigy's d would be another one in each process."""
    model = sharded(world())
    optimizer: Any = fastopt.Prodigy(model.parameters())
    x, y = next(iter(share(range(1))))
    (model(x) - y).square().mean().backward()
    before = [p.to_local().clone() for p in model.parameters()]  # type: ignore[attr-defined]
    refused(RuntimeError, "is a DTensor that is cut; its update needs sums over all parameters", optimizer.step)
    for param, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(param.to_local(), old)  # type: ignore[attr-defined]
    assert not optimizer.state
    assert optimizer.param_groups[0]["k"] == 0

    whole = net()
    zero = ZeroRedundancyOptimizer(whole.parameters(), optimizer_class=fastopt.Prodigy)
    (whole(x) - y).square().mean().backward()
    refused(RuntimeError, "ZeroRedundancyOptimizer is not for it", zero.step)


@SCENARIOS
def sums_over_all_parameters_are_alike_in_all_processes() -> None:
    model = DistributedDataParallel(net())
    optimizer = fastopt.Prodigy(model.parameters(), d0=1e-2)
    train(model, optimizer, share(range(5)))
    numbers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(numbers, [optimizer.param_groups[0][key] for key in ("d", "d_max", "d_numerator", "k")])
    assert all(each == numbers[0] for each in numbers)
    assert numbers[0][-1] == 5


def built(make: Make, mesh: DeviceMesh | None) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net() if mesh is None else sharded(mesh)
    return model, make(model.parameters())


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}


def go_on(make: Make, size: int, steps: Iterable[int], load: Path | None, save: Path | None) -> nn.Module | None:
    """Trains on the first ``size`` processes, from one checkpoint to another."""
    mesh = DeviceMesh("cpu", list(range(size)))  # all processes have to create it
    if dist.get_rank() >= size:
        return None
    group = mesh.get_group()
    model, optimizer = built(make, mesh if size > 1 else None)
    if load is not None:
        state = state_of(model, optimizer)
        dcp.load(state, checkpoint_id=load, process_group=group)
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
    train(model, optimizer, batches(steps, size, dist.get_rank()))
    if save is not None:
        dcp.save(state_of(model, optimizer), checkpoint_id=save, process_group=group)
    return model


@SCENARIOS
def checkpoints() -> None:
    """A checkpoint of some processes can be resumed by as many, fewer and more, as if training had not stopped."""
    size = dist.get_world_size()
    names = ("SGD", "AdamW", "NAdam", "Adafactor", "Rprop", "ASGD", "ScheduleFreeAdamW")
    makers = {**{name: MAKERS[name] for name in names}, "Lookahead": lookahead}
    for name, make in makers.items():
        expected, _ = on_one_process(make, range(6))
        for saving, loading in sorted({(size, size), (size, size // 2), (size // 2, size), (size, 1), (1, size)}):
            folder = Path(sys.argv[3]) / f"{name}_{saving}_{loading}"
            go_on(make, saving, range(3), None, folder)
            dist.barrier()
            model = go_on(make, loading, range(3, 6), folder, None)
            if model is not None:
                assert_equal_models(model, expected)


@SCENARIOS
def whole_state_dicts() -> None:
    """A whole state dict is gathered on one process and sent from there to all, as for a checkpoint in one file."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True)
    for name in ("AdamW", "Adafactor"):
        expected, optimizer = on_one_process(MAKERS[name], range(3))
        model, own = built(MAKERS[name], world())
        train(model, own, share(range(3)))
        model_state = get_model_state_dict(model, options=options)
        state = get_optimizer_state_dict(model, own, options=options)
        if dist.get_rank() == 0:
            for key, param in expected.named_parameters():
                for entry, value in optimizer.state[param].items():
                    assert_close(state["state"][key][entry], value, rtol=1e-9, atol=1e-9)
        again, fresh = built(MAKERS[name], world())
        set_model_state_dict(again, model_state, options=options)
        set_optimizer_state_dict(again, fresh, state, options=options)
        train(again, fresh, share(range(3, 6)))
        train(expected, optimizer, batches(range(3, 6)))
        assert_equal_models(again, expected)


if __name__ == "__main__":
    work(SCENARIOS)
