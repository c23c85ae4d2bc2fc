"""Runs a step: gathers and checks everything, takes norms, then writes everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _runtime
from .._processes import any_others
from ._chosen import Some, chosen_groups, own_grads, with_grad
from ._declared import Declared
from ._monitored import MONITORED, REMOVED, Tables, monitor_of, refuse_parts
from ._norms import norm_across_processes
from ._program import LR, Number, trace
from ._sharded import refuse_flattened, refuse_zero
from ._shared import keep, refuse_process_parts, refuse_shard, share
from ._slow_path import SlowPath
from ._storage import is_used, storage_of, with_average
from ._update import IDENTITY_PROLOGUE, Group, Instead, Subject, Update

_NOT_CAPTURABLE = (
    "fastopt.{}: a CUDA graph would repeat this step with the same step count; set capturable=True, which keeps the "
    "count on the device (where the optimizer has that option)"
)


class _Sharded(NamedTuple):
    """A parameter of which this process has a part, and whose update needs sums over the whole."""

    subject: Subject
    given: tuple[Any, ...]  # arguments of the engine's ``add_group``
    learning_rate: Tensor | None  # on a device that computes the scalars


def _is_on_device(value: Any) -> bool:
    return isinstance(value, Tensor) and _runtime.on_device(value)


def _as_number(learning_rate: Tensor) -> Tensor:
    """In a type that kernels read. The device converts it, also in a CUDA graph."""
    known = learning_rate.dtype in (torch.float32, torch.float64)
    return learning_rate if known else learning_rate.detach().to(torch.float64)


def loss_scale_of(optimizer: Declared, engine_step: Any) -> float | None:
    """Returns what gradients are divided by, as GradScaler's contract says. With an inf among them it returns None, and
    the step does nothing.

    Where the device keeps the counters, the CPU does not wait for it: the engine gets GradScaler's tensors.
    """
    if "found_inf" not in optimizer.__dict__ and "grad_scale" not in optimizer.__dict__:
        return 1.0
    found_inf, grad_scale = getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None)
    if all(optimizer._option(group, "capturable") for group in optimizer.param_groups):
        engine_step.depend_on(grad_scale, found_inf)
        return 1.0
    if found_inf is not None and found_inf.item() != 0:
        return None
    return 1.0 if grad_scale is None else float(grad_scale)


def run(optimizer: Declared, engine_step: Any, loss_scale: float, some: Some | None = None) -> None:
    """Updates the parameters of all groups, or some of them. Then what the optimizer counts by itself stays.

    Args:
        optimizer: the optimizer whose step it is.
        engine_step: an empty step of the engine, or one that has been told what the step depends on.
        loss_scale: the number by which gradients are divided first.
        some: the only parameters to update.
    """
    monitor = monitor_of(optimizer) if some is None else None
    tables = None if monitor is None else monitor.tables_of_step()
    try:
        shared = share(optimizer, engine_step) if optimizer._shared else None
        numbers = shared[1] if shared else {}
        slow_path, sharded, clips = _gather(optimizer, engine_step, loss_scale, tables, numbers, some)
    except (TypeError, ValueError):
        for group in optimizer.param_groups:  # groups may have been edited: names the option that is no number
            optimizer._check_group(group)
        raise
    norm_of_parts = None
    if clips:
        refuse_zero("max_grad_norm", "set gradient_clipping in its configuration")
    if clips and (slow_path is not None or any_others()):
        optimizer._refuse_partition()
        clipped = optimizer._clipped() if some is None else some.params(optimizer)
        refuse_flattened(clipped, "max_grad_norm")
        norm_of_parts = norm_across_processes(clipped)

    check_overlap(optimizer, engine_step)
    threads = torch.get_num_threads() if some is None else some.threads(optimizer)
    norm: Any = None
    if clips:
        if norm_of_parts is None:
            norm = optimizer._take_norm(lambda: engine_step.norm("squares", 2.0, loss_scale, threads))
        else:
            norm = norm_of_parts.take(getattr(optimizer, "grad_scale", None))
        norm = norm if some is None else some.norm(norm)
        if some is None:
            optimizer._grad_norm = norm
    elif some is None:
        optimizer.__dict__.pop("_grad_norm", None)
    write(engine_step, slow_path, norm, threads, optimizer._course())
    for part in sharded:  # one at a time, so that the next whole parameter can use the memory of the last
        assert slow_path is not None
        subject = part.subject.alone()
        if optimizer._option(subject.group, "capturable"):
            loss_scale_of(optimizer, engine_step)  # tells the engine again, which forgets it after a run
        engine_step.add_group(
            subject.update, *part.given, [subject.owner], optimizer.state, part.learning_rate, subject.storage
        )
        with torch.no_grad():
            slow_path.add_whole(subject)
        check_overlap(optimizer, engine_step)
        write(engine_step, slow_path, norm, threads)
    if some is None:
        optimizer._advance()
    if shared is not None:
        keep(optimizer, shared[0])
    if monitor is not None:
        monitor.end_of_step(tables)


def _gather(
    optimizer: Declared,
    engine_step: Any,
    loss_scale: float,
    tables: Tables | None,
    shared: dict[str, Number],
    some: Some | None,
) -> tuple[SlowPath | None, list[_Sharded], bool]:
    """Gathers all groups. Returns the slow path, if there is one, the parameters that are left for later, and whether a
    group clips by a norm. ``tables`` get the monitor's statistics, if the step leaves any. ``shared`` are the numbers
    that take the place of each group's own."""
    grads = own_grads(optimizer, some)
    slow_path = None
    sharded: list[_Sharded] = []
    clips = False
    for part in chosen_groups(optimizer, some):
        g, group, positions, first_number = part
        optimizer._check_flags(group)
        capturable = bool(optimizer._option(group, "capturable"))
        learning_rate = _as_number(group["lr"]) if capturable and _is_on_device(group["lr"]) else None
        source = group if learning_rate is None else {**group, "lr": LR}
        source = {**source, **shared} if shared else source
        prologue = optimizer._prologue(source, loss_scale)
        max_grad_norm = optimizer._max_norm(group)
        clips |= max_grad_norm is not None
        max_norm = -1.0 if max_grad_norm is None else max_grad_norm
        params = group["params"]
        if not isinstance(params, list):
            params = list(params)
        for bold, scalars, indices in optimizer._parts(source):
            chosen = params if indices is None else [params[i] for i in indices]
            update = _cautious(optimizer, group, bold)
            if update.shares:
                refuse_zero(f"a step of {type(optimizer).__name__}")
                refuse_process_parts(optimizer, chosen)
            if update.sums:
                what = "cautious" if update.masks else f"a step of {type(optimizer).__name__}"
                refuse_zero(what)
                refuse_flattened(chosen, what, "use fully_shard")
            if tables is not None:
                refuse_zero(MONITORED, REMOVED)
                refuse_flattened(chosen, MONITORED, REMOVED)
                engine_step.leave_statistics(tables.of, first_number, indices)
            storage = None
            if optimizer._is_stored and is_used(group):
                numbered = range(len(params)) if indices is None else indices
                update, storage = storage_of(optimizer, group, update, numbered, part.numbers(numbered))
                scalars = with_average(group, scalars)
            given: Any = (prologue, max_norm, scalars)
            if capturable:
                unscale = {**IDENTITY_PROLOGUE, "loss_scale": loss_scale}
                given = (unscale, max_norm, trace(prologue, scalars, update.carried))
            elif (update.counts or update.carried) and _runtime.capturing():
                raise RuntimeError(_NOT_CAPTURABLE.format(type(optimizer).__name__))
            taken = [] if grads else chosen
            rest = engine_step.add_group(update, *given, taken, optimizer.state, learning_rate, storage)
            if rest or grads:
                slow_path = slow_path or SlowPath(optimizer, engine_step, loss_scale)
                with torch.no_grad():
                    fresh = slow_path.add_fresh(rest, chosen, group, update, storage)
                    for i in with_grad(chosen, grads) if grads else fresh:
                        name = optimizer._name_at(g, positions[i if indices is None else indices[i]])
                        own_grad = grads.get(chosen[i])
                        instead = None if own_grad is None else Instead(own_grad, None)
                        subject = Subject(i, chosen[i], name, group, update, storage, instead)
                        if update.shares:
                            refuse_shard(subject)
                        if tables is not None:
                            refuse_parts(subject, optimizer._sparse(group))
                        if not slow_path.add(subject):
                            sharded.append(_Sharded(subject, given, learning_rate))
    if slow_path is not None:
        slow_path.check_views()
    return slow_path, sharded, clips


def _cautious(optimizer: Declared, group: Group, update: Update) -> Update:
    """Returns an update with the group's caution; the mean of a mask needs the whole parameter."""
    if not (group.get("cautious") or group.get("cautious_weight_decay")):
        return update
    masks, decays = optimizer._caution(group)
    return update._replace(sums=update.sums or masks, masks=masks, decays_cautiously=decays)


def check_overlap(optimizer: Declared, engine_step: Any) -> None:
    """Call when everything is gathered: raises an error that names two tensors that share memory."""
    conflict = engine_step.check_overlap_and_bump_versions()
    if conflict is not None:
        one, role, other, other_role = conflict
        names = optimizer._operand(one, role), optimizer._operand(other, other_role)
        raise RuntimeError("{} shares memory with {}".format(*names))


def write(
    engine_step: Any, slow_path: SlowPath | None, norm: Any, threads: int, course: Iterable[list[Tensor]] = ()
) -> None:
    """Updates what is gathered, in an order if there is one. ``norm`` is that of the gradients, if they are clipped."""
    if norm is not None:
        engine_step.clip(norm)
    if slow_path is not None:
        slow_path.commit()
    for params in course:
        engine_step.run_some(params, threads)
    engine_step.run(threads)
    if slow_path is not None:
        slow_path.write_back()
