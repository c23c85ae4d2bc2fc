"""The hooks of ``fastopt.step_in_backward``: which gradient is complete, which pass is the last, what is stepped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from . import _runtime
from .accumulate_grads import accumulate_grads_
from .optim._chosen import Some
from .optim._fused import FusedOptimizer
from .optim._monitored import monitor_of
from .optim._update import HALF

NO_NORM = (
    "max_grad_norm: the norm of all gradients is known only after backward; use max_grad_value, clip='tensor' (each "
    "gradient by its own norm) or clip='previous' (by the norm of the step before)"
)
_SHARE = 0.05  # of the largest gradient: small ones wait for each other, as a step costs more than their update
MONITORED = "step_in_backward: fastopt.monitor measures whole steps: remove() the monitor"
AVERAGED = (
    "step_in_backward: DistributedDataParallel averages gradients in buckets after they are complete, so parameters "
    "would be stepped with the gradients of one process; use fully_shard"
)


class StepInBackward:
    """What :func:`fastopt.step_in_backward` returns.

    Args:
        model: whose backward passes are counted.
        optimizer: steps the parameters.
        every: one of so many passes steps.
        clip: what takes the place of the norm of all gradients.
        scaler: what has scaled the loss.
    """

    def __init__(
        self, model: nn.Module, optimizer: FusedOptimizer, every: int, clip: str | None, scaler: GradScaler | None
    ) -> None:
        self._optimizer, self._every, self._clip, self._scaler = optimizer, every, clip, scaler
        self._engine_step: Any = _runtime.kernels.Step()
        self._passes = 0  # backward passes since the last step
        self._task: int | None = None  # of autograd's, of the backward pass that is under way
        self._by_output = False  # whether a gradient of an output has begun it
        self._done: set[Tensor] = set()  # parameters that the pass has stepped
        self._waiting: dict[Tensor, None] = {}  # small ones, to be stepped together
        self._waiting_bytes = 0
        self._sums: dict[Tensor, Tensor] = {}  # float32 gradients of half parameters
        self._squares: Any = 0.0  # of the gradients of the pass
        self._previous_norm: Any = 0.0
        self._found_inf = False
        self._steps = 0  # since the loop's last optimizer.step()
        own = {id(param) for param in model.parameters()}
        self._places = {
            param: (g, i)
            for g, group in enumerate(optimizer.param_groups)
            for i, param in enumerate(group["params"])
            if param.requires_grad and id(param) in own
        }
        largest = max((param.nbytes for param in self._places), default=0)
        self._room = 0 if clip == "tensor" else _SHARE * largest  # that tensor's norm has to be its own
        self._hooks = [model.register_forward_hook(self._watch_outputs)]
        self._hooks += [p.register_post_accumulate_grad_hook(self._gradient_is_complete) for p in self._places]
        optimizer.__dict__["_run"] = self._step_what_waits

    def remove(self) -> None:
        """Ends it: from the next backward pass on gradients stay in ``param.grad``, and ``optimizer.step()`` steps.

        Gradients that wait for more backward passes (``every``) are lost where they are float32 sums of half types.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._sums.clear()
        self._optimizer.__dict__.pop("_run", None)

    def _watch_outputs(self, module: nn.Module, args: Any, output: Any) -> None:
        """Gradients of outputs come at the begin of a backward pass, never in one that a checkpoint nests in it."""
        if getattr(DistributedDataParallel, "_active_ddp_module", None) is not None:
            raise RuntimeError(AVERAGED)  # it was put around the model later, by a trainer
        if torch._C._current_graph_task_id() == -1:
            self._task = None  # no pass is under way: one that is still there has failed, and does not count
        for tensor in torch.utils._pytree.tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda _: self._begin(by_output=True))  # type: ignore[no-untyped-call]

    def _begin(self, *, by_output: bool) -> None:
        """Begins a backward pass, unless it has begun; with a parameter's gradient, where no output has one."""
        task = torch._C._current_graph_task_id()
        if self._task == task or (self._task is not None and self._by_output and not by_output):
            return
        if monitor_of(self._optimizer) is not None:
            raise RuntimeError(MONITORED)
        self._task, self._by_output = task, by_output
        self._done.clear()
        self._forget_waiting()
        self._squares = 0.0
        torch.autograd.Variable._execution_engine.queue_callback(self._end)

    @property
    def _is_last(self) -> bool:
        return self._passes + 1 == self._every

    @torch.no_grad()
    def _gradient_is_complete(self, param: Tensor) -> None:
        self._begin(by_output=False)
        if param in self._done or param in self._waiting:
            raise RuntimeError(
                f"step_in_backward: {self._optimizer._name(param)} got another gradient in the backward pass that has "
                "stepped it: checkpoints that share it need use_reentrant=False"
            )
        if param.grad is None:
            name = self._optimizer._name(param)
            raise RuntimeError(f"step_in_backward: another hook, such as offload's, has taken the gradient of {name}")
        nbytes = param.grad.nbytes
        if param.grad.requires_grad:
            name = self._optimizer._name(param)
            raise RuntimeError(
                f"step_in_backward: the gradient of {name} has a graph; create_graph=True cannot be stepped"
            )
        if param.dtype in HALF and self._every > 1:
            self._add(param)
        if not self._is_last:
            return
        self._waiting[param] = None
        self._waiting_bytes += nbytes
        if self._waiting_bytes > self._room:
            self._step(self._waiting)

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _add(self, param: Tensor) -> None:
        known, grad = self._sums.get(param), param.grad
        assert grad is not None
        if known is None:
            self._sums[param] = grad.float()
        else:
            accumulate_grads_(known, grad)
        param.grad = None

    def _step(self, params: Iterable[Tensor]) -> None:
        """Steps the parameters that have a gradient."""
        ready = [param for param in params if param.grad is not None or param in self._sums]
        scaled = self._scaler is not None and self._scaler.is_enabled()
        places: dict[int, list[int]] = {}
        for param in ready:
            self._check_place(param)
            if scaled and not _all_finite(self._grad(param)):
                self._found_inf = True
                continue
            g, position = self._places[param]
            places.setdefault(g, []).append(position)
        sums = {param: self._sums[param] for param in ready if param in self._sums}
        if places:
            some = Some({g: sorted(places[g]) for g in sorted(places)}, sums, self._norm_to_clip_by)
            self._update(some, self._scaler.get_scale() if self._scaler is not None else 1.0)  # 1 if it is not enabled
        for param in ready:
            param.grad = None
            self._sums.pop(param, None)
            self._done.add(param)
        self._forget_waiting()

    def _grad(self, param: Tensor) -> Tensor:
        grad = self._sums.get(param, param.grad)
        assert grad is not None
        return grad

    def _check_place(self, param: Tensor) -> None:
        g, i = self._places[param]
        params = self._optimizer.param_groups[g]["params"]
        if i >= len(params) or params[i] is not param:
            raise RuntimeError(
                f"step_in_backward: parameter {i} of group {g} (shape {tuple(param.shape)}) is no longer in its group, "
                "where an engine such as DeepSpeed puts tensors of its own"
            )

    def _update(self, some: Some, scale: float) -> None:
        try:
            type(self._optimizer)._run(self._optimizer, self._engine_step, scale, some)
        except BaseException:
            self._engine_step.clear()
            raise

    def _norm_to_clip_by(self, norm: Any) -> Any:
        if self._clip is None:  # a group has been edited
            raise ValueError(NO_NORM)
        if self._clip == "tensor":
            return norm
        self._squares = self._squares + norm * norm
        return self._previous_norm

    @torch.no_grad()
    def _end(self) -> None:
        """Ends a backward pass. Parameters of earlier passes that this one has not reached are stepped now."""
        self._task = None
        if not self._is_last:
            self._passes += 1
            return
        self._step_the_rest()

    def _step_the_rest(self) -> None:
        rest = [param for param in self._places if param not in self._done]
        for part in [[param] for param in rest] if self._clip == "tensor" else [rest]:
            self._step(part)
        self._passes = 0
        self._done.clear()
        optimizer = self._optimizer
        self._steps += 1
        optimizer._advance()
        optimizer._opt_called = True  # type: ignore[attr-defined]  # what torch's schedulers ask for
        if self._clip == "previous":
            self._previous_norm = optimizer._grad_norm = self._squares**0.5
        if self._scaler is not None and self._scaler.is_enabled():
            self._tell(self._scaler)

    def _step_what_waits(self, engine_step: Any, loss_scale: float, some: Some | None = None) -> None:
        """Is what ``optimizer.step()`` runs. Gradients wait where an epoch ends before ``every`` passes.

        ``torch.distributed.checkpoint`` makes gradients by itself, for a step that makes states.
        """
        steps, self._steps = self._steps, 0
        if steps > 1:
            raise RuntimeError(
                f"step_in_backward: {steps} steps in backward since the last optimizer.step(): every={self._every} has "
                "to be the number of backward passes that the loop accumulates"
            )
        if self._sums or any(param.grad is not None for param in self._places):
            self._done.clear()
            self._squares = 0.0
            self._step_the_rest()
            self._steps = 0

    def _tell(self, scaler: GradScaler) -> None:
        """Leaves the verdict where ``scaler.update()`` looks for it."""
        device = next(iter(self._places)).device
        found = torch.full((), float(self._found_inf), device=device)
        scaler._per_optimizer_states[id(self._optimizer)]["found_inf_per_device"] = {device: found}
        self._found_inf = False


def _all_finite(grad: Tensor) -> bool:
    values = grad._values() if grad.is_sparse else grad
    return math.isfinite(float(values.sum())) or bool(values.isfinite().all())
