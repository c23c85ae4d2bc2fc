"""Strides, views and memory, where other implementations have bugs: results are right, or an error names the parameter,
and nothing outside it is written."""

import copy

import pytest
import torch

import fastopt
from fastopt.optim._layout import overlaps_itself
from optimizer_cases import PLAIN_CASES, PLAIN_COMPARED_CASES, TORCH_CASES, Case, ids
from support import (
    INTAKES,
    assert_same_bits,
    assert_same_states,
    called,
    named,
    running,
    some_values,
    states_of,
)

BACKENDS = pytest.mark.parametrize("backend", ["native", "data_ptr", "reference"])
CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
COMPARED = pytest.mark.parametrize("case", PLAIN_COMPARED_CASES, ids=ids)


@pytest.fixture
def on(backend: str):
    """Runs the test on the kernels through either intake, or on the reference."""
    options = {"backend": "native", "intake": "data_ptr"} if backend == "data_ptr" else {"backend": backend}
    with running(**options):
        yield


def _follow(case: Case, ours: torch.Tensor, grads: list[torch.Tensor]) -> None:
    """Updates ``ours`` and a contiguous twin, the twin by torch's for-loop; they must agree."""
    theirs = ours.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    one, other = case.make([ours]), case.make_theirs([theirs], foreach=False)
    before = ours.detach().clone()
    for grad in grads:
        ours.grad = grad
        theirs.grad = grad.detach().clone(memory_format=torch.contiguous_format)
        one.step()
        other.step()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-5, atol=1e-6)
    assert (ours != before).all()


GRAD_LAYOUTS = {
    "transposed": lambda g: g.t().contiguous().t(),
    "column slice": lambda g: torch.cat([g, g], 1)[:, : g.shape[1]],
    "expanded": lambda g: g[:1].expand_as(g),
    "strided": lambda g: torch.stack([g, g], -1)[..., 0],
    "negated": lambda g: torch._neg_view(-g),
    "imaginary part of a conjugate": lambda g: torch.complex(g, -g).conj().imag,
}


@BACKENDS
@COMPARED
@pytest.mark.parametrize("layout", GRAD_LAYOUTS)
@pytest.mark.usefixtures("on")
def test_gradient_of_another_layout(case: Case, layout: str) -> None:
    grads = [GRAD_LAYOUTS[layout](some_values((6, 7), torch.float32, seed=s)) for s in range(3)]
    _follow(case, some_values((6, 7), torch.float32, seed=9).requires_grad_(), grads)


PARAM_LAYOUTS = {
    "transposed": lambda p: p.t().contiguous().t(),
    "column slice": lambda p: torch.cat([p, p], 1)[:, : p.shape[1]],
    "every second": lambda p: torch.stack([p, p], -1)[..., 0],
    "row slice": lambda p: torch.cat([p, p])[2 : 2 + p.shape[0]],
    "negated": lambda p: torch._neg_view(-p),
    "odd strides of size-1 dims": lambda p: p.as_strided((1, 6, 7), (1000, 7, 1)),
}


@BACKENDS
@COMPARED
@pytest.mark.parametrize("layout", PARAM_LAYOUTS)
@pytest.mark.usefixtures("on")
def test_parameter_of_another_layout(case: Case, layout: str) -> None:
    param = PARAM_LAYOUTS[layout](some_values((6, 7), torch.float32, seed=9)).requires_grad_()
    _follow(case, param, [some_values(param.shape, torch.float32, seed=s) for s in range(3)])


@BACKENDS
@CASES
@pytest.mark.parametrize(
    "cut",
    [lambda w: w[:, 3:8], lambda w: w[2:5], lambda w: w[::2, ::3], lambda w: w[:, 4], lambda w: w.t()[1:4]],
)
@pytest.mark.usefixtures("on")
def test_nothing_is_written_outside_of_a_view(case: Case, cut) -> None:
    """torch's fused kernels overwrite the memory between the columns."""
    whole = some_values((12, 13), torch.float32, seed=0)
    inside = torch.zeros_like(whole, dtype=torch.bool)
    cut(inside).fill_(True)
    before = whole.clone()
    param = cut(whole).requires_grad_()
    optimizer = case.make([param])
    for step in range(3):
        param.grad = some_values(param.shape, torch.float32, seed=step)
        optimizer.step()
    assert torch.equal(whole.detach()[~inside], before[~inside])
    assert (whole.detach()[inside] != before[inside]).all()


@BACKENDS
@COMPARED
@pytest.mark.usefixtures("on")
def test_channels_last_parameters_keep_their_layout(case: Case) -> None:
    shape = (4, 3, 5, 5)
    param = some_values(shape, torch.float32, seed=0).to(memory_format=torch.channels_last).requires_grad_()
    _follow(case, param, [some_values(shape, torch.float32, seed=s) for s in range(3)])
    assert param.is_contiguous(memory_format=torch.channels_last)


@BACKENDS
@pytest.mark.parametrize("case", [case for case in PLAIN_CASES if not case.row.scaled], ids=ids)
@pytest.mark.usefixtures("on")
def test_columns_of_one_matrix_are_two_parameters(case: Case) -> None:
    """They are interleaved in memory, but do not overlap."""
    whole = some_values((6, 8), torch.float32, seed=0)
    expected = whole.clone().requires_grad_()
    halves = [whole[:, :4].requires_grad_(), whole[:, 4:].requires_grad_()]
    optimizer, plain = case.make(halves), case.make([expected])
    for step in range(3):
        expected.grad = some_values((6, 8), torch.float32, seed=step)
        halves[0].grad, halves[1].grad = expected.grad[:, :4].clone(), expected.grad[:, 4:].clone()
        optimizer.step()
        plain.step()
    assert_same_bits(whole, expected)


def test_an_expanded_tensor_is_not_walked_through() -> None:
    """Walking through it would take days."""
    assert overlaps_itself(torch.ones(2).as_strided((2**40, 2), (0, 1)))
    assert not overlaps_itself(torch.ones(6, 4).t())
    assert not overlaps_itself(torch.ones(100).as_strided((4, 4), (3, 4)))  # interleaved, from 0 to 21, each once


def _expanded() -> list[torch.Tensor]:
    return [torch.ones(1, 4).expand(3, 4).detach().requires_grad_()]


def _overlapping_itself() -> list[torch.Tensor]:
    return [torch.ones(10).as_strided((4, 4), (2, 1)).requires_grad_()]


def _same_memory() -> list[torch.Tensor]:
    whole = torch.ones(10)
    return [whole[:6].requires_grad_(), whole[5:].requires_grad_()]


def _same_memory_other_shape() -> list[torch.Tensor]:
    whole = torch.ones(4, 4)
    return [whole.view(16).requires_grad_(), whole.view(2, 8).requires_grad_()]


def _overlapping_columns() -> list[torch.Tensor]:
    whole = torch.ones(4, 6)
    return [whole[:, :4].requires_grad_(), whole[:, 3:].requires_grad_()]


def _column_of_another() -> list[torch.Tensor]:
    whole = torch.ones(4, 6)
    return [whole.detach().requires_grad_(), whole[:, 2].requires_grad_()]


OVERLAPS = {
    _expanded: "{p0} is an expanded or overlapping tensor",
    _overlapping_itself: "{p0} is an expanded or overlapping tensor",
    _same_memory: "{p0} shares memory with {p1}",
    _same_memory_other_shape: "{p0} shares memory with {p1}",
    _overlapping_columns: "{p0} shares memory with {p1}",
    _column_of_another: "{p0} shares memory with {p1}",
}


@BACKENDS
@CASES
@pytest.mark.parametrize("make", OVERLAPS, ids=lambda f: f.__name__)
@pytest.mark.usefixtures("on")
def test_shared_memory_is_an_error_and_nothing_is_written(case: Case, make) -> None:
    params = make()
    good = torch.ones(5, requires_grad=True)
    optimizer = case.make(named(good=good, **{f"p{i}": p for i, p in enumerate(params)}))
    for p in [good, *params]:
        p.grad = torch.ones(p.shape)
    before = states_of(optimizer)
    with pytest.raises(RuntimeError, match=OVERLAPS[make].format(p0=called("p0"), p1=called("p1"))):
        optimizer.step()
    assert all((p == 1).all() for p in [good, *params])
    assert_same_states(optimizer, before)
    assert good._version == 0


@BACKENDS
@CASES
@pytest.mark.usefixtures("on")
def test_shared_states_and_gradients_are_errors(case: Case) -> None:
    params = [torch.ones(5, requires_grad=True) for _ in range(2)]
    optimizer = case.make(params)
    params[0].grad, params[1].grad = torch.ones(5), torch.ones(5)
    optimizer.step()
    key = next(k for k in optimizer.state[params[0]] if k != "step")
    optimizer.state[params[1]][key] = optimizer.state[params[0]][key]
    with pytest.raises(RuntimeError, match=r"the state of parameter 0 .*shares memory with the state of parameter 1"):
        optimizer.step()

    optimizer = case.make(params)
    params[1].grad = params[0].detach()
    with pytest.raises(RuntimeError, match=r"^parameter 0 .*shares memory with the gradient"):
        optimizer.step()
    params[1].grad = params[0].grad  # only read: two parameters may share a gradient
    optimizer.step()


def test_memory_that_moves_between_steps_is_followed() -> None:
    """Between steps, the engine remembers of a tensor only that it was not lazy."""
    ours, theirs = (some_values(40, torch.float32, seed=0).requires_grad_() for _ in range(2))
    one, other = fastopt.Adam([ours], lr=0.1), torch.optim.Adam([theirs], lr=0.1, foreach=False)
    for step in range(6):
        ours.grad = some_values(40, torch.float32, seed=step)
        theirs.grad = ours.grad.clone()
        if step == 2:
            ours.data = ours.data.clone()
        if step == 3:
            one.state[ours]["exp_avg"] = one.state[ours]["exp_avg"].clone()
            one.state[ours]["exp_avg_sq"].data = one.state[ours]["exp_avg_sq"].data.clone()
        if step == 4:
            ours.share_memory_()
            one.state[ours]["exp_avg"].share_memory_()
            one.state[ours]["step"].share_memory_()
        if step == 5:
            ours.data = torch.complex(ours.data, -ours.data).conj().imag  # lazily negated
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs)


LAZY = {
    "conjugated": (torch.complex64, lambda t: t.conj()),
    "negated": (torch.float32, torch._neg_view),
}


@BACKENDS
@pytest.mark.parametrize(
    ("case", "kind"), [(c, kind) for c in PLAIN_CASES for kind in LAZY if kind == "negated" or c.row.complex], ids=ids
)
@pytest.mark.usefixtures("on")
def test_parameters_that_turn_lazy_at_the_same_address(case: Case, kind: str) -> None:
    dtype, turn = LAZY[kind]
    param, expected = (torch.full((5,), 0.7, dtype=dtype) for _ in range(2))
    if dtype.is_complex:
        param, expected = param + 0.2j, expected + 0.2j
    param, expected = param.requires_grad_(), expected.requires_grad_()
    one, other = case.make([param]), case.make([expected])
    for step in range(3):
        if step == 1:
            param.data = turn(param.data)
            expected.data = turn(expected.data).clone().resolve_conj().resolve_neg()
        param.grad, expected.grad = (torch.full((5,), 0.3, dtype=dtype) for _ in range(2))
        one.step()
        other.step()
    assert_same_bits(param.detach().resolve_conj().resolve_neg(), expected)


@BACKENDS
@CASES
@pytest.mark.usefixtures("on")
def test_states_of_another_layout_are_laid_out_once(case: Case) -> None:
    """A checkpoint of a contiguous model may be loaded for a channels-last one."""
    param = some_values((2, 3, 4, 5), torch.float32, seed=0).requires_grad_()
    source = case.make([param])
    param.grad = some_values(param.shape, torch.float32, seed=1)
    source.step()
    expected = param.detach().clone().requires_grad_()
    last = param.detach().clone().to(memory_format=torch.channels_last).requires_grad_()
    one, other = case.make([last]), case.make([expected])
    for optimizer, p in ((one, last), (other, expected)):
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
        p.grad = some_values(p.shape, torch.float32, seed=2)
        optimizer.step()
    assert_same_bits(last, expected)
    for state in one.state[last].values():
        assert state.dim() == 0 or case.row.factored or state.stride() == last.stride()


@COMPARED
def test_late_gradients(case: Case) -> None:
    """A parameter whose first gradient comes at step 5 starts its own count and velocity then."""
    ours, theirs = ([some_values(30, torch.float32, seed=i).requires_grad_() for i in range(3)] for _ in range(2))
    one, other = case.make(ours), case.make_theirs(theirs, foreach=False)
    for step in range(10):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            missing = (i == 1 and step < 5) or (i == 0 and step in (3, 4))
            a.grad = None if missing else some_values(30, torch.float32, seed=10 * step + i)
            b.grad = None if missing else a.grad.clone()
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    if "step" in one.state[ours[1]]:
        assert [one.state[p]["step"].item() for p in ours] == [8, 5, 10]


@pytest.mark.parametrize("case", TORCH_CASES, ids=ids)
def test_version_counter(case: Case) -> None:
    """autograd sees the write: a backward pass that needs the old value is an error."""
    param = torch.ones(3, requires_grad=True)
    loss = (param * param).sum()
    param.grad = torch.ones(3)
    version = param._version
    case.make([param]).step()
    assert param._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_every_intake_gives_the_same_bits() -> None:
    def run() -> torch.Tensor:
        params = [some_values(n, torch.float32, seed=n).requires_grad_() for n in (1, 70, 5000)]
        optimizer = fastopt.AdamW(params)
        for step in range(3):
            for p in params:
                p.grad = some_values(p.shape, torch.float32, seed=step)
            optimizer.step()
        return torch.cat([p.detach() for p in params])

    with running("reference"):
        expected = run()
    for intake in INTAKES:
        with running(intake=intake):
            assert_same_bits(run(), expected)
