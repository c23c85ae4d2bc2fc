"""Checkpoints keep masters, codes, scales, averages and seeds to the bit, and training goes on as if uninterrupted."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import fastopt
from optimizer_cases import PLAIN_CASES, Case, ids
from precision_cases import BF16, OPTIONS, half_params, joined, train
from support import assert_same_bits, assert_same_step, some_values, state_tensors

EVERY_OPTION = pytest.mark.parametrize("option", OPTIONS)
OTHER_SEED = 99  # of the optimizer that loads: the checkpoint's counts


def _saved(state_dict: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


def _safetensors(state_dict: dict[str, Any]) -> dict[str, Any]:
    tensors = {f"{i}/{key}": value for i, state in state_dict["state"].items() for key, value in state.items()}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in load(save(tensors)).items():
        i, key = name.split("/")
        state.setdefault(int(i), {})[key] = value
    return {"state": state, "param_groups": state_dict["param_groups"]}


WAYS = [
    pytest.param(_saved, id="torch.save"),
    pytest.param(_safetensors, id="safetensors"),
    pytest.param(copy.deepcopy, id="deepcopy"),
]


def _loaded(case: Case, option: str, optimizer: Any, params: list[Tensor], way: Callable[..., Any]) -> Any:
    """A new optimizer with a checkpoint, and its parameters."""
    options = {**OPTIONS[option], **({"rounding_seed": OTHER_SEED} if "rounding_seed" in OPTIONS[option] else {})}
    others = [param.detach().clone().requires_grad_() for param in params]
    twin = case.make(others, **options)
    twin.load_state_dict(way(optimizer.state_dict()))
    return twin, others


@pytest.mark.parametrize("way", WAYS)
@EVERY_OPTION
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_resumes(case: Case, option: str, way: Callable[..., Any]) -> None:
    params = half_params(sizes=[(70,), (65, 64), ()])
    optimizer = case.make(params, **OPTIONS[option])
    train(optimizer, params, range(3))
    twin, others = _loaded(case, option, optimizer, params, way)
    assert_same_step(twin, others, optimizer, params)
    for one, other in zip(params, others, strict=True):
        for key, state in state_tensors(optimizer, one).items():
            assert twin.state[other][key].stride() == state.stride(), key
    train(optimizer, params, range(3, 6))
    train(twin, others, range(3, 6))
    assert_same_step(twin, others, optimizer, params)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
@EVERY_OPTION
def test_copied_optimizers_go_on_alike(option: str, copier: Callable[..., Any]) -> None:
    params = half_params()
    optimizer = fastopt.AdamW(params, **OPTIONS[option])
    train(optimizer, params, range(3))
    twin = copier(optimizer)
    others = twin.param_groups[0]["params"]
    for one, p in ((optimizer, params), (twin, others)):
        train(one, p, range(3, 6))
    assert_same_step(twin, others, optimizer, params)


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@EVERY_OPTION
def test_distributed_checkpoint(option: str, flat: bool, tmp_path: Path) -> None:
    """A single process, with torch's helpers, which first take a step of no length to make states."""

    def made() -> tuple[nn.Module, list[Tensor], torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(65, 64, dtype=BF16)
        params = list(model.parameters())
        groups = [{"params": params, "copies": [torch.zeros_like(p, dtype=torch.float32) for p in params]}]
        return model, params, fastopt.AdamW(groups, lr=0.01, **OPTIONS[option])

    how = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, params, optimizer = made()
    train(optimizer, params, range(3))
    other_model, others, twin = made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no process group; torch itself uses what is deprecated
        dcp.save(get_optimizer_state_dict(model, optimizer, options=how), checkpoint_id=tmp_path)
        state = get_optimizer_state_dict(other_model, twin, options=how)
        dcp.load(state, checkpoint_id=tmp_path)
        set_optimizer_state_dict(other_model, twin, state, options=how)
    with torch.no_grad():
        for param, other in zip(params, others, strict=True):
            other.copy_(param)
    assert_same_step(twin, others, optimizer, params)
    for one, p in ((optimizer, params), (twin, others)):
        train(one, p, range(3, 5))
    assert_same_step(twin, others, optimizer, params)
    for copied, other in zip(twin.param_groups[0]["copies"], others, strict=True):
        assert (copied - other).abs().max() <= 0.01  # it is written: the checkpoint's was not taken


@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_float32_checkpoint_into_int8_and_back(case: Case) -> None:
    """What is coded is the checkpoint's state; float32 again, it is what was coded, and training has gone on."""
    params = [some_values((65, 64), torch.float32, 0).requires_grad_()]
    optimizer = case.make(params)
    train(optimizer, params, range(3))
    others = [params[0].detach().clone().requires_grad_()]
    coded = case.make(others, state_dtype="int8")
    coded.load_state_dict(_saved(optimizer.state_dict()))
    coded.param_groups[0]["state_dtype"] = "int8"  # the group's options are the checkpoint's
    start = others[0].detach().clone()
    train(coded, others, range(3, 6))
    assert (others[0] != start).any()
    narrow = {key for key in state_tensors(coded, others[0]) if f"{key}_scale" in coded.state[others[0]]}
    for key in narrow:
        assert coded.state[others[0]][key].dtype in (torch.int8, torch.uint8)
    assert narrow == optimizer.state[params[0]].keys() & type(optimizer)._codings.keys()
    wide = case.make([others[0].detach().clone().requires_grad_()])
    saved = _saved(coded.state_dict())
    saved["param_groups"][0]["state_dtype"] = None
    wide.load_state_dict(saved)
    (last,) = wide.param_groups[0]["params"]
    train(wide, [last], range(6, 7))
    train(coded, others, range(6, 7))
    assert_same_bits(last, others[0])
    assert wide.state[last].keys() == optimizer.state[params[0]].keys()
    assert all(state.dtype == torch.float32 for state in state_tensors(wide, last).values())


@pytest.mark.parametrize("master", ["float32", "split"])
def test_a_float32_checkpoint_gets_masters(master: str) -> None:
    """They start as the parameters; float32 states stay float32."""
    wide = [some_values(70, torch.float32, 0).requires_grad_()]
    optimizer = fastopt.AdamW(wide)
    train(optimizer, wide, range(3))
    params = [wide[0].detach().to(BF16).requires_grad_()]
    ours = fastopt.AdamW(params, master=master)
    saved = _saved(optimizer.state_dict())
    saved["param_groups"][0]["master"] = master
    ours.load_state_dict(saved)
    twins = [params[0].detach().float().requires_grad_()]
    theirs = fastopt.AdamW(twins)
    theirs.load_state_dict(_saved(optimizer.state_dict()))
    train(ours, params, range(3, 5))
    train(theirs, twins, range(3, 5), torch.float32)
    state = ours.state[params[0]]
    assert_same_bits(state["master"] if master == "float32" else joined(params[0], state["remainder"]), twins[0])
    for key in ("exp_avg", "exp_avg_sq"):
        assert_same_bits(state[key], theirs.state[twins[0]][key])


@EVERY_OPTION
def test_to_torch(option: str) -> None:
    """Codes become numbers. What torch does not have is an error that names it."""
    options = OPTIONS[option]
    params = half_params()
    optimizer = fastopt.AdamW(params, lr=0.1, **options)
    train(optimizer, params, range(2))
    refused = {"master", "ema"} & options.keys() or (options.get("rounding") == "stochastic")
    if refused:
        with pytest.raises(ValueError, match=r"torch.optim.AdamW has no (master|ema|rounding)"):
            optimizer.to_torch()
        return
    theirs = optimizer.to_torch()
    for param in params:
        state = theirs.state[param]
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert {state[key].dtype for key in ("exp_avg", "exp_avg_sq")} == {BF16}
    start = [param.detach().clone() for param in params]
    train(theirs, params, range(2, 3))
    back = fastopt.from_torch(theirs)
    assert back.state.keys() == optimizer.state.keys()
    assert any((a != b).any() for a, b in zip(params, start, strict=True))


def test_to_torch_after_int8() -> None:
    """A step without the option drops the scales with the codes: float32 numbers are not decoded again."""
    params = [some_values((65, 64), torch.float32, 0).requires_grad_()]
    optimizer = fastopt.AdamW(params, state_dtype="int8")
    train(optimizer, params, range(2))
    optimizer.param_groups[0]["state_dtype"] = None
    train(optimizer, params, range(2, 3))
    state = dict(optimizer.state[params[0]])
    assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
    for key, value in optimizer.to_torch().state[params[0]].items():
        assert_same_bits(value, state[key])


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "plain"])
def test_switch_keeps_values(option: str) -> None:
    """Masters and averages go on; other states, codes and scales included, start anew."""
    params = half_params()
    optimizer = fastopt.AdamW(params, lr=0.01, **OPTIONS[option])
    train(optimizer, params, range(3))
    before = [copy.deepcopy(optimizer.state[param]) for param in params]
    switched = fastopt.switch(optimizer, fastopt.SGD, lr=0.0, momentum=0.9)
    for param, old in zip(params, before, strict=True):
        kept = {key for key in ("master", "remainder", "ema") if key in old}
        assert switched.state[param].keys() == kept
        for key in kept:
            assert_same_bits(switched.state[param][key], old[key])
    start = [param.detach().clone() for param in params]
    train(switched, params, range(3, 4))
    for param, old, value in zip(params, before, start, strict=True):
        assert_same_bits(param, value)
        for key in ("master", "remainder"):
            if key in old:
                assert_same_bits(switched.state[param][key], old[key])
        for key, given in OPTIONS[option].items():
            assert switched.param_groups[0][key] == given
