"""``cautious`` and ``cautious_weight_decay`` with everything else: errors, groups, checkpoints, layouts, wrappers."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from caution_cases import BOLD_ROWS, CAUTIOUS, DECAYED, DECOUPLED, NEVER, make_with, name_of, takes
from fastopt.optim._update import IDENTITY_PROLOGUE
from optimizer_cases import ROWS, Row
from support import (
    assert_same_bits,
    assert_same_step,
    called,
    named,
    running,
    some_params,
    some_values,
    step_on_some_grads,
)

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
BOTH = {**CAUTIOUS, **DECAYED}


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_who_takes_them(row: Row) -> None:
    name = name_of(row)
    assert takes(row, CAUTIOUS) == (name not in NEVER)
    if "weight_decay" in row.ours.group_keys:
        assert takes(row, DECAYED) == (name in DECOUPLED)


@pytest.mark.parametrize("row", BOLD_ROWS, ids=name_of)
def test_refusals_name_the_reason(row: Row) -> None:
    match = f"cautious: {name_of(row)} .*{NEVER[name_of(row)]}"
    params = [torch.ones(3, requires_grad=True)]
    with pytest.raises(ValueError, match=match):
        make_with(row, params, CAUTIOUS)
    optimizer = row.ours(params, **row.base)
    with pytest.raises(ValueError, match=match):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "cautious": True})
    optimizer.param_groups[0].update(CAUTIOUS)
    params[0].grad = torch.ones(3)
    if row.ours is fastopt.SparseAdam:
        params[0].grad = params[0].grad.to_sparse()
    with pytest.raises(ValueError, match=match):
        optimizer.step()
    assert (params[0] == 1).all()


def test_decays_that_are_not_apart() -> None:
    params = [torch.ones(3, requires_grad=True)]
    reason = "cautious_weight_decay: the decay of {} is not decoupled from its update here"
    for kind in (fastopt.Adam, fastopt.SGD, fastopt.LAMB, fastopt.ADOPT, fastopt.Adan):
        with pytest.raises(ValueError, match=reason.format(kind.__name__)):
            kind(params, lr=0.1, **DECAYED)
    with pytest.raises(ValueError, match="cautious_weight_decay: Adafactor scales its update"):
        fastopt.Adafactor(params, **DECAYED)
    optimizer = fastopt.Adam(params, weight_decay=0.1)
    optimizer.param_groups[0]["cautious_weight_decay"] = True
    params[0].grad = torch.ones(3)
    with pytest.raises(ValueError, match=reason.format("Adam")):
        optimizer.step()
    assert (params[0] == 1).all()
    optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.step()


def test_adan_is_cautious_without_its_proximal_decay() -> None:
    params = [torch.ones(3, requires_grad=True)]
    fastopt.Adan(params, no_prox=True, **BOTH)
    fastopt.Adan(params, **CAUTIOUS)
    with pytest.raises(ValueError, match=r"cautious: Adan divides the updated parameter.*no_prox=True"):
        fastopt.Adan(params, weight_decay=0.1, cautious=True)


def test_no_text() -> None:
    for option in ("cautious", "cautious_weight_decay"):
        with pytest.raises(TypeError, match=f"{option} has to be a number, but is 'no'"):
            fastopt.AdamW([torch.ones(3, requires_grad=True)], **{option: "no"})


@BACKENDS
def test_groups_may_differ_and_change(backend: str) -> None:
    with running(backend):
        params = [torch.ones(4, requires_grad=True) for _ in range(2)]
        optimizer = fastopt.SGD([{"params": params[:1], **CAUTIOUS}, {"params": params[1:]}], lr=1.0)
        grad = torch.tensor([1.0, 0.0, 0.0, 0.0])
        for param in params:
            param.grad = grad.clone()
        optimizer.step()
        assert [param[0].item() for param in params] == [-3, 0]
        for group, value in zip(optimizer.param_groups, (False, True), strict=True):
            group["cautious"] = value
        optimizer.step()
        assert [param[0].item() for param in params] == [-4, -4]


def _moved(make: Any, params: list[Tensor], steps: range) -> Any:
    optimizer = make(params)
    for step in steps:
        step_on_some_grads(optimizer, params, step)
    return optimizer


@BACKENDS
def test_checkpoints_and_copies_keep_them(backend: str) -> None:
    with running(backend):
        params = some_params()
        optimizer = _moved(lambda p: fastopt.AdamW(p, lr=0.1, **BOTH), params, range(3))
        twins = [param.detach().clone().requires_grad_() for param in params]
        loaded = fastopt.AdamW(twins, lr=0.7)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        assert loaded.param_groups[0]["cautious"] is True
        assert loaded.param_groups[0]["cautious_weight_decay"] is True
        other = copy.deepcopy(optimizer)
        copies = other.param_groups[0]["params"]
        for one, of_one in ((optimizer, params), (loaded, twins), (other, copies)):
            step_on_some_grads(one, of_one, 3)
        assert_same_step(optimizer, params, loaded, twins)
        assert_same_step(optimizer, params, other, copies)


def test_old_and_foreign_checkpoints() -> None:
    """Without the options in them, the optimizer's own stay."""
    params = some_params()
    theirs = _moved(lambda p: torch.optim.AdamW(p, lr=0.1), params, range(1))
    ours = fastopt.AdamW(params, **BOTH)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["cautious"] is True
    with pytest.raises(ValueError, match=r"torch\.optim\.AdamW has no cautious: True"):
        ours.to_torch()
    assert fastopt.switch(ours, fastopt.Lion, lr=0.1, cautious=True).param_groups[0]["cautious"] is True


def _strided(values: Tensor) -> list[Tensor]:
    """The same elements, in memory in other orders and with gaps."""
    gaps = torch.zeros(*values.shape[:-1], 2 * values.shape[-1], dtype=values.dtype)[..., ::2]
    last = torch.channels_last
    return [values.clone(), values.contiguous(memory_format=last), gaps.copy_(values)]


@BACKENDS
def test_layouts(backend: str) -> None:
    with running(backend):
        params = _strided(some_values((8, 16, 6, 7), torch.float32, 1))
        params = [param.requires_grad_() for param in params]
        optimizer = fastopt.AdamW(params, lr=0.1, **BOTH)
        for seed in range(3):
            grads = _strided(some_values((8, 16, 6, 7), torch.float32, seed + 5))
            for param, grad in zip(params, reversed(grads), strict=True):
                param.grad = grad
            optimizer.step()
        for param in params[1:]:
            assert_same_bits(param.detach().contiguous(), params[0].detach())


@BACKENDS
def test_complex_numbers_are_their_parts(backend: str) -> None:
    with running(backend):
        p = torch.view_as_complex(some_values((130, 2), torch.float32, 0)).requires_grad_()
        q = torch.view_as_real(p.detach()).clone().requires_grad_()
        optimizers = [fastopt.AdamW([one], lr=0.1, **BOTH) for one in (p, q)]
        for seed in range(3):
            q.grad = some_values((130, 2), torch.float32, seed + 1)
            p.grad = torch.view_as_complex(q.grad.clone())
            for optimizer in optimizers:
                optimizer.step()
        assert_same_bits(torch.view_as_real(p.detach()), q.detach())


@BACKENDS
def test_sees_the_clipped_and_penalized_gradient(backend: str) -> None:
    """A penalty that is larger than the gradient turns its sign."""
    with running(backend):
        param = torch.tensor([1.0, 1.0, 1.0, 1.0], requires_grad=True)
        param.grad = torch.tensor([-0.25, -0.25, -2.0, 0.5])
        fastopt.SGD([param], lr=1.0, weight_decay=0.5, max_grad_value=1.0, cautious=True).step()
        assert param.tolist() == [0.75, 0.75, 1.5, 0.0]
        param = torch.tensor([1.0, 1.0], requires_grad=True)
        optimizer = fastopt.SGD([param], lr=1.0, momentum=0.5, cautious=True, l1=0.5)
        param.grad = torch.tensor([1.0, 1.0])
        optimizer.step()
        before = param.detach().clone()
        param.grad = torch.tensor([0.25, 1.0])  # the penalty turns the first
        optimizer.step()
        assert param[0] == before[0]
        assert param[1] == before[1] - 2 * (0.75 + 0.5)


@BACKENDS
def test_skipped_steps(backend: str) -> None:
    with running(backend):
        param = torch.ones(300, requires_grad=True)
        optimizer = fastopt.AdamW([param], lr=0.1, **BOTH)
        param.grad = torch.full((300,), torch.inf)
        optimizer.found_inf, optimizer.grad_scale = torch.ones(()), torch.ones(())
        optimizer.step()
        assert (param == 1).all()


@BACKENDS
def test_lookahead_goes_around(backend: str) -> None:
    """The inner optimizer's options are used; the synchronisation is what it was."""
    with running(backend):
        p, q = (some_values(300, torch.float32, 0).requires_grad_() for _ in range(2))
        ours = fastopt.Lookahead(fastopt.AdamW([p], lr=0.1, **BOTH), k=2, alpha=0.5)
        inner = fastopt.AdamW([q], lr=0.1, **BOTH)
        slow = q.detach().clone()
        for step in range(4):
            for one, optimizer in ((p, ours), (q, inner)):
                one.grad = some_values(300, torch.float32, step)
                optimizer.step()
            if step % 2:
                slow = slow.lerp(q.detach(), 0.5)
                q.data.copy_(slow)
        assert_same_bits(p.detach(), q.detach())


@BACKENDS
@pytest.mark.parametrize("n", [0, 1, 129, 4097, 40_001])
def test_monitor_sees_what_is_applied(n: int, backend: str) -> None:
    with running(backend, threads=2):
        p, q = (some_values(n, torch.float32, 0).requires_grad_() for _ in range(2))
        ours, silent = (fastopt.AdamW([one], lr=0.1, **BOTH) for one in (p, q))
        monitor = fastopt.monitor(ours)
        for step in range(2):
            before = p.detach().double()
            for one, optimizer in ((p, ours), (q, silent)):
                one.grad = some_values(n, torch.float32, step + 1)
                optimizer.step()
            (found,) = monitor.latest
            assert found.update_norm == pytest.approx(float((p.detach().double() - before).norm()), rel=1e-6)
            assert found.grad_norm == pytest.approx(float(p.grad.double().norm()), rel=1e-12)
        assert_same_step(ours, [p], silent, [q])


@BACKENDS
def test_sparse_gradients(backend: str) -> None:
    """Momentum moves every row, so the step knows the whole; otherwise it sees the touched rows alone."""
    with running(backend):
        p, q = (torch.ones(4, 2, requires_grad=True) for _ in range(2))
        p.grad = torch.sparse_coo_tensor([[1, 1]], torch.ones(2, 2), (4, 2), check_invariants=False)
        q.grad = p.grad.to_dense()
        for one in (p, q):
            fastopt.SGD([one], lr=1.0, momentum=0.9, cautious=True).step()
        assert_same_bits(p.detach(), q.detach())
        assert p[1].tolist() == [1 - 2 * 4] * 2
        table = torch.ones(4, 2, requires_grad=True)
        table.grad = p.grad
        optimizer = fastopt.SGD(named(table=table), lr=1.0, cautious=True)
        with pytest.raises(RuntimeError, match=rf"{called('table')} has a sparse gradient.*the mean of cautious"):
            optimizer.step()
        assert (table == 1).all()


def test_the_engine_refuses_other_rules() -> None:
    step = fastopt._core.Step()
    for name in ("lamb", "lookahead", "clip"):
        keys = tuple(f"state{k}" for k in range(fastopt._core.rules()[name][0]))
        update = (name, keys, False, (), False, True, False)
        with pytest.raises(ValueError, match="the update of this rule cannot be cautious"):
            step.add_group(update, IDENTITY_PROLOGUE, -1.0, lambda t: {}, [], {}, None)
