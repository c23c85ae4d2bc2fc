"""Odd states, options and memory: the error names what is wrong, and nothing is written."""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
import fastopt.nn.functional as F
import support
from fastopt.optim import CommonOptions
from optimizer_cases import PLAIN_CASES, ROWS, Case, Row, ids
from support import assert_same_bits, assert_same_states, named, running, states_of, step_on_some_grads

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
INTAKES = pytest.mark.parametrize("intake", support.INTAKES)
NAME = r"(parameter 'weight'|parameter 0 of group 0 \(shape \(3,\)\))"


def _stepped(cls: Any, **options: Any) -> tuple[Tensor, Any]:
    """A parameter after one step, with a gradient for the next."""
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = cls(named(weight=param), **options)
    param.grad = torch.ones(3)
    optimizer.step()
    return param, optimizer


def _refused(param: Tensor, optimizer: Any, kind: type[Exception], message: str) -> None:
    states, before = states_of(optimizer), param.detach().clone()
    with pytest.raises(kind, match=message):
        optimizer.step()
    assert_same_bits(param, before)
    assert_same_states(optimizer, states)


COUNTS = {
    "inf": (math.inf, "is inf, not a count"),
    "infinite tensor": (torch.tensor(math.inf), "is inf, not a count"),
    "nan": (math.nan, "is nan, not a count"),
    "negative": (-1, "is -1.0, not a count"),
    "half": (torch.tensor(0.5), "is 0.5, not a count"),
    "too large": (2.0**53, r"is 9007199254740992: steps can be counted below 2\*\*53"),
    "too large a tensor": (torch.tensor(2.0**53), r"is 9007199254740992: steps can be counted below 2\*\*53"),
    "larger than floats": (10**400, r"is 10+\.\.\.0+, not a number"),
    "two": (torch.tensor([1.0, 2.0]), r"is torch.float32 of shape \(2,\) on cpu, not a number"),
    "complex": (torch.tensor(1 + 1j), "is torch.complex64 .*, not a number"),
    "string": ("3", "is '3', not a number"),
    "list": ([1], r"is \[1\], not a number"),
    "meta": (torch.zeros((), device="meta"), r"is torch.float32 of shape \(\) on meta, not a number"),
}


@pytest.mark.parametrize(("count", "message"), COUNTS.values(), ids=COUNTS)
@BACKENDS
def test_a_count_that_is_no_number(backend: str, count: Any, message: str) -> None:
    with running(backend):
        param, optimizer = _stepped(fastopt.Adam)
        good = optimizer.state[param]["step"]
        average, before = optimizer.state[param]["exp_avg"].clone(), param.detach().clone()
        optimizer.state[param]["step"] = count
        with pytest.raises(RuntimeError, match=f"the state 'step' of {NAME} {message}"):
            optimizer.step()
        assert_same_bits(param, before)
        assert_same_bits(optimizer.state[param]["exp_avg"], average)
        optimizer.state[param]["step"] = good
        optimizer.step()


@pytest.mark.parametrize(("cls", "key"), [(fastopt.ASGD, "eta"), (fastopt.NAdam, "mu_product")])
def test_a_carried_state_that_is_no_number(cls: Any, key: str) -> None:
    param, optimizer = _stepped(cls)
    optimizer.state[param][key], before = "much", param.detach().clone()
    with pytest.raises(RuntimeError, match=f"the state '{key}' of {NAME} is 'much', not a number"):
        optimizer.step()
    assert_same_bits(param, before)
    assert optimizer.state[param]["step"] == 1


@pytest.mark.parametrize("what", ["parameter", "gradient", "state"])
@INTAKES
def test_a_step_on_freed_memory(intake: str, what: str) -> None:
    """Trainers that shard parameters free their memory between uses."""
    with running(intake=intake):
        param, optimizer = _stepped(fastopt.Adam)
        freed = {"parameter": param.data, "gradient": param.grad, "state": optimizer.state[param]["exp_avg_sq"]}[what]
        storage = freed.untyped_storage()
        size, values = storage.nbytes(), freed.clone()
        storage.resize_(0)
        role = {"parameter": "", "gradient": "the gradient of ", "state": "the state 'exp_avg_sq' of "}[what]
        with pytest.raises(RuntimeError, match=f"^{role}{NAME} has no memory: its storage was freed"):
            optimizer.step()
        assert optimizer.state[param]["step"] == 1
        storage.resize_(size)
        freed.copy_(values)
        optimizer.step()


def _freed(*shape: int) -> Tensor:
    tensor = torch.ones(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


def test_gradients_without_memory_are_not_clipped() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = _freed(3)
    with pytest.raises(RuntimeError, match=r"gradient 0 \(shape \(3,\)\) has no memory"):
        fastopt.clip_grad_norm_([param], 1.0)


@pytest.mark.parametrize("name", ["input", "running_mean", "running_var", "weight", "bias"])
def test_batch_norm_of_freed_memory(name: str) -> None:
    tensors = {key: torch.ones(4) for key in ("running_mean", "running_var", "weight", "bias")}
    arguments: dict[str, Any] = {"input": torch.ones(6, 4), **tensors}
    arguments[name].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=f"batch_norm: {name} has no memory"):
        F.batch_norm(**arguments, training=True)


def test_dropout_of_freed_memory() -> None:
    with pytest.raises(RuntimeError, match="dropout: input has no memory"):
        F.dropout(_freed(5), 0.5)
    with pytest.raises(RuntimeError, match="dropout_add: residual has no memory"):
        F.dropout_add(torch.ones(5), _freed(5), 0.5)


EDITED = {
    "lr": "1e-3",
    "betas": ("0.9", 0.999),
    "eps": "1e-8",
    "weight_decay": "0.1",
    "max_grad_norm": "1",
    "l1": "0.1",
}


@pytest.mark.parametrize(
    ("cls", "option"),
    [(c, o) for c in (fastopt.Adam, fastopt.AdamW, fastopt.Lion, fastopt.RAdam) for o in EDITED if o in c.group_keys],
)
def test_a_string_in_a_group(cls: Any, option: str) -> None:
    """It is an error, as in torch, although float() would take it."""
    param, optimizer = _stepped(cls)
    optimizer.param_groups[0][option] = EDITED[option]
    _refused(param, optimizer, TypeError, f"^{option} has to be a number, but is ")


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_every_class_says_which_options_a_group_has(row: Row) -> None:
    """group_keys are the keys of its defaults; except for our own options, torch's optimizer has them as well."""
    optimizer = row.ours([torch.ones(3, requires_grad=True)])
    keys = optimizer.group_keys
    assert keys == type(optimizer).group_keys
    assert keys == optimizer.param_groups[0].keys() - {"params"} | {"fused"} | row.ours._more_group_keys
    assert keys >= CommonOptions.__annotations__.keys()
    if row.theirs is not None and row.theirs.__module__.startswith("torch."):
        assert keys >= row.theirs([torch.ones(3)]).defaults.keys()


FOREIGN = {"weight_decay": 5.0, "maximize": True, "capturable": True, "decoupled_weight_decay": True}


@pytest.mark.parametrize(
    ("case", "key"), [(c, key) for c in PLAIN_CASES for key in FOREIGN if key not in c.ours.group_keys], ids=ids
)
def test_a_foreign_key_has_no_effect(case: Case, key: str) -> None:
    """As in torch, where Rprop ignores a group's weight_decay."""

    def trained(options: dict[str, Any]) -> Tensor:
        param = torch.full((3, 2), -1.0, requires_grad=True)
        optimizer = case.make([{"params": [param], **options}])
        for step in range(3):
            step_on_some_grads(optimizer, [param], step)
        assert not getattr(optimizer, "_step_supports_amp_scaling", False)
        return param

    assert_same_bits(trained({key: FOREIGN[key], "name": "mine"}), trained({}))


def test_a_group_of_adamw_may_say_how_it_decays() -> None:
    """As in torch from 2.7 on."""
    theirs = torch.optim.AdamW([torch.ones(3)])
    if "decoupled_weight_decay" not in theirs.defaults:
        pytest.skip("this torch's AdamW has no such option")
    trained = []
    for cls in (fastopt.AdamW, torch.optim.AdamW):
        param = torch.full((3, 2), 2.0, requires_grad=True, dtype=torch.float64)
        optimizer = cls([{"params": [param], "decoupled_weight_decay": False}], lr=0.1, weight_decay=0.5)
        for step in range(3):
            step_on_some_grads(optimizer, [param], step)
        trained.append(param)
    torch.testing.assert_close(*trained)


def test_a_subclass_knows_what_its_class_knows() -> None:
    class Mine(fastopt.Rprop):
        def __init__(self, params: Any, extra: float = 1.0) -> None:
            super().__init__(params, lr=0.1)

    assert Mine.group_keys == fastopt.Rprop.group_keys
    lookahead = fastopt.Lookahead(fastopt.Rprop([torch.ones(3, requires_grad=True)]))
    assert lookahead.group_keys == fastopt.Rprop.group_keys


WAYS: dict[str, Callable[[Any], Any]] = {
    "load_state_dict": lambda o: o.load_state_dict(o.state_dict()) or o,
    "deepcopy": copy.deepcopy,
    "pickle": lambda o: pickle.loads(pickle.dumps(o)),
    "from_torch": lambda o: fastopt.from_torch(o.to_torch()),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", [c for c in PLAIN_CASES if c.from_torch], ids=ids)
def test_to_torch_after(case: Case, way: str) -> None:
    """torch's ``__setstate__`` adds keys to groups and defaults that its constructor does not take."""
    param = torch.ones(3, 2, requires_grad=True)
    optimizer = case.make([param])
    step_on_some_grads(optimizer, [param], 0)
    theirs = WAYS[way](optimizer).to_torch()
    assert type(theirs) is case.theirs
    params = theirs.param_groups[0]["params"]
    step_on_some_grads(theirs, params, 1)


DECOUPLED = [(fastopt.AdamW, {}), (fastopt.Lion, {}), (fastopt.Adafactor, {})]


@pytest.mark.parametrize(("cls", "options"), DECOUPLED, ids=lambda x: getattr(x, "__name__", ""))
def test_no_decay_is_none_at_any_learning_rate(cls: Any, options: dict[str, Any]) -> None:
    """A product inf * 0 would be NaN."""
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    cls([param], lr=math.inf, weight_decay=0.0, **options).step()
    assert not param.isnan().any()


@BACKENDS
def test_a_nan_spoils_all_of_an_adafactor_tensor(backend: str) -> None:
    """Updates are divided by their root mean square, which is NaN; torch's ``max(1, NaN)`` is 1. Others are right."""
    vector, matrix, other = (torch.ones(s, requires_grad=True) for s in ((3,), (3, 2), (4,)))
    for param in (vector, matrix, other):
        param.grad = torch.ones_like(param)
    for param in (vector, matrix):
        param.grad.view(-1)[1] = math.nan
    with running(backend):
        fastopt.Adafactor([vector, matrix, other]).step()
    assert vector.isnan().all()
    assert matrix.isnan().all()
    assert other.isfinite().all()


def test_python_without_gil_is_refused() -> None:
    """A Python without GIL is simulated."""
    code = "import sys; sys._is_gil_enabled = lambda: False; import fastopt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: fastopt needs Python's GIL, which is off")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the environment is bytes")
@pytest.mark.parametrize("name", ["FASTOPT_ISA", "FASTOPT_INTAKE", "FASTOPT_BACKEND"])
def test_a_variable_that_is_no_text(name: str) -> None:
    command = [sys.executable, "-c", "import fastopt"]
    environment = {**os.environb, name.encode(): b"\xff"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == rf"ValueError: {name}: unknown value '\udcff', which is not plain text"
