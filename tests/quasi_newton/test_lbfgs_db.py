"""torch's own table of LBFGS's inputs, ``optim_db``: with each input and scheduler, ours agrees with torch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from closures import closure_of, quadratic
from torch.testing._internal.common_optimizers import optim_db

import fastopt
from support import some_values

INFO = next(info for info in optim_db if info.optim_cls is torch.optim.LBFGS)
INPUTS = [pytest.param(entry.kwargs, id=entry.desc.replace(" ", "_")) for entry in INFO.optim_inputs_func(device="cpu")]
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9, torch.complex64: 1e-3, torch.complex128: 1e-9}


@pytest.mark.parametrize("schedulers", [(), *INFO.scheduler_inputs], ids=lambda s: f"{len(s)}_schedulers")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kwargs", INPUTS)
def test_inputs(kwargs: dict[str, Any], dtype: torch.dtype, schedulers: Any) -> None:
    results = []
    for cls in (fastopt.LBFGS, torch.optim.LBFGS):
        real = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
        params = [some_values((*shape, 2), real, i) for i, shape in enumerate([(7, 5), (70,), (), (0,)])]
        params = [torch.complex(p[..., 0], p[..., 1]) if dtype.is_complex else p for p in params]
        params = [p.clone().requires_grad_() for p in params]
        optimizer = cls(params, **{"max_iter": 4, **copy.deepcopy(kwargs)})
        chosen = [make(optimizer) for make in schedulers]
        for _ in range(3):
            optimizer.step(closure_of(params, lambda params=params: quadratic(params)))
            for scheduler in chosen:
                plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                scheduler.step(1.0) if plateau else scheduler.step()
        state = optimizer.state[params[0]]
        results.append((params, [state["func_evals"], state["n_iter"], float(optimizer.param_groups[0]["lr"])]))
    assert results[0][1] == results[1][1]
    for p, q in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(p, q, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
