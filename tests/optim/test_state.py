"""States, checkpoints and groups are those of torch.optim."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch

import fastopt
from fastopt.optim._states import States
from optimizer_cases import ALL_CASES, PLAIN_CASES, PLAIN_COMPARED_CASES, PLAIN_TORCH_CASES, TORCH_CASES, Case, ids
from support import HALF, OWN_OPTIONS, TORCH, assert_same_step, running, some_params, step_on_some_grads

COMPARED = pytest.mark.parametrize("case", PLAIN_COMPARED_CASES, ids=ids)


@pytest.mark.parametrize("case", TORCH_CASES, ids=ids)
def test_checkpoints_go_both_ways(case: Case, numbers_in: Any) -> None:
    """Five steps in one and five in the other, with torch.save in between, equal ten steps of torch."""
    numbers_in(torch.float64)
    for first, second in ((case.make, case.make_theirs), (case.make_theirs, case.make)):
        params = some_params(torch.float64)
        expected = some_params(torch.float64)
        start, whole = first(params), case.make_theirs(expected)
        for step in range(5):
            step_on_some_grads(start, params, step)
        file = io.BytesIO()
        torch.save(start.state_dict(), file)
        file.seek(0)
        second_half = second(params)
        second_half.load_state_dict(torch.load(file, weights_only=True))
        for step in range(5, 10):
            step_on_some_grads(second_half, params, step)
        for step in range(10):
            step_on_some_grads(whole, expected, step)
        for a, b in zip(params, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert start.state_dict()["state"].keys() == whole.state_dict()["state"].keys()


@pytest.mark.parametrize("case", [case for case in TORCH_CASES if case.from_torch], ids=ids)
def test_state_dict_is_torchs(case: Case) -> None:
    """States have torch's keys, types and shapes; groups have torch's keys and our own."""
    ours, theirs = some_params(), some_params()
    one, other = case.make(ours), case.make_theirs(theirs)
    step_on_some_grads(one, ours, 0)
    step_on_some_grads(other, theirs, 0)
    mine, torchs = one.state_dict(), other.state_dict()
    for index, state in torchs["state"].items():
        assert {k: (v.dtype, v.shape, v.device) for k, v in state.items()} == {
            k: (v.dtype, v.shape, v.device) for k, v in mine["state"][index].items()
        }
    for group, torchs_group in zip(mine["param_groups"], torchs["param_groups"], strict=True):
        assert {k: group[k] for k in torchs_group} == torchs_group
        assert set(group) - set(torchs_group) <= OWN_OPTIONS


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("case", ALL_CASES, ids=ids)
def test_copies_go_on_alike(case: Case, copier) -> None:
    params = some_params()
    optimizer = case.make(params)
    for step in range(3):
        step_on_some_grads(optimizer, params, step)
    twin = copier(optimizer)
    twin_params = twin.param_groups[0]["params"]
    for step in range(3, 6):
        step_on_some_grads(optimizer, params, step)
        step_on_some_grads(twin, twin_params, step)
    assert_same_step(optimizer, params, twin, twin_params)
    assert repr(twin) == repr(optimizer)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_half_states_round_trip(case: Case, dtype: torch.dtype) -> None:
    params = some_params(dtype)
    optimizer = case.make(params)
    for step in range(3):
        step_on_some_grads(optimizer, params, step)
    twin_params = [p.detach().clone().requires_grad_() for p in params]
    twin = case.make(twin_params)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step_on_some_grads(optimizer, params, 5)
    step_on_some_grads(twin, twin_params, 5)
    assert_same_step(optimizer, params, twin, twin_params)


def test_own_options_survive_a_torch_checkpoint() -> None:
    """torch's groups have no lr_in_momentum: the optimizer keeps the value it was built with."""
    params = some_params()
    source = torch.optim.SGD(params, lr=0.3, momentum=0.5)
    optimizer = fastopt.SGD(params, lr=0.1, lr_in_momentum=True, l1=0.25)
    optimizer.load_state_dict(source.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["lr_in_momentum"], group["l1"]) == (0.3, 0.5, True, 0.25)
    optimizer = fastopt.SGD([{"params": params, "max_grad_norm": 2.0, "state_dtype": torch.float32}])
    optimizer.load_state_dict(source.state_dict())
    group = optimizer.param_groups[0]
    assert (group["max_grad_norm"], group["state_dtype"]) == (2.0, torch.float32)


# Older torch's Adagrad fails when groups are added.
@pytest.mark.parametrize(
    "case", [c for c in PLAIN_COMPARED_CASES if c.ours is not fastopt.Adagrad or TORCH >= (2, 6)], ids=ids
)
def test_add_param_group_and_group_options(case: Case, numbers_in: Any) -> None:
    numbers_in(torch.float64)

    def run(make) -> list[torch.Tensor]:
        params = some_params(torch.float64)
        optimizer = make([{"params": params[:1], "lr": 0.01}, {"params": params[1:2], "weight_decay": 0.1}])
        for step in range(3):
            step_on_some_grads(optimizer, params[:2], step)
        optimizer.add_param_group({"params": params[2], "maximize": True})
        for step in range(3, 6):
            step_on_some_grads(optimizer, params, step)
        return params

    for a, b in zip(run(case.make), run(case.make_theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_steps_are_counted_beyond_float32(backend: str) -> None:
    """Trap 7: torch's float32 'step' stops at 2**24. Ours continues in float64; up to there it has torch's type."""
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    with running(backend):
        optimizer = fastopt.Adam([param])
        optimizer.step()
        assert optimizer.state[param]["step"].dtype == torch.float32
        optimizer.state[param]["step"].fill_(2**24 - 1)
        for expected in (2**24, 2**24 + 1, 2**24 + 2):
            optimizer.step()
            assert optimizer.state[param]["step"].item() == expected
    assert optimizer.state[param]["step"].dtype == torch.float64
    torch.optim.Adam([param], foreach=False).load_state_dict(optimizer.state_dict())


def test_default_dtype_float64_counts_as_torch_does() -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    torch.set_default_dtype(torch.float64)
    try:
        optimizer = fastopt.Adam([param])
        optimizer.step()
        assert optimizer.state[param]["step"].dtype == torch.float64
        optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert optimizer.state[param]["step"].item() == 2


def test_steps_and_entries_of_old_checkpoints() -> None:
    """Counts may be numbers, integer tensors or float64 tensors."""
    for count in (4, 4.0, torch.tensor(4), torch.tensor([4.0]), torch.tensor(4.0, dtype=torch.float64)):
        param = torch.ones(3, requires_grad=True)
        optimizer = fastopt.Adam([param])
        zeros = torch.zeros(3)
        entries = {"step": count, "exp_avg": zeros.clone(), "exp_avg_sq": zeros.clone()}
        optimizer.state[param] = entries
        param.grad = torch.ones(3)
        optimizer.step()
        assert float(optimizer.state[param]["step"]) == 5


def test_momentum_switched_on_later() -> None:
    """As in torch, the first velocity is the first gradient that is seen with momentum."""
    ours, theirs = some_params(), some_params()
    one, other = fastopt.SGD(ours, lr=0.1), torch.optim.SGD(theirs, lr=0.1)
    for step in range(6):
        if step == 3:
            for optimizer in (one, other):
                optimizer.param_groups[0].update(momentum=0.9, dampening=0.5)
        step_on_some_grads(one, ours, step)
        step_on_some_grads(other, theirs, step)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_is_a_torch_optimizer() -> None:
    param = torch.ones(1, requires_grad=True)
    for case in PLAIN_TORCH_CASES:
        assert isinstance(case.make([param]), case.theirs)
    assert fastopt.optim.AdamW is fastopt.AdamW


@COMPARED
def test_groups_of_a_torch_optimizer(case: Case) -> None:
    """Groups may come from torch, without our options, and with parameters in a tuple."""
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = case.make([param])
    optimizer.param_groups = case.make_theirs([param]).param_groups
    optimizer.param_groups[0]["params"] = (param,)
    for _ in range(case.row.moved_after):
        optimizer.step()
    assert (param < 1).all()


@pytest.mark.parametrize("cls", [fastopt.Adam, fastopt.Adagrad, fastopt.Rprop])
def test_first_states_of_a_large_parameter(cls: Any) -> None:
    """States in large pages start like small ones."""
    large, small = params = [torch.full((n,), 0.5).requires_grad_() for n in (2**23 + 5, 5)]
    for param in params:
        param.grad = torch.full_like(param, 0.25)
    cls(params).step()
    assert torch.equal(large, small[0].expand_as(large))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_first_states_are_made_once(case: Case, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the engine and the slow path create states only once."""
    made = []
    first = States.first

    def spy(self: States, param: torch.Tensor, *rest: Any) -> dict[str, Any]:
        made.append(param)
        return first(self, param, *rest)

    monkeypatch.setattr(States, "first", spy)
    params = [torch.ones(4, 4, requires_grad=True) for _ in range(2)]
    params[0].grad, params[1].grad = torch.ones(4, 4), torch.ones(4, 8)[:, ::2]
    with running(backend):
        case.make(params).step()
    assert len({id(param) for param in made}) == len(made)


@pytest.mark.parametrize(
    ("source", "target"), [("Adam", "SGD"), ("NAdam", "Adam"), ("SGD", "Lion"), ("Adam", "Adafactor")]
)
def test_a_checkpoint_of_another_optimizer_is_an_error(source: str, target: str) -> None:
    params = some_params()
    kwargs = {"momentum": 0.9} if source == "SGD" else {}
    theirs = getattr(torch.optim, source)(params, lr=0.5, **kwargs)
    step_on_some_grads(theirs, params, 0)
    optimizer = getattr(fastopt, target)(params, lr=0.1)
    with pytest.raises(ValueError, match=f"the state dict is not {target}'s: it has .*{source}"):
        optimizer.load_state_dict(theirs.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert not optimizer.state


def test_keys_that_no_optimizer_has_are_kept() -> None:
    params = some_params()
    optimizer = fastopt.Adam(params)
    step_on_some_grads(optimizer, params, 0)
    optimizer.state[params[0]]["mine"] = torch.ones(1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[params[0]]["mine"] == 1


def test_a_shared_counter_becomes_each_ones_own() -> None:
    params = some_params()
    optimizer = fastopt.Adam(params)
    step_on_some_grads(optimizer, params, 0)
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state["step"] = saved["state"][0]["step"]
    optimizer.load_state_dict(saved)
    step_on_some_grads(optimizer, params, 1)
    assert {float(optimizer.state[p]["step"]) for p in params if p in optimizer.state} == {2.0}


@pytest.mark.parametrize("option", ["lr", "weight_decay", "max_grad_norm", "l1"])
def test_strings_are_no_numbers(option: str) -> None:
    with pytest.raises(TypeError, match=f"{option} has to be a number, but is '1'"):
        fastopt.AdamW([{"params": some_params(), option: "1"}])
    params = some_params()
    optimizer = fastopt.AdamW(params)
    optimizer.param_groups[0]["lr"] = "1"
    with pytest.raises(TypeError, match="lr has to be a number"):
        step_on_some_grads(optimizer, params, 0)


@pytest.mark.skipif(not hasattr(torch.optim, "Adafactor"), reason="this torch does not have it")
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_of_adafactor_go_to_torch(copier) -> None:
    params = some_params()
    assert type(copier(fastopt.Adafactor(params)).to_torch()).__name__ == "Adafactor"


def test_copies_are_no_part_of_a_checkpoint() -> None:
    """Loading leaves the optimizer its own tensors."""
    params = some_params()
    copies = [torch.zeros_like(param, dtype=torch.bfloat16) for param in params]
    optimizer = fastopt.SGD([{"params": params, "copies": copies}], lr=0.1)
    step_on_some_grads(optimizer, params, 0)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["copies"] is None
    optimizer.load_state_dict(saved)
    step_on_some_grads(optimizer, params, 1)
    for copied, param in zip(copies, params, strict=True):
        assert torch.equal(copied, param.bfloat16())


@pytest.mark.parametrize("shape", [(5000,), (80, 70)], ids=str)
@pytest.mark.parametrize("master", ["float32", "split"])
def test_adafactor_with_a_master(master: str, shape: tuple[int, ...]) -> None:
    """The default eps is that of the type that is updated, and checkpoints are its own."""
    half = torch.nn.Parameter(torch.randn(shape, dtype=torch.bfloat16))
    whole = torch.nn.Parameter(half.detach().float())
    optimizer, other = fastopt.Adafactor([half], master=master), fastopt.Adafactor([whole])
    for _ in range(3):
        half.grad = torch.randn(shape, dtype=torch.bfloat16)
        whole.grad = half.grad.float()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        other.step()
    if master == "float32":
        assert torch.equal(optimizer.state[half]["master"], whole)
    else:
        upper = half.detach().view(torch.int16).int() << 16
        assert torch.equal((upper + optimizer.state[half]["remainder"]).view(torch.float32), whole)


def test_states_that_were_coded_go_to_torch_as_they_are() -> None:
    param = torch.nn.Parameter(torch.randn(5000))
    param.grad = torch.randn(5000)
    optimizer = fastopt.Adam([param], state_dtype="int8")
    optimizer.step()
    optimizer.param_groups[0]["state_dtype"] = None
    optimizer.step()
    average = optimizer.state[param]["exp_avg"]
    assert average.dtype == torch.float32
    assert torch.equal(optimizer.to_torch().state[param]["exp_avg"], average)
