"""How a step goes: all is gathered and checked, then norms, then everything is written."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _runtime
from .._processes import any_others
from ._declared import Declared
from ._norms import norm_across_processes
from ._prepare import Preparation
from ._program import LR, trace
from ._sharded import refuse_flattened
from ._update import OFF, Subject

_NOT_CAPTURABLE = (
    "fastopt.{}: a CUDA graph would repeat this step with the same step count; set capturable=True, which keeps the "
    "count on the device (where the optimizer has that option)"
)


class _Cut(NamedTuple):
    """A parameter of which this process has a part, and whose update needs sums over the whole."""

    subject: Subject
    given: tuple[Any, ...]  # to the batch
    learning_rate: Tensor | None  # on a device that computes the scalars


def _is_on_device(value: Any) -> bool:
    return isinstance(value, Tensor) and _runtime.on_device(value)


def run(optimizer: Declared, batch: Any, loss_scale: float) -> None:
    """Updates the parameters of all groups.

    Args:
        optimizer: whose step it is.
        batch: an empty batch of the engine, or one that has been told what the step depends on.
        loss_scale: what gradients are divided by first.
    """
    try:
        preparation, cut, clips = _gather(optimizer, batch, loss_scale)
    except (TypeError, ValueError):
        for group in optimizer.param_groups:  # which may have been edited: says which option is no number
            optimizer._check_group(group)
        raise
    norm_of_parts = None
    if clips and (preparation is not None or any_others()):
        optimizer._refuse_partition()
        clipped = optimizer._clipped()
        refuse_flattened(clipped, "max_grad_norm")
        norm_of_parts = norm_across_processes(clipped)

    _settle(optimizer, batch)
    threads = torch.get_num_threads()
    norm: Any = None
    if clips:
        if norm_of_parts is None:
            norm = batch.norm("squares", 2.0, loss_scale, threads)
        else:
            norm = norm_of_parts.take(getattr(optimizer, "grad_scale", None))
        optimizer._grad_norm = norm
    else:
        optimizer.__dict__.pop("_grad_norm", None)
    _write(batch, preparation, norm, threads)
    for one in cut:  # one at a time: the memory of a parameter that was put together is free for the next
        assert preparation is not None
        subject = one.subject._replace(position=0)
        if optimizer._option(subject.group, "capturable"):
            optimizer._loss_scale(batch)  # tells the batch, which has forgotten it after its run
        batch.take(subject.update, *one.given, [subject.owner], optimizer.state, one.learning_rate)
        with torch.no_grad():
            preparation.add_whole(subject)
        _settle(optimizer, batch)
        _write(batch, preparation, norm, threads)


def _gather(optimizer: Declared, batch: Any, loss_scale: float) -> tuple[Preparation | None, list[_Cut], bool]:
    """What the batch does not take as it is, what is left for later, and whether a group clips by a norm."""
    preparation = None
    cut: list[_Cut] = []
    clips = False
    for g, group in enumerate(optimizer.param_groups):
        optimizer._check_flags(group)
        capturable = bool(optimizer._option(group, "capturable"))
        learning_rate = group["lr"] if capturable and _is_on_device(group["lr"]) else None
        source = group if learning_rate is None else {**group, "lr": LR}
        prologue = optimizer._prologue(source, loss_scale)
        max_grad_norm = optimizer._max_norm(group)
        clips |= max_grad_norm is not None
        max_norm = -1.0 if max_grad_norm is None else max_grad_norm
        params = group["params"]
        if not isinstance(params, list):
            params = list(params)
        for update, scalars, indices in optimizer._parts(source):
            chosen = params if indices is None else [params[i] for i in indices]
            given: Any = (prologue, max_norm, scalars)
            if capturable:
                given = ({**OFF, "loss_scale": loss_scale}, max_norm, trace(prologue, scalars, update.carried))
            elif (update.counts or update.carried) and _runtime.capturing():
                raise RuntimeError(_NOT_CAPTURABLE.format(type(optimizer).__name__))
            rest = batch.take(update, *given, chosen, optimizer.state, learning_rate)
            if rest:
                preparation = preparation or Preparation(optimizer, batch, loss_scale)
                with torch.no_grad():
                    for i in preparation.add_fresh(rest, chosen, group, update):
                        name = optimizer._name_at(g, i if indices is None else indices[i])
                        subject = Subject(i, chosen[i], name, group, update)
                        if not preparation.add(subject):
                            cut.append(_Cut(subject, given, learning_rate))
    if preparation is not None:
        preparation.check_views()
    return preparation, cut, clips


def _settle(optimizer: Declared, batch: Any) -> None:
    conflict = batch.settle()
    if conflict is not None:
        one, role, other, other_role = conflict
        names = optimizer._operand(one, role), optimizer._operand(other, other_role)
        raise RuntimeError("{} shares memory with {}".format(*names))


def _write(batch: Any, preparation: Preparation | None, norm: Any, threads: int) -> None:
    if norm is not None:
        batch.clip(norm)
    if preparation is not None:
        preparation.commit()
    batch.run(threads)
    if preparation is not None:
        preparation.write_back()
