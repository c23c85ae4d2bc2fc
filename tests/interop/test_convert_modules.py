"""convert and revert: torch's modules become ours, and torch's again, and stay the same objects."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import fastopt
from fastopt import nn
from fastopt.nn.convert import OURS
from support import HAS_FUNCTIONAL_MODE, assert_same_bits, some_values

ARGUMENTS = {
    **{f"BatchNorm{d}d": (3, 1e-3, 0.2) for d in (1, 2, 3)},
    "SyncBatchNorm": (3,),
    **{name: (0.3, True) for name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d")},
    "RMSNorm": (5, 1e-3),
    "LayerNorm": (5, 1e-3),
    "GroupNorm": (2, 4),
    **{f"InstanceNorm{d}d": (3, 1e-3, 0.2, True, True) for d in (1, 2, 3)},
    **{name: (0.3,) for name in ("AlphaDropout", "FeatureAlphaDropout")},
}
SHAPES = {
    "BatchNorm1d": (4, 3, 5),
    "InstanceNorm1d": (4, 3, 5),
    "InstanceNorm3d": (2, 3, 2, 3, 2),
    "GroupNorm": (4, 4, 5),
    "Dropout1d": (4, 3, 5),
    "BatchNorm3d": (2, 3, 2, 3, 2),
    "Dropout3d": (2, 3, 2, 3, 2),
}


def types(model: torch.nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def described(model: torch.nn.Module) -> list[object]:
    """The things that conversion must not change: modules, parameters and buffers by identity, and names."""
    members = [*model.named_modules(), *model.named_parameters(), *model.named_buffers()]
    return [*((name, id(member)) for name, member in members), *model.state_dict(), model.training]


class Block(torch.nn.Module):
    """A block of a ResNet."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        conv, norm = torch.nn.Conv2d, torch.nn.BatchNorm2d
        self.body = torch.nn.Sequential(
            OrderedDict(
                conv1=conv(3, width, 3, padding=1, bias=False),
                bn1=norm(width),
                relu1=torch.nn.ReLU(inplace=True),
                conv2=conv(width, width, 3, padding=1),
                bn2=norm(width),
            )
        )
        self.shortcut = torch.nn.Sequential(conv(3, width, 1), norm(width))
        self.relu = torch.nn.ReLU(inplace=True)
        self.head = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(width * 36, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.body(x) + self.shortcut(x)))


def test_every_torch_module_with_a_twin_is_known() -> None:
    twins = {name for name in nn.__all__ if hasattr(torch.nn, name)} - {"functional", "Sequential"}
    assert {torchs.__name__ for torchs in OURS} == twins
    assert twins == {*ARGUMENTS, *(f"Lazy{kind}Norm{d}d" for kind in ("Batch", "Instance") for d in (1, 2, 3))}
    assert all(ours is getattr(nn, torchs.__name__) for torchs, ours in OURS.items())
    # DistributedDataParallel refuses a torch.nn.SyncBatchNorm on the CPU.
    assert all(issubclass(ours, torchs) or ours is nn.SyncBatchNorm for torchs, ours in OURS.items())


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("training", [True, False])
def test_one_module(name: str, training: bool) -> None:
    """A model may be a single module. In evaluation, and for norms also in training, its results stay the same."""
    module = getattr(torch.nn, name)(*ARGUMENTS[name]).train(training)
    calls: list[str] = []
    module.register_forward_hook(lambda *_: calls.append("forward"))
    module.some_attribute = 3
    before, text, x = described(module), repr(module), some_values(SHAPES.get(name, (4, 3, 5, 5)), torch.float32, 1)
    torchs = copy.deepcopy(module)
    for _ in range(2):  # the second time changes nothing more
        assert nn.convert(module) is module
        assert types(module) == [getattr(nn, name)]
        assert described(module) == before
        assert repr(module) == text
    if not (training and "Dropout" in name):
        assert_close(module(x.clone()), torchs(x.clone()))
        assert_close(module.state_dict(), torchs.state_dict())
        assert calls
    assert nn.revert(nn.revert(module)) is module
    assert types(module) == [getattr(torch.nn, name)]
    assert (described(module), repr(module), module.some_attribute) == (before, text, 3)
    assert vars(module).keys() == vars(torchs).keys()
    if not (training and "Dropout" in name):
        assert_same_bits(module(x.clone()), torchs(x.clone()))


@pytest.mark.parametrize("fuse", [True, False])
def test_a_residual_block(fuse: bool) -> None:
    """Outputs, gradients, running statistics and evaluation stay the same, after convert and after revert."""
    theirs = Block().double()
    model = copy.deepcopy(theirs)
    before, text, kinds = described(model), repr(model), types(model)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nn.convert(model, fuse=fuse)
    assert described(model) == before
    assert [getattr(m, "pairs", list)() for m in (model.body, model.shortcut, model.head)] == (
        [[("bn1", "relu1")], [], [("2", "3")]] if fuse else [[], [], []]
    )
    assert type(model.relu) is torch.nn.ReLU
    assert ("bn1 + relu1 as one" in repr(model.body)) == fuse
    for step in range(3):
        x = some_values((4, 3, 6, 6), torch.float64, step)
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = model(mine), theirs(other)
        assert_close(y, expected)
        y.exp().sum().backward()
        expected.exp().sum().backward()
        assert_close(mine.grad, other.grad)
        for p, q in zip(model.parameters(), theirs.parameters(), strict=True):
            assert_close(p.grad, q.grad)
    assert_close(model.state_dict(), theirs.state_dict())
    assert_close(model.eval()(x), theirs.eval()(x))
    nn.revert(model.train())
    assert (described(model), repr(model), types(model)) == (before, text, kinds)
    assert all(p is q for p, q in zip(parameters, optimizer.param_groups[0]["params"], strict=True))
    assert_same_bits(copy.deepcopy(theirs).eval()(x), theirs(x))


@pytest.mark.parametrize("kind", ["Batch", "Instance"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("there", ["before", "after"])
def test_lazy(dims: int, there: str, kind: str) -> None:
    """It may be converted before or after the first input, which makes it a norm of ours."""
    name = f"Lazy{kind}Norm{dims}d"
    x = some_values(SHAPES.get(f"BatchNorm{dims}d", (4, 3, 5, 5)), torch.float32, 1)
    theirs, ours = (torch.nn.Sequential(getattr(torch.nn, name)(1e-3, 0.2), torch.nn.ReLU()) for _ in range(2))
    if there == "before":
        nn.convert(ours)
        assert type(ours[0]) is getattr(nn, name)
    assert_close(ours(x), theirs(x))
    nn.convert(ours)
    assert type(ours[0]) is getattr(nn, name.removeprefix("Lazy"))
    assert ours.pairs() == [("0", "1")]
    assert_close(ours(x), theirs(x))
    assert_close(ours.state_dict(), theirs.state_dict())
    assert types(nn.revert(ours)) == types(theirs)


def test_lazy_back_to_torchs_before_the_first_input() -> None:
    model = nn.revert(nn.convert(torch.nn.LazyBatchNorm2d()))
    model(torch.randn(2, 3, 4, 4))
    assert type(model) is torch.nn.BatchNorm2d


def test_subclasses_are_left_alone() -> None:
    class Own(torch.nn.BatchNorm2d):
        pass

    class OwnOurs(nn.BatchNorm2d):
        pass

    model = torch.nn.Sequential(Own(3), torch.nn.ReLU(), torch.nn.Tanh(), torch.nn.ReLU(), OwnOurs(3))
    before = types(model)
    assert types(nn.revert(nn.convert(model))) == before


@pytest.mark.parametrize("what", ["activation", "rounding", "DropConnect"])
def test_revert_refuses_and_changes_nothing(what: str) -> None:
    fusable = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU())
    model = nn.convert(torch.nn.Sequential(torch.nn.Dropout(), fusable, torch.nn.Sequential()))
    if what == "activation":
        model[2].append(nn.BatchNorm2d(3, activation="silu"))
    elif what == "rounding":
        model[2].append(nn.RMSNorm(3, round_before_weight=True))
    else:
        model[2].append(nn.DropConnect(torch.nn.Linear(2, 2)))
    before, text, kinds = described(model), repr(model), types(model)
    with pytest.raises(
        ValueError, match=r"module '2.0' (applies silu|rounds before its weight|is a DropConnect): torch has no such"
    ):
        nn.revert(model)
    assert (described(model), repr(model), types(model)) == (before, text, kinds)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_of_a_converted_model(again: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    model, x = nn.convert(Block()).eval(), some_values((2, 3, 6, 6), torch.float32, 1)
    copied = again(model)
    assert types(copied) == types(model)
    assert_same_bits(copied(x), model(x))
    assert_same_bits(nn.revert(copied)(x), nn.revert(model)(x))


def test_state_dicts_of_both_kinds() -> None:
    theirs, ours = Block().train(), nn.convert(Block())
    x = some_values((2, 3, 6, 6), torch.float32, 1)
    theirs(x)
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours.eval()(x), theirs.eval()(x))
    Block().load_state_dict(ours.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiled(training: bool) -> None:
    torch._dynamo.reset()
    model, x = nn.convert(Block()).train(training), some_values((4, 3, 6, 6), torch.float32, 1)
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert_close(compiled(x), eager(x))
    assert_close(model.state_dict(), eager.state_dict())


def test_autocast_and_half() -> None:
    theirs, x = Block().eval(), some_values((2, 3, 6, 6), torch.float32, 1)
    ours = nn.convert(copy.deepcopy(theirs))
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(ours(x), theirs(x), rtol=0.05, atol=0.05)
    assert_close(ours.bfloat16()(x.bfloat16()), theirs.bfloat16()(x.bfloat16()), rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:At pre-dispatch tracing:UserWarning")
def test_exported_and_traced() -> None:
    """torch.fx traces torch's modules as leaves; for ours, a tracer needs to be told."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: torch.nn.Module, name: str) -> bool:
            return type(module) in OURS.values() or super().is_leaf_module(module, name)

    model, x = nn.convert(Block()).eval(), some_values((2, 3, 6, 6), torch.float32, 1)
    assert_close(torch.export.export(model, (x,)).module()(x), model(x))
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    assert_close(traced(x), model(x))


@pytest.mark.parametrize(
    "what",
    [[], (p for p in [torch.ones(2)]), torch.ones(2), None, torch.nn.Linear],
    ids=["list", "generator", "tensor", "None", "class"],
)
@pytest.mark.parametrize(
    "function", [nn.convert, nn.revert, nn.report, nn.DropConnect, partial(fastopt.param_groups, weight_decay=0.1)]
)
def test_what_is_no_model(function: Callable[[object], object], what: object) -> None:
    with pytest.raises(
        TypeError, match=rf"(model|module) has to be a torch\.nn\.Module, but got {type(what).__name__}$"
    ):
        function(what)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fuse": "residual"}, r'fuse has to be True, False or "trace"'),
        ({"fuse": "trace"}, "belong together"),
        ({"example": torch.ones(1)}, "belong together"),
    ],
)
def test_wrong_options_change_nothing(options: dict[str, object], says: str) -> None:
    model = Block()
    kinds = types(model)
    with pytest.raises(ValueError, match=says):
        nn.convert(model, **options)
    assert types(model) == kinds


@pytest.mark.skipif(not HAS_FUNCTIONAL_MODE, reason="this torch does not tell what is run again")
def test_functional() -> None:
    """In training, calls of F.dropout inside a model are ours. revert undoes that, another convert does not."""

    class Calls(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.dropout(self.norm(x), 0.5, self.training)

    model, x = nn.convert(Calls(), functional=True), some_values((8, 3), torch.float32, 1)
    for _ in range(2):
        torch.manual_seed(0)
        y = model(x)
        torch.manual_seed(0)
        assert_same_bits(y, nn.functional.dropout(model.norm(x), 0.5))
        nn.convert(model)
    assert type(model.norm) is nn.BatchNorm1d
    assert type(nn.revert(model)) is Calls
