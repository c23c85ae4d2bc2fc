"""Trains a network on the digits of train_digits.py with several processes, each on its share of every batch.

    torchrun --nproc-per-node 2 examples/train_distributed.py [--sharded] [--checkpoint FOLDER] [--epochs 10]

DistributedDataParallel by default: every process has the whole model. ``--sharded``: fully_shard (FSDP2) gives each a
part of every parameter, gradient and optimizer state. The optimizer is the same, and ``max_grad_norm`` is of the norm
of the whole model either way. ``--checkpoint`` saves at the end, and goes on from there at the next start, sharded or
not, with any number of processes. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from train_digits import digits, network

import fastopt


def use_all_cores() -> None:
    """Sets this process's share of the cores; torchrun leaves it one thread."""
    cores = fastopt.info()["detected"]["cores"]
    torch.set_num_threads(max(cores // int(os.environ["LOCAL_WORLD_SIZE"]), 1))


def distributed(model: nn.Module, sharded: bool) -> nn.Module:
    model = fastopt.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not sharded:
        return DistributedDataParallel(model)
    for layer in model:
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    return fully_shard(model)


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, seed: int) -> float:
    """Returns the mean loss of this process. All processes draw the same order, and each takes its part of a batch."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    losses = []
    for batch in order.split(128):
        own = batch.tensor_split(processes)[rank]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[own]), labels[own])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).float().mean().item()
    model.train()
    return right


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state by names of parameters, which does not depend on the number of processes."""
    return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Loads the latest checkpoint, if there is one, and returns its number of epochs."""
    saved = sorted(folder.glob("epoch_*/.metadata"))
    if not saved:
        return 0
    state = state_of(model, optimizer)
    dcp.load(state, checkpoint_id=saved[-1].parent)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return int(saved[-1].parent.name.removeprefix("epoch_"))


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    images, labels, test_images, test_labels = digits()
    model = distributed(nn.Sequential(nn.BatchNorm2d(1), *network()), arguments.sharded)
    optimizer = fastopt.AdamW(model.parameters(), lr=1e-3, max_grad_norm=1.0)
    first = load(arguments.checkpoint, model, optimizer) if arguments.checkpoint is not None else 0

    talks = dist.get_rank() == 0
    if talks:
        how = "fully_shard" if arguments.sharded else "DistributedDataParallel"
        threads = fastopt.info()["in_use"]["threads"]
        print(f"{how}: {dist.get_world_size()} processes with {threads} thread(s) each, from epoch {first}")
    for epoch in range(first, first + arguments.epochs):
        loss = train_epoch(model, optimizer, images, labels, seed=epoch)
        if talks:
            print(f"epoch {epoch + 1:3}: loss {loss:.4f}, norm of the last gradients {optimizer.grad_norm:.3f}")
    accuracy = evaluate(model, test_images, test_labels)
    if arguments.checkpoint is not None:
        state = state_of(model, optimizer)
        dcp.save(state, checkpoint_id=arguments.checkpoint / f"epoch_{first + arguments.epochs:04}")
    if talks:
        print(f"test accuracy {accuracy:.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sharded", action="store_true", help="fully_shard instead of DistributedDataParallel")
    parser.add_argument("--checkpoint", type=Path, help="where to go on from, if it exists, and to save to")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    dist.init_process_group("gloo")
    use_all_cores()
    train(arguments)  # frees its model before the process group: otherwise a DistributedDataParallel can hang at exit
    dist.barrier()  # lets gloo's threads release their tensors: after fully_shard, releasing them at exit would abort
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
