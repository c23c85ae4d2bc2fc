"""torch's own table of optimizer inputs, ``optim_db``: with each input, ours agrees with torch's.

An optimizer that this torch lacks has no rows in its table, and none here.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

import fastopt
from support import some_values

# Differences from torch on purpose; each has a test here.
DECIDED = {
    "differentiable": "the kernels have no derivative: a RuntimeError",
    "centered RMSprop": "a variance that rounding makes negative is 0; torch takes its root, which is NaN",
    "Adafactor of no elements": "is left as it is; torch divides by the number of elements",
    "sparse gradients": "the error goes on to name the parameter, and AdamW is not called Adam",
    "errors in a step": "go on to name the parameter",
    "lr of SparseAdam": "is a number of double precision also from a tensor; torch computes in the tensor's",
    "products of Muon": "are batched, and some go through the small matrices: other roundings in bfloat16",
    "step of SparseAdam": "is a tensor, as that of all others; torch has an integer",
}

STEPS = 7
SHAPES = [(7, 5), (70,), (), (4, 3, 3, 3)]
MATRICES = [(7, 5), (4, 70), (4, 4)]
EMPTY = (0,)
TOLERANCE = {torch.float32: dict(rtol=2e-4, atol=2e-5), torch.float64: dict(rtol=1e-10, atol=1e-12)}
PRODUCTS = 0.5  # of a learning rate, in an element; test_muon.py compares norms
REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}

Rows = list[Any]  # made by pytest.param
Pairs = list[tuple[Tensor, Tensor]]  # parameters: ours and torch's

# LBFGS, which needs closures, is in quasi_newton/test_lbfgs_db.py.
INFOS = [
    info for info in optim_db if hasattr(fastopt, info.optim_cls.__name__) and info.optim_cls is not torch.optim.LBFGS
]


def _name(info: Any) -> str:
    return str(info.optim_cls.__name__)


def _ours(info: Any) -> Any:
    return getattr(fastopt, _name(info))


def _inputs(info: Any) -> Iterable[tuple[str, dict[str, Any]]]:
    for entry in info.optim_inputs_func(device="cpu"):
        assert entry.params is None
        yield entry.desc.replace(" ", "_"), entry.kwargs


def _rows(infos: Iterable[Any]) -> Rows:
    """The table's rows, each as (info, arguments)."""
    return [pytest.param(info, kwargs, id=f"{_name(info)}-{name}") for info in infos for name, kwargs in _inputs(info)]


def _implementations(info: Any) -> list[str]:
    """torch's implementations that need no CUDA and do not build an autograd graph."""
    known = getattr(info, "supported_impls", ())
    fused = "cpu" in getattr(info, "supports_fused_on", ())
    return [name for name in ("foreach", "fused") if name in known and (name != "fused" or fused)]


def _scheduler_rows() -> Rows:
    return [
        pytest.param(info, kwargs, schedulers, id=f"{_name(info)}-{name}-schedulers{i}")
        for info in INFOS
        for name, kwargs in _inputs(info)
        for i, schedulers in enumerate(info.scheduler_inputs)
    ]


def _error_rows() -> Rows:
    return [
        pytest.param(info, error, id=f"{_name(info)}-{error.optimizer_error_input.desc}".replace(" ", "_"))
        for info in INFOS
        for error in info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
    ]


def _decided(name: str) -> pytest.MarkDecorator:
    """Marks the test of a difference that is listed."""
    return pytest.mark.parametrize("reason", [DECIDED[name]], ids=[name.replace(" ", "_")])


def _values(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    if dtype in REAL:
        parts = some_values((2, *shape), REAL[dtype], seed)
        return torch.complex(parts[0], parts[1])
    return some_values(shape, dtype, seed)


def _pairs(shapes: Iterable[tuple[int, ...]], dtype: torch.dtype) -> Pairs:
    """Pairs of equal parameters, for ours and for torch's."""
    values = [_values(shape, dtype, seed=i) for i, shape in enumerate(shapes)]
    return [(value.clone().requires_grad_(), value.clone().requires_grad_()) for value in values]


def _is_for_rows(info: Any) -> bool:
    return bool(getattr(info, "only_supports_sparse_grads", False))


def _some_pairs(info: Any, dtype: torch.dtype) -> Pairs:
    if _name(info) == "Muon":
        return _pairs(MATRICES, dtype)
    if _is_for_rows(info):
        return _pairs([shape for shape in SHAPES if shape], dtype)
    return _pairs(SHAPES if _name(info) == "Adafactor" else [*SHAPES, EMPTY], dtype)


def _make(info: Any, pairs: Pairs, kwargs: dict[str, Any]) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Our optimizer and torch's. Arguments are copied for each, as a scheduler writes to a tensor ``lr``."""
    ours, theirs = zip(*pairs, strict=True)
    if _is_for_rows(info) and isinstance(kwargs.get("lr"), Tensor):  # DECIDED
        kwargs = {**kwargs, "lr": kwargs["lr"].double()}
    return _ours(info)(ours, **copy.deepcopy(kwargs)), info.optim_cls(theirs, **copy.deepcopy(kwargs))


def _set_grads(pairs: Pairs, step: int) -> None:
    for i, (a, b) in enumerate(pairs):
        b.grad = _values(tuple(b.shape), b.dtype, seed=1000 + 100 * step + i)
        a.grad = b.grad.clone()


def _assert_agree(one: torch.optim.Optimizer, other: torch.optim.Optimizer, pairs: Pairs, step: int) -> None:
    """Compares parameters, all states, and the learning rate, which a scheduler may have changed."""
    for i, (a, b) in enumerate(pairs):
        tolerance = TOLERANCE[REAL.get(a.dtype, a.dtype)]
        of_param = tolerance
        if isinstance(one, fastopt.Muon):
            of_param = dict(rtol=0, atol=PRODUCTS * max(1e-3, float(one.defaults["lr"])))
        what = f"parameter {i} in step {step}"
        torch.testing.assert_close(a, b, **of_param, msg=lambda text, what=what: f"{what}: {text}")
        mine, theirs = one.state.get(a, {}), other.state.get(b, {})
        assert mine.keys() == theirs.keys(), what
        for key, state in theirs.items():
            if key == "step" and isinstance(other, torch.optim.SparseAdam):  # DECIDED
                state = torch.tensor(float(state))
            assert isinstance(mine[key], Tensor) == isinstance(state, Tensor), f"{key} of {what}"
            torch.testing.assert_close(
                mine[key], state, **tolerance, msg=lambda text, what=f"{key} of {what}": f"{what}: {text}"
            )
    for group, expected in zip(one.param_groups, other.param_groups, strict=True):
        assert group["lr"] == expected["lr"]


def _follow(
    info: Any,
    pairs: Pairs,
    kwargs: dict[str, Any],
    steps: int = STEPS,
    schedulers: Any = (),
    set_grads: Callable[[Pairs, int], None] = _set_grads,
) -> None:
    """Takes steps of ours and of torch's, from equal parameters and with equal gradients."""
    both = _make(info, pairs, kwargs)
    scheduled = [[make(optimizer) for make in schedulers] for optimizer in both]
    for step in range(steps):
        set_grads(pairs, step)
        if _is_for_rows(info):
            for tensor in itertools.chain(*pairs):
                tensor.grad = tensor.grad if tensor.grad.is_sparse else tensor.grad.to_sparse()
        for optimizer, its_schedulers in zip(both, scheduled, strict=True):
            optimizer.step()
            _step_schedulers(its_schedulers)
        _assert_agree(*both, pairs, step)


def _step_schedulers(schedulers: list[Any]) -> None:
    for scheduler in schedulers:
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(1.0)  # a loss that does not fall
        else:
            scheduler.step()


def test_the_table_has_all_of_torchs_optimizers_that_we_have() -> None:
    classes = (*fastopt.optim.ALL, fastopt.Muon, fastopt.SparseAdam)
    shared = {cls.__name__ for cls in classes if hasattr(torch.optim, cls.__name__)}
    assert {_name(info) for info in INFOS} == shared
    assert all(issubclass(_ours(info), info.optim_cls) for info in INFOS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("info", "kwargs"), _rows(INFOS))
def test_inputs(info: Any, kwargs: dict[str, Any], dtype: torch.dtype, numbers_in: Any) -> None:
    numbers_in(dtype)
    _follow(info, _some_pairs(info, dtype), kwargs)


@pytest.mark.parametrize(
    ("info", "kwargs"),
    [
        pytest.param(info, {**kwargs, implementation: True}, id=f"{_name(info)}-{name}-{implementation}")
        for info in INFOS
        for (name, kwargs), implementation in itertools.product(_inputs(info), _implementations(info))
    ],
)
def test_inputs_with_implementation(info: Any, kwargs: dict[str, Any], numbers_in: Any) -> None:
    """The flag chooses another implementation in torch, and changes nothing in ours."""
    if not kwargs.get("fused"):  # torch's fused ones count in float32, whatever the default type
        numbers_in(torch.float64)
    _follow(info, _some_pairs(info, torch.float64), kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize(("info", "kwargs"), _rows(info for info in INFOS if info.supports_complex))
def test_complex_inputs(info: Any, kwargs: dict[str, Any], dtype: torch.dtype, numbers_in: Any) -> None:
    numbers_in(REAL[dtype])
    _follow(info, _some_pairs(info, dtype), kwargs)


@pytest.mark.parametrize(("info", "kwargs", "schedulers"), _scheduler_rows())
def test_scheduler_inputs(info: Any, kwargs: dict[str, Any], schedulers: Any, numbers_in: Any) -> None:
    """Enough steps for every scheduler of the table to change the learning rate."""
    numbers_in(torch.float64)
    _follow(info, _some_pairs(info, torch.float64), kwargs, steps=13, schedulers=schedulers)


def _sparse(shape: tuple[int, ...], sparse_dims: int, dtype: torch.dtype, seed: int, coalesced: bool) -> Tensor:
    """A third of the elements, or of the slices; unless ``coalesced``, one of them comes in several parts."""
    count = max(2, torch.Size(shape[:sparse_dims]).numel() // 3)
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randperm(torch.Size(shape[:sparse_dims]).numel(), generator=generator)[:count]
    if not coalesced:
        flat = torch.cat([flat, flat[:1], flat[:1]])
    where = torch.stack(torch.unravel_index(flat, shape[:sparse_dims]))
    grad = torch.sparse_coo_tensor(
        where, some_values((len(flat), *shape[sparse_dims:]), dtype, seed), shape, check_invariants=True
    )
    return grad.coalesce() if coalesced else grad


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # in torch's Adagrad
@pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])
@pytest.mark.parametrize("coalesced", [True, False], ids=["coalesced", "uncoalesced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("info", [info for info in INFOS if info.supports_sparse], ids=_name)
def test_sparse_gradients(info: Any, dtype: torch.dtype, coalesced: bool, maximize: bool, numbers_in: Any) -> None:
    """Uses the arguments and schedulers that the table has for sparse gradients, with a dense one in between."""
    numbers_in(dtype)
    shapes = [((10, 4), 1), ((10, 4), 2), ((70,), 1), ((6, 3, 2), 2)]

    def set_grads(pairs: Pairs, step: int) -> None:
        if step == 3:
            _set_grads(pairs, step)
            return
        for i, ((a, b), (shape, sparse_dims)) in enumerate(zip(pairs, shapes, strict=True)):
            b.grad = _sparse(shape, sparse_dims, dtype, 100 * step + i, coalesced)
            a.grad = b.grad.clone()
            assert a.grad.is_coalesced() == coalesced

    kwargs, schedulers = info.metadata_for_sparse
    pairs = _pairs([shape for shape, _ in shapes], dtype)
    _follow(info, pairs, {**kwargs, "maximize": maximize}, schedulers=schedulers, set_grads=set_grads)


@_decided("sparse gradients")
@pytest.mark.parametrize(
    "info", [info for info in INFOS if not info.supports_sparse and not _is_for_rows(info)], ids=_name
)
def test_sparse_gradients_are_refused(info: Any, reason: str) -> None:
    ours, theirs = torch.ones(4, 3, requires_grad=True), torch.ones(4, 3, requires_grad=True)
    one, other = _make(info, [(ours, theirs)], {})
    ours.grad, theirs.grad = torch.ones(4, 3).to_sparse(), torch.ones(4, 3).to_sparse()
    with pytest.raises(RuntimeError) as expected:
        other.step()
    with pytest.raises(expected.type, match=r"parameter 0 of group 0 \(shape \(4, 3\)\)") as raised:
        one.step()
    text = str(expected.value)
    if _name(info) == "AdamW" and text.startswith("Adam "):
        text = text.replace("Adam ", "AdamW ", 1)
    assert text.startswith(f"{_name(info)} does not support sparse gradients")
    assert str(raised.value).startswith(text)


@pytest.mark.parametrize(("info", "error"), _error_rows())
def test_error_inputs(info: Any, error: Any) -> None:
    """Both raise the table's error or warning with the same text; our errors in a step also name the parameter."""
    entry, at = error.optimizer_error_input, error.error_on
    assert at in (OptimizerErrorEnum.CONSTRUCTION_ERROR, OptimizerErrorEnum.STEP_ERROR)
    warns = issubclass(error.error_type, Warning)
    texts = []
    for cls in (_ours(info), info.optim_cls):
        run = functools.partial(cls, entry.params, **entry.kwargs)
        if at == OptimizerErrorEnum.STEP_ERROR:
            run = run().step
        if warns:
            with pytest.warns(error.error_type, match=error.error_regex) as warned:
                run()
            texts.append([str(warning.message) for warning in warned])
        else:
            with pytest.raises(error.error_type, match=error.error_regex) as raised:
                run()
            assert raised.type is error.error_type
            texts.append([str(raised.value)])
    if at == OptimizerErrorEnum.STEP_ERROR:
        assert "errors in a step" in DECIDED
        texts[0] = [text.partition(" (parameter ")[0] for text in texts[0]]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(info, id=_name(info))
        for info in INFOS
        if "differentiable" in inspect.signature(info.optim_cls).parameters
    ],
)
def test_a_flag_that_ours_refuses(info: Any) -> None:
    """The table may have the flag as an argument, but no row for the CPU does."""
    flag = "differentiable"
    assert flag in DECIDED
    assert not any(kwargs.get(flag) for _, kwargs in _inputs(info))
    with pytest.raises(RuntimeError, match=f"fastopt.{_name(info)} does not support {flag}=True"):
        _ours(info)([torch.ones(3, requires_grad=True)], **{flag: True})


@_decided("centered RMSprop")
def test_a_centered_variance_below_zero(reason: str) -> None:
    """The gradient never changes, so that its variance consists of rounding errors."""
    values, grad = some_values(1000, torch.float64, seed=0), some_values(1000, torch.float64, seed=1)
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    for optimizer, param in (
        (fastopt.RMSprop([ours], centered=True, alpha=0.5), ours),
        (torch.optim.RMSprop([theirs], centered=True, alpha=0.5), theirs),
    ):
        for _ in range(100):
            param.grad = grad.clone()
            optimizer.step()
    assert theirs.isnan().any()
    assert ours.isfinite().all()


if hasattr(torch.optim, "Adafactor"):

    @_decided("Adafactor of no elements")
    @pytest.mark.parametrize("shape", [(0,), (4, 0)], ids=str)
    def test_adafactor_of_no_elements(shape: tuple[int, ...], reason: str) -> None:
        ours, theirs = (torch.empty(shape, requires_grad=True) for _ in range(2))
        ours.grad, theirs.grad = torch.empty(shape), torch.empty(shape)
        with pytest.raises(ZeroDivisionError):
            torch.optim.Adafactor([theirs]).step()
        optimizer = fastopt.Adafactor([ours])
        optimizer.step()
        assert optimizer.state[ours]["step"] == 1
