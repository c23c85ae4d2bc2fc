"""Sparse gradients for the optimizers that take them in torch: SGD and Adagrad (trap 12)."""

import contextlib
import ctypes
from collections.abc import Iterator

import pytest
import torch

import fastopt
from fastopt.optim._rows import Rows
from support import ISAS, assert_same_bits, running, some_values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
CASES = {
    "SGD": (fastopt.SGD, torch.optim.SGD, {"lr": 0.1}),
    "SGD maximize": (fastopt.SGD, torch.optim.SGD, {"lr": 0.1, "maximize": True}),
    "SGD momentum": (fastopt.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "SGD nesterov": (fastopt.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adagrad": (fastopt.Adagrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1}),
}


def _sparse(seed: int, shape: tuple[int, ...] = (50, 7), dims: int = 1, coalesced: bool = False) -> torch.Tensor:
    """Random rows, one of them twice."""
    generator = torch.Generator().manual_seed(seed)
    where = torch.stack([torch.randint(0, n, (6,), generator=generator) for n in shape[:dims]])
    where[:, 1] = where[:, 0]
    values = some_values((6, *shape[dims:]), torch.float64, seed)
    grad = torch.sparse_coo_tensor(where, values, shape)
    return grad.coalesce() if coalesced else grad


@BACKENDS
@pytest.mark.parametrize("coalesced", [False, True])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_follows_torch(case: str, dims: int, coalesced: bool, backend: str) -> None:
    make, theirs, kwargs = CASES[case]
    p, q = (some_values((50, 7), torch.float64, seed=0).requires_grad_() for _ in range(2))
    one, other = make([p], **kwargs), theirs([q], **kwargs)
    with running(backend):
        for step in range(6):
            p.grad, q.grad = (_sparse(step, dims=dims, coalesced=coalesced) for _ in range(2))
            kept = p.grad.to_dense()
            one.step()
            other.step()
            assert torch.equal(p.grad.to_dense(), kept)
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    for key, state in other.state[q].items():
        mine = one.state[p][key]
        torch.testing.assert_close(mine, state.to_dense() if state.is_sparse else state, rtol=1e-12, atol=1e-14)


def test_rows_that_are_not_touched_keep_their_bits() -> None:
    """That includes NaN, and Adagrad's sums."""
    whole = torch.full((9, 3), torch.nan)
    whole[4] = 1.0
    for make in (fastopt.SGD, fastopt.Adagrad):
        param = whole.clone().requires_grad_()
        optimizer = make([param], lr=0.5)
        param.grad = torch.sparse_coo_tensor(torch.tensor([[4]]), torch.ones(1, 3), (9, 3))
        optimizer.step()
        assert (param[4] < 1).all()
        assert_same_bits(param[:4], whole[:4])
        assert_same_bits(param[5:], whole[5:])
        if "sum" in optimizer.state[param]:
            assert optimizer.state[param]["sum"].count_nonzero() == 3


@BACKENDS
@pytest.mark.parametrize("case", CASES)
def test_embedding_is_trained(case: str, backend: str) -> None:
    """As with dense gradients, it may be trained together with a dense layer, and with max_grad_norm."""
    make, _, kwargs = CASES[case]
    kwargs = {**kwargs, "max_grad_norm": 1.0}
    results = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Embedding(20, 4, sparse=sparse), torch.nn.Linear(4, 2))
        optimizer = make(model.parameters(), **kwargs)
        with running(backend):
            for step in range(4):
                optimizer.zero_grad()
                model(torch.tensor([step, 3, 3, 7])).square().sum().backward()
                optimizer.step()
        results.append([p.detach() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("case", CASES)
def test_native_equals_reference(case: str) -> None:
    make, _, kwargs = CASES[case]

    def run() -> torch.Tensor:
        param = some_values((50, 7), torch.float32, seed=0).t().contiguous().t().requires_grad_()
        optimizer = make([param], **kwargs, max_grad_norm=2.0, max_grad_value=0.5)
        for step in range(4):
            param.grad = _sparse(step).float()
            optimizer.step()
        return param

    with running("reference"):
        expected = run()
    for isa in ISAS:
        with running("native", isa):
            assert_same_bits(run(), expected)


@BACKENDS
@pytest.mark.parametrize("coalesced", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_scaled_training(case: str, coalesced: bool, backend: str) -> None:
    """With GradScaler, a gradient is unscaled once, and its values are written back."""
    make, _, kwargs = CASES[case]
    p, q = (some_values((50, 7), torch.float64, seed=0).requires_grad_() for _ in range(2))
    one, other = make([p], **kwargs), make([q], **kwargs)
    with running(backend):
        for step in range(3):
            q.grad = _sparse(step, coalesced=coalesced)
            p.grad = _sparse(step, coalesced=coalesced) * 8
            p.grad = p.grad.coalesce() if coalesced else p.grad
            one.grad_scale, one.found_inf = torch.tensor(8.0), torch.tensor(0.0)
            one.step()
            other.step()
            torch.testing.assert_close(p.grad.to_dense(), q.grad.to_dense())
    assert_same_bits(p, q)


def test_momentum_of_a_torch_checkpoint() -> None:
    """torch keeps a sparse velocity; ours is dense from the next step on."""
    p, q = (some_values((50, 7), torch.float64, seed=0).requires_grad_() for _ in range(2))
    theirs = torch.optim.SGD([q], lr=0.1, momentum=0.9)
    for step in range(2):
        q.grad = _sparse(step)
        theirs.step()
    p.data.copy_(q.data)
    ours = fastopt.from_torch(theirs)
    ours.param_groups[0]["params"][0] = p
    ours.state[p] = dict(ours.state.pop(q))
    p.grad, q.grad = _sparse(5), _sparse(5)
    ours.step()
    theirs.step()
    torch.testing.assert_close(p, q)


def test_expanded_parameters_are_an_error() -> None:
    param = torch.zeros(1, 3).expand(4, 3).detach().requires_grad_()
    optimizer = fastopt.SGD([param], lr=1.0)
    param.grad = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.ones(2, 3), (4, 3))
    with pytest.raises(RuntimeError, match=r"parameter 0 .* is an expanded or overlapping tensor"):
        optimizer.step()
    assert (param == 0).all()


@pytest.mark.parametrize("option", ["weight_decay", "l1"])
@pytest.mark.parametrize("make", [fastopt.SGD, fastopt.Adagrad])
def test_penalties_are_an_error(make, option: str) -> None:
    param = torch.ones(50, 7, dtype=torch.float64, requires_grad=True)
    optimizer = make([param], **{option: 0.1})
    param.grad = _sparse(0)
    with pytest.raises(RuntimeError, match=f"{option} option is not compatible with sparse gradients"):
        optimizer.step()
    assert (param == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [1, 40, 3000])  # few rows are sorted in another way than many
def test_rows_are_summed(rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    where = torch.randint(0, 2 * rows, (1, rows), generator=generator) * 1000  # indices of several digits
    shape = (2000 * rows, 5)
    values = some_values((rows, 5), dtype, seed=1)
    values[::3] = -0.0
    grad = torch.sparse_coo_tensor(where, values, shape)
    found = {}
    for backend in ("native", "reference"):
        with running(backend):
            found[backend] = Rows(grad, "it")
    assert torch.equal(found["native"]._numbers, grad.coalesce().indices()[0])
    assert_same_bits(found["native"].values, found["reference"].values)
    torch.testing.assert_close(found["native"].values, grad.coalesce().values())  # torch adds them in another order


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_threads_takes_the_same_step(case: str) -> None:
    """Enough rows for all threads, many of them several times."""
    make, _, kwargs = CASES[case]
    results = []
    for threads in (1, 2, 3):
        generator = torch.Generator().manual_seed(0)
        p = some_values((3000, 64), torch.float32, seed=0).requires_grad_()
        before, optimizer = p.detach().clone(), make([p], **kwargs)
        for seed in range(2):
            rows = torch.randint(0, 2000, (1, 4000), generator=generator)
            p.grad = torch.sparse_coo_tensor(rows, some_values((4000, 64), torch.float32, seed), p.shape)
            with running(threads=threads):
                optimizer.step()
        touched = (p.detach() != before).all(1)
        assert touched[:2000].sum() > 1900
        assert not touched[2000:].any()
        results.append(p.detach())
    for other in results[1:]:
        assert_same_bits(other, results[0])


@BACKENDS
@pytest.mark.parametrize("case", CASES)
def test_an_index_outside_is_an_error(case: str, backend: str) -> None:
    make, _, kwargs = CASES[case]
    param = torch.ones(4, 3, requires_grad=True)
    optimizer = make([param], **kwargs)
    param.grad = torch.sparse_coo_tensor([[1, 4]], torch.ones(2, 3), (4, 3), check_invariants=False)
    if optimizer._sparse(optimizer.param_groups[0]) == "dense":
        pytest.skip("torch itself makes it dense")
    with running(backend), pytest.raises(RuntimeError, match=r"the gradient of parameter 0 .* has an index outside"):
        optimizer.step()
    assert (param == 1).all()


@contextlib.contextmanager
def exchanges() -> Iterator[list[torch.layout]]:
    """Yields the layouts of the tensors that torch's exchange function is called with."""
    asked = []
    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
    find = ctypes.pythonapi.PyCapsule_GetPointer
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = find(torch.Tensor.__dlpack_c_exchange_api__, b"dlpack_exchange_api")
    place = ctypes.c_void_p.from_address(table + 40)  # dltensor_from_py_object_no_sync, after five words
    address = place.value
    theirs = function(address)

    @function
    def spy(tensor: torch.Tensor, out: int) -> int:
        asked.append(tensor.layout)
        return theirs(tensor, out)

    place.value = ctypes.cast(spy, ctypes.c_void_p).value
    try:
        yield asked
    finally:
        place.value = address


def test_torch_is_not_asked_for_the_memory_of_sparse_gradients() -> None:
    """torch would refuse with a slow C++ exception, so the layout is checked first."""
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch has no exchange function")
    with exchanges() as asked:
        param = torch.ones(4, 3, requires_grad=True)
        optimizer = fastopt.SGD([param], lr=0.1)
        for _ in range(3):
            param.grad = torch.sparse_coo_tensor([[1, 2]], torch.ones(2, 3), (4, 3))
            optimizer.step()
    assert asked
    assert all(layout == torch.strided for layout in asked)
