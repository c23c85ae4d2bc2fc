"""Every operation of the bench computes what its competitors compute, on small inputs, and the check can fail."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

import fastopt

pytest.importorskip("rich", reason="needs the extra 'bench'")
from bench import (
    batch_norm,
    compiled,
    depth,
    dropout,
    monitor,
    muon,
    norms,
    optimizers,
    precision,
    products,
    quasi_newton,
    training,
    zoo,
)
from bench.operation import Array, Case, Input, Maker, Operation, Shape, Step, Tensors, Walk
from bench.stream import WAYS, Stream

CPU = torch.device("cpu")
TABLE = ((33, 17), (20, 17))
MATRICES, MAPS = ((33, 17), (129,)), ((64, 32, 8, 8),)
CODED = ((80, 80), (4096,))  # states of 4096 elements and more are coded
OPERATIONS = [
    *((operation, MATRICES) for operation in (*optimizers.OPERATIONS, *monitor.OPERATIONS)),
    *((operation, TABLE) for operation in muon.OPERATIONS),
    *((operation, TABLE) for operation in quasi_newton.OPERATIONS),
    *((operation, CODED) for operation in precision.OPERATIONS),
    *((operation, TABLE) for operation in optimizers.SPARSE),
    *((operation, MAPS) for operation in (*dropout.OPERATIONS, *batch_norm.OPERATIONS, *norms.OPERATIONS)),
]
# On this input, torch 2.13's fused SGD skips whole vectors of half types, its LayerNorm loses up to 16 % of the
# gradient of a bias, which it adds up in bfloat16, and its LBFGS keeps pairs in bfloat16, which rounding changes.
WRONG = {
    *(("bfloat16", name, "torch fused") for name in ("SGD", "SGD momentum", "SGD Nesterov")),
    *(("bfloat16", f"LBFGS of {pairs} pairs", "torch default") for pairs in (20, 100)),
    *(("bfloat16", f"layer_norm {way}", "torch default") for way in ("backward", "forward + backward")),
}


def test_every_optimizer_is_measured() -> None:
    assert {rule.optimizer for rule in optimizers.RULES.values()} == {cls.__name__ for cls in fastopt.optim.ALL}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("operation", "shapes"), OPERATIONS, ids=[operation.name for operation, _ in OPERATIONS])
def test_all_agree(operation: Operation, shapes: tuple[Shape, ...], dtype: torch.dtype) -> None:
    case = Case(operation, Input("small", shapes, dtype))
    ours = case.outcome("fastopt", CPU)
    for name in operation.others:
        judged = name.startswith("torch ") or dtype == torch.float32  # in half types, packages may differ
        if judged and (str(dtype).removeprefix("torch."), operation.name, name) not in WRONG:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # packages raise their own
                assert case.disagreement(name, ours, CPU) == "", name


# Compiling takes minutes; the models' results can be compared without it.
MODELS = [*training.on_cpu(), *compiled.on_cpu(compile=lambda model: model), *depth.on_cpu()]


@pytest.mark.slow
@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_models_learn_alike(case: Case) -> None:
    if why := case.operation.package and zoo.unusable(case.operation.package):
        pytest.skip(why)
    ours = case.outcome("fastopt", CPU)
    for name in case.operation.others:
        assert case.disagreement(name, ours, CPU) == "", name


def test_products_are_found() -> None:
    """Products are nearly all of a step that only multiplies, and nothing of one without products."""
    a, grad = torch.randn(512, 512, requires_grad=True), torch.ones(512, 512)
    assert products.share(lambda: torch.autograd.grad(a @ a, a, grad)) > 0.3
    images, weight = torch.randn(4, 16, 64, 64), torch.randn(16, 16, 3, 3, requires_grad=True)
    convolved = torch.ones(4, 16, 62, 62)
    assert (
        products.share(lambda: torch.autograd.grad(torch.nn.functional.conv2d(images, weight), weight, convolved)) > 0.3
    )
    assert products.share(lambda: a.exp().sum()) == 0


def wrong(make: Maker) -> Maker:
    """A step whose first tensor gets a wrong result."""

    def build(tensors: Tensors) -> Step:
        if tensors[0].grad is not None:
            tensors[0].grad.neg_()
        step = make(tensors)

        def scaled() -> object:
            result = step()
            if result is None:
                return None
            first, *rest = [result] if isinstance(result, torch.Tensor) else result
            return [1.25 * first, *rest]

        return scaled

    return build


@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (optimizers.operation("Adam"), MATRICES),
        (precision.CODED, CODED),
        (precision.AVERAGE, CODED),
        (dropout.DROPOUT, MAPS),
        (dropout.BACKWARD, MAPS),
        (dropout.DROPOUT2D, MAPS),
        (batch_norm.FUSED["relu"], MAPS),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_another_operation_is_found(operation: Operation, shapes: tuple[Shape, ...]) -> None:
    others = {"torch wrong": wrong(operation.others["torch default"])}
    case = Case(replace(operation, others=others), Input("small", shapes))
    assert "differs" in case.disagreement("torch wrong", case.outcome("fastopt", CPU), CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_that_are_moved(dtype: torch.dtype) -> None:
    size = dtype.itemsize
    expected = {
        (optimizers.operation("SGD"), MATRICES): 3,
        (optimizers.operation("Adam"), MATRICES): 7,
        (optimizers.operation("Adafactor"), MATRICES): 6,
        (optimizers.clip_and_step(), MATRICES): 8,
        (dropout.DROPOUT, MAPS): 2,
        (dropout.IN_PLACE, MAPS): 2,
        (dropout.BOTH, MAPS): 4,
        (dropout.ADD, MAPS): 5,
        (batch_norm.PLAIN, MAPS): 2,
        (batch_norm.BACKWARD, MAPS): 3,
        (batch_norm.FUSED["add relu"], MAPS): 7,
        (norms.operation("rms_norm"), MAPS): 2,
        (norms.operation("add rms_norm", norms.backward), MAPS): 3,
    }
    for (operation, shapes), words in expected.items():
        case = Case(operation, Input("small", shapes, dtype))
        assert case.bytes == words * size * case.input.elements, operation.name


def test_bytes_of_what_is_kept_otherwise() -> None:
    expected = {
        precision.SPLIT: 26,
        precision.MASTER: 30,
        precision.COPY: 30,
        precision.NARROW: 20,
        precision.CODED: 16.5,
        precision.RANDOM: 14,
        precision.AVERAGE: 36,
    }
    assert set(expected) == set(precision.OPERATIONS)
    for operation, size in expected.items():
        dtype = torch.bfloat16 if operation in precision.HALVES else torch.float32
        case = Case(operation, Input("small", CODED, dtype))
        assert case.bytes == size * case.input.elements, operation.name


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_ceiling_goes_through_every_byte_once(threads: int, way: int) -> None:
    """Three updated arrays of different sizes and a written one, in two walks and two passes, one with new memory."""
    stream = Stream(2)
    sizes = [1 << 19, (1 << 18) + 64, 8 * 1001]
    first, second, third = (Array(size) for size in sizes)
    kept, new = Array((1 << 17) + 64), Array(1 << 18, fresh=True)
    traffic = [
        [Walk(updated=(first, second)), Walk(read=(first,), updated=(third,), written=(new, kept))],
        [Walk(read=(second,))],
    ]
    plan = stream.plan(traffic, threads)
    assert plan.threads == threads
    plan.struct.way = way
    plan.tensors[kept].zero_()
    stream.burst(plan)(2)
    assert plan.tensors[kept].view(torch.int64).all()
    for array, size in zip((first, second, third), sizes, strict=True):
        words = plan.tensors[array].view(torch.int64)
        assert len(words) == size // 8
        assert torch.equal(words, torch.full_like(words, 0x0101010101010101 + 2))


def test_torchs_norms_are_compiled_when_they_are_called_for_each_input_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def compile(function: norms.Norm, **how: bool) -> norms.Norm:
        assert how == {"fullgraph": True, "dynamic": False}
        made.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    operation = norms.operation("layer_norm", norms.forward_and_backward, compiled=True)
    assert made == []
    for count, shape in enumerate([(64, 32), (33, 17)], 1):
        case = Case(operation, Input("small", (shape,)))
        assert case.disagreement("torch compiled", case.outcome("fastopt", CPU), CPU) == ""
        assert len(made) == count
