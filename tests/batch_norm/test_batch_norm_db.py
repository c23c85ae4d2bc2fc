"""torch's own table of module inputs, ``module_db``: the inputs of its batch normalizations, given to ours."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import fastopt
from support import some_values

INFOS = [info for info in module_db if info.module_cls.__name__ in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")]
DTYPES = [torch.float32, torch.float64]


def _name(info: Any) -> str:
    return str(info.module_cls.__name__)


def _inputs(info: Any, function: Any, dtype: torch.dtype, training: bool) -> Iterable[Any]:
    torch.manual_seed(0)
    found = function(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    assert found
    return found


def _rows() -> list[Any]:
    return [
        pytest.param(info, i, id=f"{_name(info)}-{entry.desc or 'plain'}")
        for info in INFOS
        for i, entry in enumerate(_inputs(info, info.module_inputs_func, torch.float32, True))
    ]


def test_the_table_has_them() -> None:
    assert len(INFOS) == 3
    assert len(_rows()) > 15


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("info", "index"), _rows())
def test_inputs(info: Any, index: int, dtype: torch.dtype, training: bool) -> None:
    """Each input is used twice, so that the second batch meets the states that the first one leaves."""
    entry = _inputs(info, info.module_inputs_func, dtype, training)[index]
    built = entry.constructor_input
    ours, theirs = (
        cls(*built.args, **built.kwargs).to(dtype).train(training)
        for cls in (getattr(fastopt.nn, _name(info)), info.module_cls)
    )
    theirs.load_state_dict(
        {k: some_values(t.shape, dtype, 5).abs() for k, t in theirs.state_dict().items() if t.is_floating_point()},
        strict=False,
    )
    ours.load_state_dict(theirs.state_dict())
    for _ in range(2):
        found = []
        for module in (ours, theirs):
            args, kwargs = copy.deepcopy((entry.forward_input.args, entry.forward_input.kwargs))
            module.zero_grad()
            output = module(*args, **kwargs)
            output.backward(some_values(output.shape, dtype, 6))
            grads = {f"gradient of {k}": parameter.grad for k, parameter in module.named_parameters()}
            assert all(argument.grad is not None for argument in args)
            found.append({"output": output, "inputs": [x.grad for x in args]} | grads | module.state_dict())
        torch.testing.assert_close(*found)
        assert output.numel() == 0 or output.any()
        if entry.reference_fn is not None:
            expected = entry.reference_fn(ours, *entry.forward_input.args, **entry.forward_input.kwargs)
            torch.testing.assert_close(found[0]["output"], expected, exact_device=False)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("info", INFOS, ids=_name)
def test_error_inputs(info: Any, training: bool) -> None:
    """Both raise the same errors; some of them in training only. The tables of older torch have none."""
    function = info.module_error_inputs_func
    for error in _inputs(info, function, torch.float32, training) if function else ():
        entry = error.module_error_input
        built, given = entry.constructor_input, entry.forward_input
        outcomes: list[Any] = []
        for cls in (getattr(fastopt.nn, _name(info)), info.module_cls):
            assert error.error_on == ModuleErrorEnum.FORWARD_ERROR
            module = cls(*built.args, **built.kwargs).train(training)
            try:
                outcomes.append(module(*given.args, **given.kwargs).isfinite().all())
            except error.error_type as caught:
                outcomes.append((type(caught), str(caught)))
        assert outcomes[0] == outcomes[1]
        if training:
            assert outcomes[0][0] is error.error_type
            assert re.search(error.error_regex, outcomes[0][1])
