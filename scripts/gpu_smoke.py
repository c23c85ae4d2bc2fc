"""Runs every CUDA kernel once, on small tensors: compute-sanitizer watches it in gpu_check.sh.

    python scripts/gpu_smoke.py [FAMILY ...]

Results must be the CPU's, to the bit.
"""

from __future__ import annotations

import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import fastopt
import fastopt.nn.functional as F
from batch_norm_cases import ACTIVATIONS
from caution_cases import CASES as CAUTIOUS
from dropout_cases import FAMILY
from fastopt import _runtime
from optimizer_cases import ALL_CASES, PLAIN_CASES, Case
from precision_cases import OPTIONS, run_kinds
from support import DTYPES, some_values

Results = Iterator[tuple[str, list[Tensor]]]
SHAPES = [(33,), (9000,), (70, 130)]  # a tail, several blocks, a matrix


def _params(device: torch.device) -> list[Tensor]:
    """Parameters of every type and shape, aligned and not."""
    params = []
    for i, (dtype, shape, offset) in enumerate(product(DTYPES, SHAPES, (0, 1))):
        values = some_values(shape, dtype, seed=i)
        memory = torch.empty(values.numel() + offset, dtype=dtype, device=device)
        params.append(memory[offset:].view(shape).copy_(values).requires_grad_())
    return params


def _step(optimizer: torch.optim.Optimizer, params: list[Tensor], seed: int) -> None:
    for i, param in enumerate(params):
        param.grad = some_values(param.shape, param.dtype, seed + i).to(param.device)
    optimizer.step()


def _updated(device: torch.device, make: Callable[..., torch.optim.Optimizer], **options: Any) -> list[Tensor]:
    params = _params(device)
    _step(make(params, **options), params, seed=100)
    return params


def _rules(device: torch.device, cases: Iterable[Case]) -> Results:
    """Each rule, with states of the parameter's type and with float32 states."""
    seen = set()
    for case in cases:
        if not case.row.factored:
            optimizer = case.make([torch.zeros(1, requires_grad=True)])
            rule = optimizer._update(optimizer.param_groups[0]).rule
            if rule not in seen:
                for dtype in (None, torch.float32):
                    yield f"{rule}, states {dtype}", _updated(device, case.make, state_dtype=dtype, max_grad_norm=1e3)
            seen.add(rule)


def rules(device: torch.device) -> Results:
    yield from _rules(device, (case for case in ALL_CASES if not (case.row.scaled or case.row.grouped)))
    yield "lookahead", _updated(device, lambda params: fastopt.Lookahead(fastopt.SGD(params, lr=0.1), k=1))


def scaled_rules(device: torch.device) -> Results:
    """Those with sums over a tensor or over all of them."""
    yield from _rules(device, (case for case in ALL_CASES if case.row.scaled or case.row.grouped))


def cautious(device: torch.device) -> Results:
    """The mask, the decay, and both."""
    for case in CAUTIOUS:
        if case.ours in (fastopt.SGD, fastopt.AdamW):
            yield case.id, _updated(device, case.make)


def precision(device: torch.device) -> Results:
    """Every way to keep parameters and states, with each kind of kernel."""
    for case, (option, options) in product(PLAIN_CASES, OPTIONS.items()):
        if case.ours in (fastopt.AdamW, fastopt.LAMB, fastopt.Adafactor):
            _, params, copies = run_kinds(case, options, [], device)
            yield f"{case.id} {option}", [*params, *copies]


def factored_rules(device: torch.device) -> Results:
    for case in PLAIN_CASES:
        if case.row.factored:
            yield case.id, _updated(device, case.make)


def statistics(device: torch.device) -> Results:
    """What a monitor reads, of a rule of each kind; and what it measures stays as it is."""
    for case in PLAIN_CASES:
        if case.ours in (fastopt.AdamW, fastopt.LAMB, fastopt.Adafactor):
            params = _params(device)
            monitor = fastopt.monitor(optimizer := case.make(params))
            _step(optimizer, params, seed=100)
            found = [torch.tensor(one[1:], dtype=torch.float64) for one in monitor.latest]
            yield f"monitored {case.id}", [*params, *found]


def norms(device: torch.device) -> Results:
    """Each kind of sum, and gradients that are scaled by it afterwards."""
    for norm_type in (2.0, 1.0, 0.0, 3.0, math.inf, -math.inf):
        params = _params(device)
        for param in params:
            param.grad = param.detach().clone()
        norm = fastopt.clip_grad_norm_(params, 1.0, norm_type)
        yield f"norm {norm_type}", [norm, *(param.grad for param in params)]


def counters(device: torch.device) -> Results:
    """Optimizers that count on the device, with GradScaler's verdict there; its ``pow`` may differ from the CPU's."""
    for case in PLAIN_CASES:
        if "capturable" in inspect.signature(case.ours).parameters:
            params = _params(device)
            optimizer = case.make(params, max_grad_norm=1.0, capturable=_runtime.on_device(params[0]))
            for found_inf in (0.0, 1.0):
                optimizer.grad_scale = torch.tensor(4.0, device=device)
                optimizer.found_inf = torch.tensor(found_inf, device=device)
                _step(optimizer, params, seed=100)
            yield f"counted {case.id}", [optimizer.state[param]["step"] for param in params]


def _with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves)
    grad = some_values(y.shape, y.dtype, seed=99).to(y.device)
    return [y, *torch.autograd.grad(y, leaves, grad)]


def dropouts(device: torch.device) -> Results:
    for family, dtype in product(FAMILY, DTYPES):
        inputs = [tensor.to(device) for tensor in family.inputs(dtype)]
        yield f"{family} {dtype}", _with_gradients(family, inputs)
        if not family.bias:
            turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in inputs]
            yield f"{family} {dtype}, turned", _with_gradients(family, turned)


def _batch_norm(
    device: torch.device,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: torch.memory_format = torch.contiguous_format,
    activation: str | None = "relu",
    training: bool = True,
) -> list[Tensor]:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, residual = (some_values(shape, dtype, seed).to(device) for seed in (1, 2))
    weight, bias, mean, var = (some_values(shape[1], wide, seed).to(device) for seed in (3, 4, 5, 6))
    var.abs_()

    def function(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, mean, var, weight, bias, training, residual=residual, activation=activation)

    results = _with_gradients(function, [x.contiguous(memory_format=layout), residual, weight, bias])
    return [*results, mean, var]


def batch_norms(device: torch.device) -> Results:
    """Columns, and planes of short and long segments, each in training and in evaluation; every activation."""
    layouts = [torch.contiguous_format, torch.channels_last]
    for dtype, training in product(DTYPES, (True, False)):
        for shape in ((40, 33), (300, 3), (5, 7, 9), (2, 3, 1040)):
            yield f"{shape} {dtype} {training}", _batch_norm(device, shape, dtype, training=training)
        for shape, layout in product(((3, 5, 7, 7), (2, 3, 40, 40)), layouts):
            yield f"{shape} {layout} {dtype} {training}", _batch_norm(device, shape, dtype, layout, training=training)
    for activation, shape in product(ACTIVATIONS, ((40, 33), (2, 3, 7, 7))):
        yield f"{shape} {activation}", _batch_norm(device, shape, torch.float32, activation=activation)


KINDS = (rules, scaled_rules, factored_rules, statistics, cautious, precision, norms, counters, dropouts, batch_norms)
FAMILIES = {f.__name__: f for f in KINDS}


def differences(ours: list[tuple[str, list[Tensor]]], expected: list[tuple[str, list[Tensor]]]) -> list[str]:
    """The names of results that differ."""
    return [
        name
        for (name, some), (_, others) in zip(ours, expected, strict=True)
        if not all(torch.equal(a.detach().cpu(), b.detach()) for a, b in zip(some, others, strict=True))
    ]


def main(names: list[str]) -> int:
    """Returns the exit status."""
    if not torch.cuda.is_available() or not fastopt.info()["built"]["cuda"]:
        print("gpu_smoke: needs a GPU that torch finds, and a build of fastopt with CUDA", file=sys.stderr)
        return 2
    status = 0
    for name in names or FAMILIES:
        try:
            ours = list(FAMILIES[name](torch.device("cuda")))
            torch.cuda.synchronize()
            different = differences(ours, list(FAMILIES[name](torch.device("cpu"))))
        except Exception:  # the other families are worth running
            traceback.print_exc()
            different = ["an error"]
        print(f"{name}: {'; '.join(different) if different else f'{len(ours)} results equal the CPU'}", flush=True)
        status |= bool(different)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
