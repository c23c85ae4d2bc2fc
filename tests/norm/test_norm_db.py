"""torch's own table of module inputs, ``module_db``: the inputs of its norms of single samples, given to ours."""

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

NAMES = ["RMSNorm", "LayerNorm", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"]
INFOS = [info for info in module_db if info.module_cls.__name__ in NAMES]
pytestmark = pytest.mark.filterwarnings("ignore:input's size at dim")


def _name(info: Any) -> str:
    return str(info.module_cls.__name__)


def _inputs(info: Any, function: Any, dtype: torch.dtype, training: bool) -> Iterable[Any]:
    torch.manual_seed(0)
    return function(info, device="cpu", dtype=dtype, requires_grad=True, training=training)  # type: ignore[no-any-return]


def _rows() -> list[Any]:
    return [
        pytest.param(info, i, id=f"{_name(info)}-{entry.desc or 'plain'}")
        for info in INFOS
        for i, entry in enumerate(_inputs(info, info.module_inputs_func, torch.float32, True))
    ]


def test_the_table_has_them() -> None:
    assert {_name(info) for info in INFOS} >= set(NAMES) - {"RMSNorm"}  # older tables lack it
    assert len(_rows()) > 20


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("info", "index"), _rows())
def test_inputs(info: Any, index: int, dtype: torch.dtype, training: bool) -> None:
    """Each input is used twice, so that the second batch meets the states that the first one leaves."""
    entry = list(_inputs(info, info.module_inputs_func, dtype, training))[index]
    built = entry.constructor_input
    ours, theirs = (
        cls(*built.args, **built.kwargs).to(dtype).train(training)
        for cls in (getattr(fastopt.nn, _name(info)), info.module_cls)
    )
    values = {k: some_values(t.shape, dtype, 5).abs() for k, t in theirs.state_dict().items() if t.is_floating_point()}
    theirs.load_state_dict(values, strict=False)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(2):
        found = []
        for module in (ours, theirs):
            args, kwargs = copy.deepcopy((entry.forward_input.args, entry.forward_input.kwargs))
            module.zero_grad()
            output = module(*args, **kwargs)
            output.backward(some_values(output.shape, dtype, 6))
            grads = {f"gradient of {k}": parameter.grad for k, parameter in module.named_parameters()}
            found.append({"output": output, "inputs": [x.grad for x in args]} | grads | module.state_dict())
        torch.testing.assert_close(*found)
        if entry.reference_fn is not None:
            given = entry.forward_input
            expected = entry.reference_fn(copy.deepcopy(ours), *given.args, **given.kwargs)
            torch.testing.assert_close(found[0]["output"], expected, rtol=2e-6, atol=1e-5)  # it computes in float32


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("info", INFOS, ids=_name)
def test_error_inputs(info: Any, training: bool) -> None:
    """Both raise the same errors. The tables of older torch have none."""
    function = info.module_error_inputs_func
    for error in _inputs(info, function, torch.float32, training) if function else ():
        entry = error.module_error_input
        built, given = entry.constructor_input, entry.forward_input
        outcomes: list[Any] = []
        for cls in (getattr(fastopt.nn, _name(info)), info.module_cls):
            try:
                module = cls(*built.args, **built.kwargs).train(training)
                assert error.error_on != ModuleErrorEnum.CONSTRUCTION_ERROR
                outcomes.append(module(*given.args, **given.kwargs).isfinite().all())
            except error.error_type as caught:
                outcomes.append((type(caught), str(caught)))
        assert outcomes[0] == outcomes[1]
        if isinstance(outcomes[0], tuple):
            assert re.search(error.error_regex, outcomes[0][1])
