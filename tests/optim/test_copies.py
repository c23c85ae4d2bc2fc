"""The group key copies: tensors that get the updated parameters in the same pass."""

import copy

import pytest
import torch
from torch import Tensor

import fastopt
from optimizer_cases import PLAIN_CASES, Case, ids
from precision_cases import FLOATS, train
from support import assert_same_bits, called, named, running, some_values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


def _params(dtype: torch.dtype) -> list[Tensor]:
    return [some_values(size, dtype, i).requires_grad_() for i, size in enumerate([(7, 5), (129,), (), (0,), (4100,)])]


@BACKENDS
@pytest.mark.parametrize("to", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_type(dtype: torch.dtype, to: torch.dtype, backend: str) -> None:
    """A copy is the parameter's value, rounded to the nearest."""
    params = _params(dtype)
    copies = [torch.full_like(param, 7, dtype=to, requires_grad=False) for param in params]
    optimizer = fastopt.AdamW([{"params": params, "copies": copies}], lr=0.1)
    with running(backend):
        for step in range(3):
            train(optimizer, params, range(step, step + 1))
            for param, copied in zip(params, copies, strict=True):
                # From float64 by way of float32, as parameters of half types are stored.
                wide = param.detach().float() if to in (torch.bfloat16, torch.float16) else param.detach()
                assert_same_bits(copied, wide.to(to))


@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_every_optimizer(case: Case) -> None:
    """The parameters are updated as without copies; copies may lie otherwise in memory."""
    params, expected = ([some_values((9, 14), torch.float32, 0).requires_grad_()] for _ in range(2))
    copies = [torch.zeros(14, 18, dtype=torch.bfloat16).t()[::2]]
    ours, theirs = case.make([{"params": params, "copies": copies}]), case.make(expected)
    train(ours, params, range(3))
    train(theirs, expected, range(3))
    assert_same_bits(params[0], expected[0])
    assert_same_bits(copies[0], params[0].detach().bfloat16())


@BACKENDS
@pytest.mark.parametrize("master", ["float32", "split"])
def test_copies_of_masters(master: str, backend: str) -> None:
    """A copy gets the value, of which the parameter is a rounding."""
    params = [some_values(300, torch.bfloat16, 0).requires_grad_()]
    twins = [params[0].detach().float().requires_grad_()]
    copies = [torch.zeros(300)]
    with running(backend):
        ours = fastopt.AdamW([{"params": params, "copies": copies}], master=master)
        theirs = fastopt.AdamW(twins)
        train(ours, params, range(3), torch.float32)
        train(theirs, twins, range(3), torch.float32)
    assert_same_bits(copies[0], twins[0])
    assert (copies[0] != params[0].float()).any()


@BACKENDS
def test_complex(backend: str) -> None:
    param = torch.complex(*(some_values(9, torch.float32, i) for i in range(2))).requires_grad_()
    copied = torch.zeros(9, dtype=torch.complex128)
    optimizer = fastopt.AdamW([{"params": [param], "copies": [copied]}], lr=0.1)
    with running(backend):
        param.grad = torch.ones_like(param)
        optimizer.step()
    assert_same_bits(copied, param.detach().to(torch.complex128))


@BACKENDS
def test_autograd_notices(backend: str) -> None:
    """A copy that backward needs in its old form raises torch's error, as after copy_()."""
    param, copied = torch.ones(3, requires_grad=True), torch.ones(3)
    optimizer = fastopt.SGD([{"params": [param], "copies": [copied]}], lr=0.1)
    loss = (param * copied).sum()
    param.grad = torch.ones(3)
    before = copied._version
    with running(backend):
        optimizer.step()
    assert copied._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_without_gradient_are_not_copied() -> None:
    params = _params(torch.float32)[:2]
    copies = [torch.full_like(param, 7, requires_grad=False) for param in params]
    optimizer = fastopt.SGD([{"params": params, "copies": copies}], lr=0.1)
    params[1].grad = torch.ones_like(params[1])
    optimizer.step()
    assert (copies[0] == 7).all()
    assert_same_bits(copies[1], params[1].detach())


WRONG = {
    "shape": (torch.zeros(4), r"the copy of {} is .*\(4,\).*the parameter .*\(3,\)"),
    "complex": (torch.zeros(3, dtype=torch.complex64), "the copy of {} is .*complex64"),
    "integer": (torch.zeros(3, dtype=torch.int32), "the copy of {}.*int32"),
    "device": (torch.zeros(3, device="meta"), "the copy of {}.*meta"),
    "no tensor": ([0.0, 0.0, 0.0], "the copy of {} is a list, not a tensor"),
    "sparse": (torch.zeros(3).to_sparse(), "the copy of {}"),
    "expanded": (torch.zeros(1).expand(3), "the copy of {}"),
}


@BACKENDS
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_copies(wrong: str, backend: str) -> None:
    """The error names the parameter, and nothing is written."""
    given, message = WRONG[wrong]
    weight, bias = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    good = torch.zeros(3)
    optimizer = fastopt.AdamW([{"params": named(weight=weight, bias=bias), "copies": [good, given]}], lr=0.1)
    weight.grad, bias.grad = torch.ones(3), torch.ones(3)
    with running(backend), pytest.raises((RuntimeError, TypeError), match=message.format(called("bias"))):
        optimizer.step()
    assert (weight == 1).all()
    assert (good == 0).all()
    assert not optimizer.state


@BACKENDS
def test_overlap(backend: str) -> None:
    """A copy may not share memory with anything else that the step reads or writes."""
    memory = torch.ones(64)
    param = memory[:20].requires_grad_()
    other = torch.ones(20, requires_grad=True)
    grad = torch.ones(20)
    shared = torch.zeros(30)
    for copies in ([memory[10:30], torch.zeros(20)], [grad, torch.zeros(20)], [shared[:20], shared[10:]]):
        optimizer = fastopt.AdamW([{"params": named(weight=param, bias=other), "copies": copies}], lr=0.1)
        param.grad, other.grad = grad, torch.ones(20)
        with running(backend), pytest.raises(RuntimeError, match=f"the copy of {called('weight')}"):
            optimizer.step()
        assert (memory == 1).all()
        assert (other == 1).all()
        assert (shared == 0).all()


@pytest.mark.parametrize("copies", [torch.zeros(3), [], [torch.zeros(3)] * 2, (torch.zeros(3),)], ids=repr)
def test_copies_are_a_list_of_tensors(copies) -> None:
    param = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="copies has to be a list with a tensor for each parameter"):
        fastopt.SGD([{"params": [param], "copies": copies}], lr=0.1)
    optimizer = fastopt.SGD([param], lr=0.1)
    optimizer.param_groups[0]["copies"] = copies
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match="copies has to be a list with a tensor for each parameter"):
        optimizer.step()
    assert (param == 1).all()


@pytest.mark.parametrize("load", [True, False], ids=["load_state_dict", "add_param_group"])
def test_copies_are_no_part_of_checkpoints(load: bool) -> None:
    """The tensors are the user's. Those of the optimizer that loads stay, and are written."""
    params = _params(torch.float32)[:2]
    copies = [torch.zeros_like(param, requires_grad=False) for param in params]
    if load:
        optimizer = fastopt.AdamW([{"params": params, "copies": copies}], lr=0.1)
        train(optimizer, params, range(2))
        saved = copy.deepcopy(optimizer.state_dict())
        assert saved["param_groups"][0]["copies"] is None
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0]["copies"] is copies
    else:
        optimizer = fastopt.AdamW([{"params": params[:1], "copies": copies[:1]}], lr=0.1)
        optimizer.add_param_group({"params": params[1:], "copies": copies[1:]})
    train(optimizer, params, range(2, 4))
    for param, copied in zip(params, copies, strict=True):
        assert_same_bits(copied, param.detach())


def test_deepcopy_copies_them() -> None:
    params = _params(torch.float32)[:2]
    copies = [torch.zeros_like(param, requires_grad=False) for param in params]
    optimizer = fastopt.AdamW([{"params": params, "copies": copies}], lr=0.1)
    twin = copy.deepcopy(optimizer)
    group = twin.param_groups[0]
    train(twin, group["params"], range(2))
    for param, copied, old in zip(group["params"], group["copies"], copies, strict=True):
        assert_same_bits(copied, param.detach())
        assert (old == 0).all()
