"""Private names of torch that fastopt uses: all are in the table of docs/versions.md, and this torch has them."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from doc_pages import PAGES, ROOT

HEADING = "\n## Private names of torch\n"
LISTED = re.findall(
    r"`([\w.]*\._?\w+)`",
    "".join(
        line.split("|")[2]
        for line in PAGES["versions.md"].read_text().split(HEADING)[1].splitlines()
        if line[:2] == "| "
    ),
)
# If this torch lacks one of these, there is a replacement.
REPLACED = {
    "torch._C._increment_version",
    "torch._C._dynamo.eval_frame._FrameExecStrategy",
    "torch._C._dynamo.eval_frame._FrameAction",
    "torch._C._dynamo.eval_frame.set_code_exec_strategy",
    "torch._disable_dynamo",
    "torch._inductor.decomposition",
    "torch.optim.optimizer._global_optimizer_pre_hooks",
    "torch.optim.optimizer._global_optimizer_post_hooks",
    "torch.autograd._profiler_enabled",
    "torch._C._cuda_getCurrentRawStream",
    "torch.ops.aten._safe_softmax",
    "torch._C._autograd._top_saved_tensors_default_hooks",
    "torch.nn.modules.module._has_any_global_hook",
}


def _private(path: str) -> bool:
    return any(part[0] == "_" and part[:2] != "__" for part in path.split("."))


def _keys(node: ast.AST) -> list[str]:
    """The keys in ``getattr(x, key)``, ``x.get(key)`` and ``x.__dict__[key]``."""
    given = node.args[:2] if isinstance(node, ast.Call) else [node.slice] if isinstance(node, ast.Subscript) else []
    values = [str(one.value) for one in given if isinstance(one, ast.Constant)]
    return [value for value in values if re.fullmatch(r"_[a-z]\w*[a-z]", value)]


class _Module:
    """One file: the names in it that stand for something of torch."""

    def __init__(self, tree: ast.Module) -> None:
        self.names: dict[str, str] = {}
        self.nodes = list(ast.walk(tree))
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for name in node.names:
                    self.names[name.asname or name.name.split(".")[0]] = (
                        name.name if name.asname else name.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                for name in node.names:
                    self.names[name.asname or name.name] = f"{node.module}.{name.name}"
        for node in self.nodes:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                path = self.path(node.value)
                if path and isinstance(target, ast.Name):
                    self.names[target.id] = path

    def path(self, node: ast.AST) -> str | None:
        """The dotted name of an expression, if its first part was imported."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.path(node.value)
            return f"{base}.{node.attr}" if base else None
        literal = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr"
        if literal and isinstance(node.args[1], ast.Constant):
            base = self.path(node.args[0])
            return f"{base}.{node.args[1].value}" if base else None
        return None

    def used(self) -> Iterator[str]:
        """Names that begin with torch; for attributes of other objects, a dot and the last part."""
        yield from self.names.values()
        for node in self.nodes:
            path = self.path(node)
            if path:
                yield path
            elif isinstance(node, ast.Attribute):
                yield f".{node.attr}"
            if not path:
                for key in _keys(node):
                    yield f".{key}"

    def defined(self) -> Iterator[str]:
        for node in self.nodes:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            ):
                yield node.attr


def _used() -> set[str]:
    modules = [_Module(ast.parse(path.read_text())) for path in (ROOT / "python" / "fastopt").rglob("*.py")]
    own = {f".{name}" for module in modules for name in module.defined()}
    found = {name for module in modules for name in module.used()}
    found = {
        name for name in found if name.startswith(("torch.", ".")) and name not in own and _private(name.strip("."))
    }
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def _shortened(name: str) -> str:
    """The name as the table has it: a listed name that it begins with, or for objects' attributes the last part."""
    for listed in LISTED:
        if name == listed or name.startswith(f"{listed}."):
            return listed
        if name[0] == "." and listed.endswith(name):
            return listed
    return name


def test_all_is_listed() -> None:
    assert len(LISTED) == len(set(LISTED)) > 40
    assert {_shortened(name) for name in _used()} == set(LISTED)


INSTANCES: dict[str, Any] = {
    "torch.optim.Optimizer": lambda: torch.optim.SGD([torch.ones(1)], lr=0.1),
    "optimizer": lambda: _scheduled(),
    "scaler": lambda: torch.amp.GradScaler("cpu"),
    "torch.nn.Module": lambda: torch.nn.Linear(1, 1),
    "torch.Tensor": lambda: torch.ones(1).to_sparse(),
}


def _scheduled() -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    return optimizer


def _lambda() -> None:
    """A function for the compiler to mark."""


def _owner(path: str) -> Any:
    if path in INSTANCES:
        return INSTANCES[path]()
    if path == "parameter":
        from torch.distributed.fsdp._common_utils import _set_fsdp_flattened

        flattened = torch.ones(1)
        _set_fsdp_flattened(flattened)
        return flattened
    if path == "function":
        marked = torch.compiler.disable(_lambda)
        torch.compiler.assume_constant_result(_lambda)
        marked._dynamo_marked_constant = _lambda._dynamo_marked_constant  # type: ignore[attr-defined]
        return marked
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            owner = getattr(owner, part)
        return owner
    raise AssertionError(path)


def _has(name: str) -> bool:
    owner, _, last = name.rpartition(".")
    try:
        if hasattr(_owner(owner), last):
            return True
        importlib.import_module(name)
    except (AttributeError, ImportError):
        return False
    return True


@pytest.mark.parametrize("name", [name for name in LISTED if name not in REPLACED])
def test_this_torch_has(name: str) -> None:
    if name == "function._torchdynamo_disable_msg" and not _has(name):
        pytest.skip("this torch's compiler does not say why a function is not compiled")
    if ("distributed" in name or "fsdp" in name) and not torch.distributed.is_available():
        pytest.skip("this torch has no distributed package")
    assert _has(name)


def test_what_is_replaced_is_listed() -> None:
    assert set(LISTED) >= REPLACED


# Tests of the replacements.


def test_versions_are_counted_without_the_private_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt import _compat

    monkeypatch.delattr(torch._C, "_increment_version")
    tensors = [torch.ones(1), torch.ones(1)]
    before = [tensor._version for tensor in tensors]
    monkeypatch.setattr(torch.autograd.graph, "increment_version", lambda many: [t.add_(0) for t in many])
    _compat._increment_version()(tensors)
    assert [tensor._version for tensor in tensors] == [version + 1 for version in before]


def test_what_cannot_be_told_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("fastopt.nn.functional_mode")
    monkeypatch.setattr(module, "_top_hooks", None)
    for way in (module.functional_mode, lambda: module.wrap_forward(torch.nn.Linear(1, 1))):
        with pytest.raises(RuntimeError, match="does not tell what may be run again"):
            way()


def test_hooks_of_all_modules_without_the_private_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.modules import module

    from fastopt import _compat

    monkeypatch.delattr(module, "_has_any_global_hook", raising=False)
    found = _compat._has_any_global_hook()
    assert not found()
    handle = module.register_module_forward_pre_hook(lambda *_: None)
    assert found()
    handle.remove()
    assert not found()


def test_without_marks_for_the_interpreter_functions_are_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt import _compiler

    monkeypatch.setattr(_compiler, "_skip", None)
    monkeypatch.delattr(torch, "_disable_dynamo")
    monkeypatch.setattr(torch.compiler, "disable", lambda function: (function, "disabled"))  # torch's needs that name
    assert _compiler.eager(len) == (len, "disabled")
