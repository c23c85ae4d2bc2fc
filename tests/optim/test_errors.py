"""Bad input raises torch's error if torch has one, otherwise ours. It names the culprit, and nothing is written, not
even to parameters that are fine."""

import inspect
import re

import pytest
import torch

import fastopt
from optimizer_cases import PLAIN_CASES, PLAIN_TORCH_CASES, ROWS, Case, Row, ids
from support import OWN_OPTIONS, assert_same_states, called, named, running, states_of

CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
TORCH = pytest.mark.parametrize("case", PLAIN_TORCH_CASES, ids=ids)
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


def _param(*shape: int) -> torch.Tensor:
    return torch.ones(shape or (3,), requires_grad=True)


COMMON_ERRORS = [dict(lr=-1.0), dict(lr=torch.tensor([0.1, 0.2]))]


@pytest.mark.parametrize(("row", "kwargs"), [(r, k) for r in ROWS for k in COMMON_ERRORS + r.errors], ids=ids)
def test_constructor_errors_are_torchs(row: Row, kwargs: dict) -> None:
    """An optimizer that torch lacks has the texts of torch's other optimizers."""
    with pytest.raises((ValueError, RuntimeError)) as ours:
        row.ours([_param()], **kwargs)
    if row.theirs is not None and row.theirs.__module__.startswith("torch."):
        with pytest.raises((ValueError, RuntimeError)) as theirs:
            row.theirs([_param()], **kwargs)
        assert (ours.type, str(ours.value)) == (theirs.type, str(theirs.value))
    else:
        known = r"Invalid .*: .*|.* should be .* but is: .*|Tensor lr must be 1-element|Nesterov momentum requires .*"
        assert re.fullmatch(known, str(ours.value))


@pytest.mark.parametrize("row", [r for r in ROWS if r.ours in (fastopt.AdaBound, fastopt.Lion)], ids=ids)
def test_group_options_are_checked_too(row: Row) -> None:
    for kwargs in row.errors:
        with pytest.raises(ValueError, match="Invalid"):
            row.ours([{"params": [_param()], **kwargs}])


@pytest.mark.parametrize("params", [[], torch.ones(3), [1.0], [{"params": torch.ones(3, 2) * _param(3, 2)}]], ids=repr)
@TORCH
def test_parameter_list_errors_are_torchs(case: Case, params) -> None:
    with pytest.raises((ValueError, TypeError)) as theirs:
        case.theirs(params)
    with pytest.raises(theirs.type) as ours:
        case.ours(params)
    assert str(ours.value) == str(theirs.value)


@TORCH
def test_signature_is_torchs(case: Case) -> None:
    """Names, order, kinds and defaults are torch's. Our own options are keyword-only and come last."""

    def described(cls: type) -> list[tuple]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(cls).parameters.values()]

    ours, theirs = described(case.ours), described(case.theirs)
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert [p for p in ours if p[1] is positional] == [p for p in theirs if p[1] is positional]
    assert {p for p in theirs if p[1] is not positional} <= set(ours)
    assert {p[0] for p in set(ours) - set(theirs)} <= OWN_OPTIONS


def _with(flag: str) -> pytest.MarkDecorator:
    """Cases whose torch class has the flag."""
    having = [case for case in PLAIN_CASES if flag in inspect.signature(case.ours).parameters]
    return pytest.mark.parametrize("case", having, ids=ids)


@_with("differentiable")
def test_differentiable_is_not_supported(case: Case) -> None:
    flag = "differentiable"
    message = f"fastopt.{case.ours.__name__} does not support {flag}=True"
    with pytest.raises(RuntimeError, match=message):
        case.ours([_param()], **{flag: True})
    with pytest.raises(RuntimeError, match=message):
        case.ours([{"params": [_param()], flag: True}])
    optimizer = case.make([_param()])
    state = optimizer.state_dict()
    state["param_groups"][0][flag] = True
    with pytest.raises(RuntimeError, match=message):
        optimizer.load_state_dict(state)
    assert not optimizer.param_groups[0][flag]
    optimizer.param_groups[0][flag] = True
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()


@_with("capturable")
def test_capturable_is_for_devices(case: Case) -> None:
    param = _param()
    param.grad, before = torch.ones(3), param.detach().clone()
    optimizer = case.make([param], capturable=True)
    with pytest.raises(
        RuntimeError, match=r"parameter 0 of group 0 .* is on device 'cpu'; capturable=True is for CUDA"
    ):
        optimizer.step()
    assert torch.equal(param, before)
    assert not optimizer.state[param]


@pytest.mark.parametrize(
    "flags", [dict(foreach=True), dict(foreach=False), dict(fused=True), dict(fused=False)], ids=repr
)
@CASES
def test_flags_that_change_nothing(case: Case, flags: dict) -> None:
    if not set(flags) <= set(inspect.signature(case.ours).parameters):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(flags))}'"):
            case.make([_param()], **flags)
        return
    params = [_param(), _param()]
    for param, extra in zip(params, ({}, flags), strict=True):
        optimizer = case.make([param], **extra)
        for _ in range(3):
            param.grad = torch.full((3,), 0.5)
            optimizer.step()
    assert torch.equal(*params)


@pytest.mark.parametrize("l1", [-1.0, float("nan")])
def test_l1_out_of_range(l1: float) -> None:
    with pytest.raises(ValueError, match=f"Invalid l1 value: {l1}"):
        fastopt.Adam([_param()], l1=l1)
    with pytest.raises(ValueError, match=f"Invalid l1 value: {l1}"):
        fastopt.Adam([{"params": [_param()], "l1": l1}])


class _Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, requires_grad=True)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args = [a.inner if isinstance(a, cls) else a for a in args]
        return func(*args, **(kwargs or {}))


def _bad(kind: str) -> torch.Tensor:
    """A parameter that cannot be updated because of its gradient, type or memory."""
    param = _param(4, 3)
    if kind == "sparse gradient":
        param.grad = torch.ones(4, 3).to_sparse()
    elif kind == "sparse csr":
        param = torch.ones(4, 3).to_sparse_csr().requires_grad_()
        param.grad = torch.ones(4, 3).to_sparse_csr()
    elif kind == "sparse":
        param = torch.ones(4, 3).to_sparse().requires_grad_()
        param.grad = torch.ones(4, 3).to_sparse()
    elif kind == "meta":
        param = torch.ones(4, 3, device="meta", requires_grad=True)
        param.grad = torch.ones(4, 3, device="meta")
    elif kind == "wrapper subclass":
        param = _Wrapper(torch.ones(4, 3))
        param.grad = torch.ones(4, 3)
    elif kind == "float8":
        param = torch.ones(4, 3).to(torch.float8_e4m3fn).requires_grad_()
        param.grad = torch.ones(4, 3).to(torch.float8_e4m3fn)
    elif kind == "complex32":
        param = torch.ones(4, 3).to(torch.complex32).requires_grad_()
        param.grad = torch.ones(4, 3).to(torch.complex32)
    return param


BAD = {
    "sparse gradient": "does not support sparse gradients.*{culprit}",
    "sparse csr": "does not support gradients of layout torch.sparse_csr .*{culprit}",
    "sparse": "(does not support sparse gradients.*{culprit}|{culprit} has layout torch.sparse_coo)",
    "meta": "{culprit} is on device 'meta'",
    "wrapper subclass": "{culprit} is a _Wrapper, whose memory fastopt cannot update",
    "float8": "{culprit} has dtype torch.float8_e4m3fn",
    "complex32": "{culprit} has dtype torch.complex32",
}


# Some optimizers take sparse gradients, and torch itself refuses to build an Adagrad for some parameters.
BAD_ROWS = [
    (case, kind)
    for case in PLAIN_CASES
    for kind in BAD
    if not (case.row.sparse and kind == "sparse gradient")
    and not (case.ours is fastopt.Adagrad and kind in ("sparse", "sparse csr", "float8"))
]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta", "ignore:ComplexHalf support")
@BACKENDS
@pytest.mark.parametrize(("case", "kind"), BAD_ROWS, ids=ids)
def test_bad_parameters(case: Case, kind: str, backend: str) -> None:
    good, culprit = _param(), _bad(kind)
    good.grad = torch.ones(3)
    optimizer = case.make(named(good=good, culprit=culprit))
    before = states_of(optimizer)
    message = "does not support complex" if case.row.factored and "complex" in kind else BAD[kind]
    with running(backend), pytest.raises((RuntimeError, TypeError), match=message.format(culprit=called("culprit"))):
        optimizer.step()
    assert (good == 1).all()
    assert good._version == 0
    assert_same_states(optimizer, before)


@BACKENDS
@CASES
def test_unnamed_parameters_are_called_by_their_place(case: Case, backend: str) -> None:
    optimizer = case.make([{"params": [_param()]}, {"params": [_param(), _bad("meta")]}])
    with running(backend), pytest.raises(RuntimeError, match=r"parameter 1 of group 1 \(shape \(4, 3\)\)"):
        optimizer.step()


def _wrong_shape(state: dict, key: str) -> None:
    state[key] = torch.zeros(2)


def _wrong_type(state: dict, key: str) -> None:
    state[key] = state[key].double()


def _missing(state: dict, key: str) -> None:
    del state[key]


def _not_a_tensor(state: dict, key: str) -> None:
    state[key] = [0.0] * 3


BAD_STATES = {
    _wrong_shape: r"the state '{key}' of {culprit} is torch.float32 of shape \(2,\)",
    _wrong_type: r"the state '{key}' of {culprit} is torch.float64 of shape \(3,\)",
    _missing: "the state of {culprit} has no '{key}'",
    _not_a_tensor: "the state '{key}' of {culprit} is a list",
}


# If an optimizer counts no steps and its only state is missing, the parameter is a fresh one, as in torch.
BAD_STATE_ROWS = [
    (case, spoil)
    for case in PLAIN_CASES
    for spoil in BAD_STATES
    if spoil is not _missing or case.ours not in (fastopt.SGD, fastopt.Lion, fastopt.LARS, fastopt.ScheduleFreeSGD)
]


@BACKENDS
@pytest.mark.parametrize(("case", "spoil"), BAD_STATE_ROWS, ids=lambda v: getattr(v, "__name__", None) or v.id)
def test_bad_states(case: Case, spoil, backend: str) -> None:
    good, culprit = _param(), _param()
    optimizer = case.make(named(good=good, culprit=culprit))
    with running(backend):
        good.grad = culprit.grad = torch.ones(3)
        optimizer.step()
        keys = [k for k in optimizer.state[culprit] if k != "step"]
        spoil(optimizer.state[culprit], keys[-1])
        before = good.detach().clone()
        with pytest.raises(
            (RuntimeError, TypeError), match=BAD_STATES[spoil].format(key=keys[-1], culprit=called("culprit"))
        ):
            optimizer.step()
    assert torch.equal(good, before)
    if "step" in optimizer.state[good]:
        assert optimizer.state[good]["step"].item() == 1


@BACKENDS
@pytest.mark.parametrize("count", [-1.0, 0.5, float("nan")])
def test_bad_step(count: float, backend: str) -> None:
    param = _param()
    param.grad = torch.ones(3)
    optimizer = fastopt.Adam([param])
    with running(backend):
        optimizer.step()
        optimizer.state[param]["step"].fill_(count)
        with pytest.raises(RuntimeError, match=r"the state 'step' of parameter 0 of group 0 .* not a count"):
            optimizer.step()


def test_error_in_a_hyperparameter_leaves_everything() -> None:
    param = _param()
    param.grad = torch.ones(3)
    optimizer = fastopt.Adam([param])
    optimizer.param_groups[0]["eps"] = "small"
    with pytest.raises(TypeError):
        optimizer.step()
    assert (param == 1).all()
    optimizer.param_groups[0]["eps"] = 1e-8
    optimizer.step()
    assert (param < 1).all()


def test_errors_of_the_user_are_the_users() -> None:
    """An error in a subclass's own code is raised as it is."""

    class Own(fastopt.Adam):
        def _scalars(self, group, t, *carried):
            raise ValueError("my own message")

        def __init__(self, params, depth=1, **kwargs):
            super().__init__(params, **kwargs)

    param = _param()
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match="my own message"):
        Own([param]).step()
    assert list(inspect.signature(Own).parameters) == ["params", "depth", "kwargs"]


@BACKENDS
def test_subclasses_are_refused_before_they_are_asked_anything(backend: str) -> None:
    """A subclass whose own code would raise an error gets ours."""

    class Mute(_Wrapper):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is torch.Tensor.is_neg:
                raise NotImplementedError("not asked")
            return super().__torch_function__(func, types, args, kwargs or {})

    param = Mute(torch.ones(3))
    param.grad = torch.ones(3)
    with running(backend), pytest.raises(TypeError, match="is a Mute, whose memory fastopt cannot update"):
        fastopt.SGD([param], lr=0.5).step()


@BACKENDS
def test_plain_subclasses_of_tensor_are_updated(backend: str) -> None:
    """A subclass that only carries attributes has memory like any tensor."""

    class Named(torch.nn.Parameter):
        pass

    param = Named(torch.ones(3))
    param.grad = torch.ones(3)
    with running(backend):
        fastopt.SGD([param], lr=0.5).step()
    assert (param == 0.5).all()
